# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Base of everything that is never trained."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cmpf.encoders.linear import InferenceLinear, use_inference_linear
from cmpf.weights.saving import hash_weights

if TYPE_CHECKING:
    from typing_extensions import Self

TRIAL_SIDE = 128  # pixels of the image on which precisions are compared


class FrozenModule(nn.Module):
    """A module whose parameters and buffers nothing changes: no gradients, always in eval mode.

    Subclasses call `freeze()` at the end of their constructor. Calling the module runs `forward` without
    autograd, in the precision of `compute_in`; `train()`, its own or a parent's, leaves it and everything inside it
    in eval mode, so that BatchNorm statistics do not drift.
    """

    def __init__(self) -> None:
        super().__init__()
        self.computes_in: torch.dtype | None = None
        self._weights_hash: str | None = None
        self.register_load_state_dict_post_hook(_forget_hash)  # type: ignore[no-untyped-call]

    def freeze(self) -> None:
        """Switches gradients off and eval mode on, for all that is inside now, and takes the faster linear layers."""
        use_inference_linear(self)
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode whatever `mode` says."""
        return super().train(False)

    def compute_in(self, dtype: torch.dtype | None) -> None:
        """Sets the precision of `forward`.

        Args:
            dtype: torch.bfloat16 = autocast; torch.float32 = no autocast, even inside the caller's; torch.int8 = the
                same with the linear layers of `image_parts` in int8; None = the caller's.
        """
        self.computes_in = dtype
        for part in self.image_parts():
            for layer in part.modules():
                if isinstance(layer, InferenceLinear):
                    layer.int8 = dtype is torch.int8

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs `forward` without autograd, in its own precision."""
        with torch.no_grad(), self._autocast():
            return super().__call__(*args, **kwargs)

    def image_parts(self) -> tuple[nn.Module, ...]:
        """What makes features of images, and may compute in int8."""
        return ()

    def trial(self, image_13HW: Tensor) -> list[Tensor]:
        """Features of a small normalized image, by which precisions are compared; [] = there is no such thing."""
        return []

    def difference_in(self, dtype: torch.dtype) -> float:
        """How far features in a precision are from those in float32, as a share of the largest number; 0 = no trial."""
        before = self.computes_in
        expected, found = (self._trial_in(each) for each in (torch.float32, dtype))
        self.compute_in(before)
        shares = [
            float((a.float() - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True)
        ]
        return float("inf") if any(share != share for share in shares) else max(shares, default=0.0)

    def _trial_in(self, dtype: torch.dtype) -> list[Tensor]:
        self.compute_in(dtype)
        with torch.no_grad(), self._autocast():
            return self.trial(_trial_image().to(next(self.parameters()).device))

    def weights(self) -> Mapping[str, Tensor]:
        """Parameters and buffers under names that stay the same from one CMPF release to the next."""
        return self.state_dict()

    @property
    def weights_hash(self) -> str:
        """SHA-256 of `weights()`; computed at the first use, and again after other weights were loaded."""
        if self._weights_hash is None:
            self._weights_hash = hash_weights(self.weights())
        return self._weights_hash

    def weights_changed(self) -> None:
        """To be called after weights were written in place: the hash that was computed is void."""
        self._weights_hash = None

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.computes_in is None:
            return nullcontext()
        device = next(self.parameters()).device.type
        if self.computes_in is torch.bfloat16:
            return torch.autocast(device, dtype=torch.bfloat16)
        return torch.autocast(device, enabled=False)


def _trial_image() -> Tensor:
    """(1, 3, TRIAL_SIDE, TRIAL_SIDE): waves of several lengths, about as large as normalized pixels."""
    axis = torch.linspace(0, 1, TRIAL_SIDE, device="cpu")
    rows, columns = axis[:, None], axis[None]
    waves = [(5, 3), (17, 11), (2, 29)]
    return torch.stack([(a * rows).sin() + (b * columns + a * rows).cos() for a, b in waves])[None]


def _forget_hash(module: nn.Module, _incompatible_keys: object) -> None:
    if isinstance(module, FrozenModule):
        module.weights_changed()
