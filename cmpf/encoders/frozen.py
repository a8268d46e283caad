# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Base of everything that is never trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cmpf.encoders.weights import hash_weights

if TYPE_CHECKING:
    from typing_extensions import Self


class FrozenModule(nn.Module):
    """A module whose parameters and buffers nothing changes: no gradients, always in eval mode.

    Subclasses call `freeze()` at the end of their constructor. Calling the module runs `forward` without
    autograd; `train()`, its own or a parent's, leaves it and everything inside it in eval mode, so that
    BatchNorm statistics do not drift.
    """

    def __init__(self) -> None:
        super().__init__()
        self._weights_hash: str | None = None
        self.register_load_state_dict_post_hook(_forget_hash)  # type: ignore[no-untyped-call]

    def freeze(self) -> None:
        """Switches gradients off and eval mode on, for all that is inside now."""
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode whatever `mode` says."""
        return super().train(False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs `forward` without autograd."""
        with torch.no_grad():
            return super().__call__(*args, **kwargs)

    def weights(self) -> Mapping[str, Tensor]:
        """Parameters and buffers under names that stay the same from one CMPF release to the next."""
        return self.state_dict()

    @property
    def weights_hash(self) -> str:
        """SHA-256 of `weights()`; computed at the first use, and again after other weights were loaded."""
        if self._weights_hash is None:
            self._weights_hash = hash_weights(self.weights())
        return self._weights_hash


def _forget_hash(module: nn.Module, _incompatible_keys: object) -> None:
    if isinstance(module, FrozenModule):
        module._weights_hash = None
