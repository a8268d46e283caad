# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Base of everything that is never trained."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cmpf.encoders.onednn import use_onednn_linear
from cmpf.weights.files import hash_weights

if TYPE_CHECKING:
    from typing_extensions import Self


class FrozenModule(nn.Module):
    """A module whose parameters and buffers nothing changes: no gradients, always in eval mode.

    Subclasses call `freeze()` at the end of their constructor. Calling the module runs `forward` without
    autograd, in the precision of `compute_in`; `train()`, its own or a parent's, leaves it and everything inside it
    in eval mode, so that BatchNorm statistics do not drift.
    """

    def __init__(self) -> None:
        super().__init__()
        self._dtype: torch.dtype | None = None
        self._weights_hash: str | None = None
        self.register_load_state_dict_post_hook(_forget_hash)  # type: ignore[no-untyped-call]

    def freeze(self) -> None:
        """Switches gradients off and eval mode on, for all that is inside now, and takes the faster linear layers."""
        use_onednn_linear(self)
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode whatever `mode` says."""
        return super().train(False)

    def compute_in(self, dtype: torch.dtype | None) -> None:
        """Sets the precision of `forward`.

        Args:
            dtype: torch.bfloat16 = autocast; torch.float32 = no autocast, even inside the caller's; None = the
                caller's.
        """
        self._dtype = dtype

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs `forward` without autograd, in its own precision."""
        with torch.no_grad(), self._autocast():
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

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._dtype is None:
            return nullcontext()
        device = next(self.parameters()).device.type
        return torch.autocast(device, dtype=self._dtype, enabled=self._dtype is not torch.float32)


def _forget_hash(module: nn.Module, _incompatible_keys: object) -> None:
    if isinstance(module, FrozenModule):
        module._weights_hash = None
