# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Augmentations and resizes, applied to a picture and its label maps together.

The picture is resized bilinearly, label maps take the nearest pixel. What a crop leaves empty is filled with
the pad values that the picture carries, so that no augmentation needs to know what kind of labels it moves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cmpf.data.images import RGB, shortest_edge_size

Labels: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Picture:
    """A picture with what must move along with it.

    image: (H, W, 3) uint8 RGB. labels: (..., H, W), one map or a stack of them; None = no ground truth.
    image_pad, label_pad: values outside of the picture.
    """

    image: RGB
    labels: Labels | None
    image_pad: int
    label_pad: int

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.image.shape[0], self.image.shape[1]


Augmentation: TypeAlias = Callable[[Picture, np.random.Generator], Picture]


@dataclass(frozen=True)
class Window:
    """A part of a picture: rows top .. top + height, columns left .. left + width, in pixels."""

    top: int
    left: int
    height: int
    width: int


class RandomHorizontalFlip:
    """Mirrors left and right with the given probability."""

    def __init__(self, *, probability: float = 0.5) -> None:
        self.probability = probability

    def __call__(self, picture: Picture, rng: np.random.Generator) -> Picture:
        if rng.random() >= self.probability:
            return picture
        labels = None if picture.labels is None else picture.labels[..., ::-1]
        return replace(picture, image=picture.image[:, ::-1], labels=labels)


class Resize:
    """Resizes to a fixed size (H, W), whatever the proportions."""

    def __init__(self, *, size: tuple[int, int]) -> None:
        self.size = size

    def __call__(self, picture: Picture, rng: np.random.Generator) -> Picture:
        return resize(picture, self.size)


class ResizeShortestEdge:
    """Sets the shorter side to `short_side`, or less where the longer one would exceed `max_side`."""

    def __init__(self, *, short_side: int, max_side: int) -> None:
        self.short_side = short_side
        self.max_side = max_side

    def __call__(self, picture: Picture, rng: np.random.Generator) -> Picture:
        height, width = picture.size
        size = shortest_edge_size(height, width, short_side=self.short_side, max_side=self.max_side)
        return resize(picture, size)


class LargeScaleJitter:
    """Resizes by a random factor relative to fitting a square, then crops or pads to that square.

    The factor is uniform in [min_scale, max_scale]; at 1 the longer side just fits. A larger picture is
    cropped at a uniform place, a smaller one stands in the upper left corner (as in COCO panoptic training).
    """

    def __init__(self, *, size: int, min_scale: float, max_scale: float) -> None:
        """
        Args:
            size: side of the square in pixels.
            min_scale, max_scale: 0 < min_scale <= max_scale.
        """
        self.size = size
        self.min_scale = min_scale
        self.max_scale = max_scale

    def __call__(self, picture: Picture, rng: np.random.Generator) -> Picture:
        ratio = rng.uniform(self.min_scale, self.max_scale) * self.size / max(picture.size)
        height, width = (max(1, round(side * ratio)) for side in picture.size)
        window = Window(
            top=int(rng.integers(0, max(height - self.size, 0), endpoint=True)),
            left=int(rng.integers(0, max(width - self.size, 0), endpoint=True)),
            height=min(height, self.size),
            width=min(width, self.size),
        )
        return pad(resize(picture, (height, width), window), (self.size, self.size))


def resize(picture: Picture, size: tuple[int, int], window: Window | None = None) -> Picture:
    """The window (None = all) of the picture resized to (H, W); only what the window shows is computed."""
    if window is None:
        window = Window(0, 0, *size)
    if picture.size == size == (window.height, window.width):
        return picture
    labels = None if picture.labels is None else _resize_nearest(picture.labels, size, window)
    return replace(picture, image=_resize_bilinear(picture.image, size, window), labels=labels)


def pad(picture: Picture, size: tuple[int, int]) -> Picture:
    """Fills up to (H, W) at the right and at the bottom; a side that is large enough stays."""
    down, right = (max(0, wanted - side) for wanted, side in zip(size, picture.size, strict=True))
    if down == right == 0:
        return picture
    image = np.pad(picture.image, ((0, down), (0, right), (0, 0)), constant_values=picture.image_pad)
    labels = picture.labels
    if labels is not None:
        still = ((0, 0),) * (labels.ndim - 2)
        labels = np.pad(labels, (*still, (0, down), (0, right)), constant_values=picture.label_pad)
    return replace(picture, image=image, labels=labels)


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
    """The original pixel in which the centre of each new pixel lies."""
    rows = np.arange(window.top, window.top + window.height)
    columns = np.arange(window.left, window.left + window.width)
    rows = (2 * rows + 1) * labels.shape[-2] // (2 * size[0])
    columns = (2 * columns + 1) * labels.shape[-1] // (2 * size[1])
    result: Labels = labels[..., rows[:, None], columns]
    return result
