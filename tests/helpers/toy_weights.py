# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""A model of a few numbers that checkpoints can be made of."""

from __future__ import annotations

from torch import Tensor, nn


class WeightsToy(nn.Module):
    """A trained layer with a second name, a BatchNorm, and a frozen encoder."""

    def __init__(self, *, width: int = 3, hashes: dict[str, str] | None = None) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, 2).requires_grad_(False)
        self.layer = nn.Linear(2, width)
        self.norm = nn.BatchNorm1d(width)
        self.alias = self.layer
        self.hashes = {"CLIP RN50": "a" * 64, "SAM vit_b": "b" * 64} if hashes is None else hashes

    def trained_state_dict(self) -> dict[str, Tensor]:
        return {k: v for k, v in self.state_dict().items() if not k.startswith("encoder")}

    def encoder_hashes(self) -> dict[str, str]:
        return self.hashes
