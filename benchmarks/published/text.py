# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Text embeddings as published: every prompt is padded to the context length of 77 tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

BATCH = 128


@torch.no_grad()
def encode_text(model: Any, tokenizer: Any, prompts: Sequence[str], device: torch.device) -> Tensor:
    """(N, E), not normalized, by OpenCLIP's own text tower."""
    parts = []
    for start in range(0, len(prompts), BATCH):
        tokens = tokenizer(list(prompts[start : start + BATCH])).to(device)
        parts.append(model.encode_text(tokens))
    return torch.cat(parts)
