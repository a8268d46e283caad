# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Base class of frozen encoders: no gradients, always in eval mode, with a compute dtype of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cmpf.common.tensors import without_autocast
from cmpf.encoders.linear import InferenceLinear, use_inference_linear
from cmpf.weights.saving import hash_weights

if TYPE_CHECKING:
    from typing_extensions import Self

TRIAL_SIDE = 128  # side in pixels of the image on which compute dtypes are compared


class FrozenModule(nn.Module):
    """A module whose parameters and buffers never change in training.

    Subclasses call `freeze()` at the end of their constructor. Calling the module runs `forward` without autograd, in
    `compute_dtype`. `train()`, called on the module or on a parent, leaves the module and its children in eval mode, so
    that BatchNorm statistics do not change.

    Attributes:
        compute_dtype: the dtype set by `set_compute_dtype`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.compute_dtype: torch.dtype | None = None
        self._weights_hash: str | None = None
        self.register_load_state_dict_post_hook(_forget_hash)  # type: ignore[no-untyped-call]

    def freeze(self) -> None:
        """Turns gradients off and eval mode on for all children, and replaces linear layers by InferenceLinear."""
        use_inference_linear(self)
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Keeps eval mode, whatever `mode` is."""
        return super().train(False)

    def set_compute_dtype(self, dtype: torch.dtype | None) -> None:
        """Sets the compute dtype of `forward`.

        Args:
            dtype: torch.bfloat16 = autocast; torch.float32 = no autocast, even inside the caller's; torch.int8 = as
                float32, but with the linear layers of `image_parts` in int8; None = the caller's autocast state.
        """
        self.compute_dtype = dtype
        for part in self.image_parts():
            for layer in part.modules():
                if isinstance(layer, InferenceLinear):
                    layer.int8 = dtype is torch.int8

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs `forward` without autograd, in `compute_dtype`."""
        with torch.no_grad(), self._autocast():
            return super().__call__(*args, **kwargs)

    def image_parts(self) -> tuple[nn.Module, ...]:
        """Modules that compute image features and may run in int8."""
        return ()

    def trial(self, image_13HW: Tensor) -> list[Tensor]:
        """Features of a small normalized image, for comparing compute dtypes; [] = dtypes are not compared."""
        return []

    def difference_in(self, dtype: torch.dtype) -> float:
        """Error of the features computed in a dtype instead of float32.

        Returns:
            The largest absolute difference, divided by the largest float32 magnitude of the same feature map, over
            all maps of `trial`; inf if it is NaN, 0 if there are no maps.
        """
        before = self.compute_dtype
        expected, features = (self._trial_in(trial_dtype) for trial_dtype in (torch.float32, dtype))
        self.set_compute_dtype(before)
        errors = [
            float((a.float() - b).abs().max() / b.abs().max())
            for a, b in zip(features, expected, strict=True)
        ]
        return math.inf if any(math.isnan(error) for error in errors) else max(errors, default=0.0)

    def _trial_in(self, dtype: torch.dtype) -> list[Tensor]:
        self.set_compute_dtype(dtype)
        with torch.no_grad(), self._autocast():
            return self.trial(_trial_image().to(next(self.parameters()).device))

    def weights(self) -> Mapping[str, Tensor]:
        """Parameters and buffers, under names that are stable across CMPF releases."""
        return self.state_dict()

    @property
    def weights_hash(self) -> str:
        """SHA-256 of `weights()`, cached until other weights are loaded."""
        if self._weights_hash is None:
            self._weights_hash = hash_weights(self.weights())
        return self._weights_hash

    def weights_changed(self) -> None:
        """Clears the cached hash; call this after writing weights in place."""
        self._weights_hash = None

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.compute_dtype is None:
            return nullcontext()
        device = next(self.parameters()).device
        if self.compute_dtype is torch.bfloat16:
            return torch.autocast(device.type, dtype=torch.bfloat16)
        return without_autocast(device)


def _trial_image() -> Tensor:
    """(1, 3, TRIAL_SIDE, TRIAL_SIDE): waves of several frequencies, in the range of normalized pixels."""
    axis = torch.linspace(0, 1, TRIAL_SIDE, device="cpu")
    y, x = axis[:, None], axis[None]
    frequencies = [(5, 3), (17, 11), (2, 29)]
    return torch.stack([(a * y).sin() + (b * x + a * y).cos() for a, b in frequencies])[None]


def _forget_hash(module: nn.Module, _incompatible_keys: object) -> None:
    if isinstance(module, FrozenModule):
        module.weights_changed()
