# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Small functions on tensors and networks that several packages share."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WITHOUT_FLOAT64 = ("mps",)  # kinds of devices


def resize_bilinear(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize without corner alignment; returns the input itself when the size is right.

    Args:
        maps: (B, C, h, w) float.
        size: (H, W) wanted.
    Returns:
        (B, C, H, W).
    """
    if sizes_agree(maps.shape[-2:], size):
        return maps
    if not torch.compiler.is_exporting() and maps.numel() == 0:  # no masks; torch refuses to resize nothing
        return maps.new_zeros(*maps.shape[:2], *size)
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def sizes_agree(a: Sequence[int], b: Sequence[int]) -> bool:
    """Whether two sizes are the same; in torch.export, where sizes may be symbols, whether they always are.

    Comparing symbols as if they were numbers would tie the exported program to the sizes of its example.
    """
    if torch.compiler.is_exporting():
        from torch.fx.experimental.symbolic_shapes import statically_known_true

        return all(statically_known_true(x == y) for x, y in zip(a, b, strict=True))
    return tuple(a) == tuple(b)


@torch.no_grad()
def move_average(average: Sequence[Tensor], weights: Sequence[Tensor], *, step: int, decay: float) -> None:
    """An average follows weights, in place: average = d * average + (1 - d) * weights.

    Args:
        step: number n of the update, from 1; d is the smaller of `decay` and (1 + n) / (10 + n), so that the average of
            a short training is not held back by the weights that it began with.
        decay: 0 (the weights themselves) .. below 1.
    """
    d = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average), list(weights), 1.0 - d)


def mask_pooling(features_BChw: Tensor, masks_BQHW: Tensor) -> Tensor:
    """Mean of a feature map inside each mask (paper: mask pooling).

    Args:
        features_BChw: feature map.
        masks_BQHW: mask logits of any size; resized to the map, then cut at 0. No gradient flows into them.
    Returns:
        (B, Q, C). A mask without a positive cell gives zeros (1e-8 stands in the denominator).
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
    # Maxima of bytes are vectorised on the CPU, `any` of bool is not (40 times slower).
    masks = masks_NHW.to(torch.uint8)
    return filled_to_boxes(masks.amax(dim=2).bool(), masks.amax(dim=1).bool())


def filled_to_boxes(rows: Tensor, columns: Tensor) -> Tensor:
    """The boxes of masks_to_boxes, from the rows (N, H) and columns (N, W) in which a mask has a pixel."""
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
    """Normalizes images, then zero-pads them at the right and bottom to one common size.

    Args:
        images: B images (3, H, W), any numeric type, RGB, 0..255; sizes may differ.
        mean, std: (3,) in 0..255.
        divisor: the common height and width are multiples of this.
    Returns:
        (B, 3, H, W) float32 batch, and the B sizes (H, W) without padding.
    """
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    height = -(-max(h for h, _ in sizes) // divisor) * divisor
    width = -(-max(w for _, w in sizes) // divisor) * divisor
    batch = torch.zeros(len(images), 3, height, width, device=mean.device)
    for target, image, (h, w) in zip(batch, images, sizes, strict=True):
        pixels = image.to(mean.device, non_blocking=True).float()  # bytes travel, not floats
        target[:, :h, :w] = (pixels - mean[:, None, None]) / std[:, None, None]
    return batch, sizes


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Switches autocast off where a device has it; the meta device, which computes sizes only, has not."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def in_float64(x: Tensor) -> Tensor:
    """The numbers in float64, on the CPU where their device has no such type."""
    return (x.cpu() if x.device.type in WITHOUT_FLOAT64 else x).double()


def device_constant(values: tuple[Any, ...], *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of given numbers, made once for each device: copying it there anew would wait for the device.

    Args:
        values: numbers, or equally long tuples of numbers. The tensor is shared: nothing may write to it.
    """
    if torch.compiler.is_exporting():  # numbers may be symbols, which are no keys
        return torch.tensor(values, dtype=dtype, device=device)
    return _device_constant(values, dtype, device)


@lru_cache(maxsize=256)
def _device_constant(values: tuple[Any, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # Made inside a prediction it would be an inference tensor, with which nothing could be trained later.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


class EvaluationMode:
    """While any thread is inside, a network is in evaluation mode; afterwards each part is in the mode it had."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._training: list[nn.Module] = []

    @contextmanager
    def of(self, network: nn.Module) -> Iterator[None]:
        """The network of one EvaluationMode is always the same."""
        with self._lock:
            if self._inside == 0:
                self._training = [part for part in network.modules() if part.training]
                _set_training(self._training, False)
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    _set_training(self._training, True)
                    self._training = []


def _set_training(parts: Sequence[nn.Module], training: bool) -> None:
    for part in parts:
        part.training = training
