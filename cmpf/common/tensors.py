# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Functions on tensors and modules that several packages share."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WITHOUT_FLOAT64 = ("mps",)  # device types


def find_device(name: str) -> torch.device:
    """The device of a name as in MODEL.DEVICE; "auto" = CUDA if available, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def resize_bilinear(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize without corner alignment; returns the input itself if it already has the size.

    Args:
        maps: (B, C, h, w) float.
        size: (H, W).
    Returns:
        (B, C, H, W).
    """
    if sizes_agree(maps.shape[-2:], size):
        return maps
    if not torch.compiler.is_exporting() and maps.numel() == 0:  # interpolate() rejects empty inputs
        return maps.new_zeros(*maps.shape[:2], *size)
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def sizes_agree(a: Sequence[int], b: Sequence[int]) -> bool:
    """Whether two sizes are equal; during torch.export, whether symbolic sizes are equal for all inputs.

    Comparing symbolic sizes with == would specialize the exported program to the sizes of its example.
    """
    if torch.compiler.is_exporting():
        from torch.fx.experimental.symbolic_shapes import statically_known_true

        return all(statically_known_true(x == y) for x, y in zip(a, b, strict=True))
    return tuple(a) == tuple(b)


@torch.no_grad()
def move_average(average: Sequence[Tensor], weights: Sequence[Tensor], *, step: int, decay: float) -> None:
    """Updates an exponential moving average in place: average = d * average + (1 - d) * weights.

    Args:
        average: the tensors to update.
        weights: the current weights, in the same order.
        step: number n of the update, from 1; d = min(decay, (1 + n) / (10 + n)), so that early updates are not
            dominated by the initial weights.
        decay: in [0, 1); 0 = the weights themselves.
    """
    d = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average), list(weights), 1.0 - d)


def mask_pooling(features_BChw: Tensor, masks_BQHW: Tensor) -> Tensor:
    """Mean of a feature map inside each mask (paper: mask pooling).

    Args:
        features_BChw: feature map.
        masks_BQHW: mask logits of any size, resized to the feature map and thresholded at 0; they get no gradient.
    Returns:
        (B, Q, C); zeros for an empty mask, as the denominator is area + 1e-8.
    """
    logits = resize_bilinear(masks_BQHW.detach(), (features_BChw.shape[-2], features_BChw.shape[-1]))
    inside = (logits > 0).to(features_BChw.dtype)
    area = inside.sum(dim=(-2, -1))[..., None] + 1e-8
    return torch.einsum("bchw,bqhw->bqc", features_BChw, inside) / area


def masks_to_boxes(masks_NHW: Tensor) -> Tensor:
    """Tight boxes around masks.

    Args:
        masks_NHW: (N, H, W) bool.
    Returns:
        (N, 4) float32 (x0, y0, x1, y1), x1 and y1 one past the last pixel; zeros for an empty mask.
    """
    if masks_NHW.numel() == 0:
        return torch.zeros(masks_NHW.shape[0], 4, device=masks_NHW.device)
    # On the CPU, amax of uint8 is vectorized; any() of bool is not and takes 40 times as long.
    masks = masks_NHW.to(torch.uint8)
    return filled_to_boxes(masks.amax(dim=2).bool(), masks.amax(dim=1).bool())


def filled_to_boxes(rows: Tensor, columns: Tensor) -> Tensor:
    """The boxes of masks_to_boxes from projections: whether a mask has a pixel in each row (N, H) and column (N, W)."""
    height, width = rows.shape[1], columns.shape[1]
    y = torch.arange(height, device=rows.device)
    x = torch.arange(width, device=rows.device)
    x0 = torch.where(columns, x, width).amin(dim=1)
    y0 = torch.where(rows, y, height).amin(dim=1)
    x1 = torch.where(columns, x + 1, 0).amax(dim=1)
    y1 = torch.where(rows, y + 1, 0).amax(dim=1)
    boxes = torch.stack([x0, y0, x1, y1], dim=1).float()
    return boxes * rows.any(dim=1)[:, None]


def normalize_and_pad(
    images: list[Tensor], *, mean: Tensor, std: Tensor, divisor: int
) -> tuple[Tensor, list[tuple[int, int]]]:
    """Normalizes images and zero-pads them at the right and bottom to a common size.

    Args:
        images: B images (3, H, W), any numeric dtype, RGB in 0..255; sizes may differ.
        mean: (3,) in 0..255.
        std: (3,) in 0..255.
        divisor: the common height and width are multiples of it.
    Returns:
        (B, 3, H, W) float32 batch, and the B sizes (H, W) without padding.
    """
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    height = -(-max(h for h, _ in sizes) // divisor) * divisor
    width = -(-max(w for _, w in sizes) // divisor) * divisor
    batch = torch.zeros(len(images), 3, height, width, device=mean.device)
    for target, image, (h, w) in zip(batch, images, sizes, strict=True):
        pixels = image.to(mean.device, non_blocking=True).float()  # copy uint8, not float32, to the device
        target[:, :h, :w] = (pixels - mean[:, None, None]) / std[:, None, None]
    return batch, sizes


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Disables autocast; does nothing on devices that do not support it, such as meta."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def in_float64(x: Tensor) -> Tensor:
    """Converts to float64, on the CPU if the device does not support it."""
    return (x.cpu() if x.device.type in WITHOUT_FLOAT64 else x).double()


def device_constant(values: tuple[Any, ...], *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A constant tensor, cached per device: each new copy to a device would synchronize with it.

    Args:
        values: numbers, or tuples of equal length.
        dtype: dtype of the tensor.
        device: device of the tensor.
    Returns:
        A shared tensor that must not be modified.
    """
    if torch.compiler.is_exporting():  # values may be symbolic, which the cache cannot use as keys
        return torch.tensor(values, dtype=dtype, device=device)
    return _device_constant(values, dtype, device)


@lru_cache(maxsize=256)
def _device_constant(values: tuple[Any, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # An inference tensor, created during a prediction, could not be used in training later.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


class EvaluationMode:
    """Keeps a network in evaluation mode while any thread uses it, then restores the mode of each module."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._training: list[nn.Module] = []

    def __reduce__(self) -> tuple[type[EvaluationMode], tuple[()]]:
        """A copy of the network has no users yet, and a lock cannot be copied."""
        return EvaluationMode, ()

    @contextmanager
    def of(self, network: nn.Module) -> Iterator[None]:
        """A context with the network in evaluation mode; must always get the same network."""
        with self._lock:
            if self._users == 0:
                self._training = [module for module in network.modules() if module.training]
                _set_training(self._training, False)
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    _set_training(self._training, True)
                    self._training = []


def _set_training(modules: Sequence[nn.Module], training: bool) -> None:
    for module in modules:
        module.training = training
