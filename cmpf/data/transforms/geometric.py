# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Augmentations and resizes, applied to an image and its label maps together.

The image is resized bilinearly, label maps take the nearest pixel. What a crop leaves empty is filled with
the pad values that the image carries, so that no augmentation needs to know what kind of labels it moves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cmpf.formats.image import RGB, shortest_edge_size

Labels: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class LabeledImage:
    """An image with what must move along with it.

    image: (H, W, 3) uint8 RGB. labels: (..., H, W), one map or a stack of them; None = no ground truth.
    image_pad, label_pad: values outside of the image.
    """

    image: RGB
    labels: Labels | None
    image_pad: int
    label_pad: int

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.image.shape[0], self.image.shape[1]


Augmentation: TypeAlias = Callable[[LabeledImage, np.random.Generator], LabeledImage]


@dataclass(frozen=True)
class Window:
    """A part of an image: rows top .. top + height, columns left .. left + width, in pixels."""

    top: int
    left: int
    height: int
    width: int


class RandomHorizontalFlip:
    """Mirrors left and right with the given probability."""

    def __init__(self, *, probability: float = 0.5) -> None:
        self.probability = probability

    def __call__(self, labeled: LabeledImage, rng: np.random.Generator) -> LabeledImage:
        if rng.random() >= self.probability:
            return labeled
        labels = None if labeled.labels is None else labeled.labels[..., ::-1]
        return replace(labeled, image=labeled.image[:, ::-1], labels=labels)


class Resize:
    """Resizes to a fixed size (H, W), whatever the proportions."""

    def __init__(self, *, size: tuple[int, int]) -> None:
        self.size = size

    def __call__(self, labeled: LabeledImage, rng: np.random.Generator) -> LabeledImage:
        return resize(labeled, self.size)


class ResizeShortestEdge:
    """Sets the shorter side to `short_side`, or less where the longer one would exceed `max_side`."""

    def __init__(self, *, short_side: int, max_side: int) -> None:
        self.short_side = short_side
        self.max_side = max_side

    def __call__(self, labeled: LabeledImage, rng: np.random.Generator) -> LabeledImage:
        height, width = labeled.size
        size = shortest_edge_size(height, width, short_side=self.short_side, max_side=self.max_side)
        return resize(labeled, size)


class LargeScaleJitter:
    """Resizes by a random factor relative to fitting a square, then crops or pads to that square.

    The factor is uniform in [min_scale, max_scale]; at 1 the longer side just fits. A larger image is
    cropped at a uniform place, a smaller one stands in the upper left corner (as in COCO panoptic training).
    """

    def __init__(self, *, size: int, min_scale: float, max_scale: float, shared_offset: bool = False) -> None:
        """
        Args:
            size: side of the square in pixels.
            min_scale, max_scale: 0 < min_scale <= max_scale.
            shared_offset: one random number places the crop in both axes, as Detectron2's FixedSizeCrop does, so
                that it moves along the diagonal alone; False = each axis has its own.
        """
        self.size = size
        self.min_scale = min_scale
        self.max_scale = max_scale
        self.shared_offset = shared_offset

    def __call__(self, labeled: LabeledImage, rng: np.random.Generator) -> LabeledImage:
        ratio = rng.uniform(self.min_scale, self.max_scale) * self.size / max(labeled.size)
        height, width = (max(1, round(side * ratio)) for side in labeled.size)
        top, left = self._offset((max(height - self.size, 0), max(width - self.size, 0)), rng)
        window = Window(top, left, height=min(height, self.size), width=min(width, self.size))
        return pad(resize(labeled, (height, width), window), (self.size, self.size))

    def _offset(self, free: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
        """(top, left) of the crop, of `free` pixels (H, W) that the image is larger than it."""
        if self.shared_offset:
            share = rng.uniform()
            return round(free[0] * share), round(free[1] * share)
        return int(rng.integers(0, free[0], endpoint=True)), int(rng.integers(0, free[1], endpoint=True))


def resize(labeled: LabeledImage, size: tuple[int, int], window: Window | None = None) -> LabeledImage:
    """The window (None = all) of the image resized to (H, W); only what the window shows is computed."""
    if window is None:
        window = Window(0, 0, *size)
    if labeled.size == size == (window.height, window.width):
        return labeled
    labels = None if labeled.labels is None else _resize_nearest(labeled.labels, size, window)
    return replace(labeled, image=_resize_bilinear(labeled.image, size, window), labels=labels)


def pad(labeled: LabeledImage, size: tuple[int, int]) -> LabeledImage:
    """Fills up to (H, W) at the right and at the bottom; a side that is large enough stays."""
    down, right = (max(0, wanted - side) for wanted, side in zip(size, labeled.size, strict=True))
    if down == right == 0:
        return labeled
    image = np.pad(labeled.image, ((0, down), (0, right), (0, 0)), constant_values=labeled.image_pad)
    labels = labeled.labels
    if labels is not None:
        still = ((0, 0),) * (labels.ndim - 2)
        labels = np.pad(labels, (*still, (0, down), (0, right)), constant_values=labeled.label_pad)
    return replace(labeled, image=image, labels=labels)


def _resize_bilinear(image: RGB, size: tuple[int, int], window: Window) -> RGB:
    """Antialiased when it shrinks, as Pillow does it."""
    height, width = image.shape[:2]
    y, x = height / size[0], width / size[1]  # pixels of the original a pixel of the result
    box = (
        window.left * x,
        window.top * y,
        min(width, (window.left + window.width) * x),
        min(height, (window.top + window.height) * y),
    )
    source = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(source.resize((window.width, window.height), Image.Resampling.BILINEAR, box=box))


def _resize_nearest(labels: Labels, size: tuple[int, int], window: Window) -> Labels:
    """The original pixel in which the center of each new pixel lies."""
    rows = np.arange(window.top, window.top + window.height)
    columns = np.arange(window.left, window.left + window.width)
    rows = (2 * rows + 1) * labels.shape[-2] // (2 * size[0])
    columns = (2 * columns + 1) * labels.shape[-1] // (2 * size[1])
    result: Labels = labels[..., rows[:, None], columns]
    return result
