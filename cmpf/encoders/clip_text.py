# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""CLIP's text tower at any length up to its context length."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def end_positions(model: Any, tokens_NL: Tensor) -> Tensor:
    """Where each text's end token stands, the position at which its embedding is read.

    Args:
        model: OpenCLIP's `CLIP` or `CustomTextCLIP`.
        tokens_NL: int64, padded after the end token.
    Returns:
        (N,) int64.
    """
    _, pool, end = _tower(model)
    if pool == "eos":
        return (tokens_NL == end).int().argmax(dim=-1)
    return tokens_NL.argmax(dim=-1)  # the end token is the highest of the vocabulary


def encode_tokens(model: Any, tokens_NL: Tensor) -> Tensor:
    """Text embeddings, the same as the model's own `encode_text` of the tokens padded to the context length.

    The tower is only read: positions and causal mask are cut to the length of the tokens, nothing is stored,
    so that threads may share it.

    Args:
        model: OpenCLIP's `CLIP` or `CustomTextCLIP` with a causal text tower.
        tokens_NL: int64, L <= context length, the end token of every text included.
    Returns:
        (N, E), not normalized.
    """
    tower, _, _ = _tower(model)
    length = tokens_NL.shape[1]
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(tokens_NL).to(dtype) + tower.positional_embedding[:length].to(dtype)
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    rows = torch.arange(len(tokens_NL), device=tokens_NL.device)
    x = tower.ln_final(x[rows, end_positions(model, tokens_NL)])
    projection = tower.text_projection
    if projection is None:
        embeddings: Tensor = x
    elif isinstance(projection, nn.Linear):
        embeddings = projection(x)
    else:
        embeddings = x @ projection
    return embeddings


def _tower(model: Any) -> tuple[Any, str, int]:
    """The module that holds the text tower's parts, how it pools, and its end token."""
    if hasattr(model, "text"):
        return model.text, model.text.pool_type, model.text.eos_id
    return model, model.text_pool_type, model.text_eos_id
