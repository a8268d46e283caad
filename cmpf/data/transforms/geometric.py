# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Geometric augmentations, applied to an image and its label maps together.

Images are resized bilinearly, label maps by nearest neighbor. Padding uses the pad values of the LabeledImage, so
augmentations do not depend on the kind of labels. RandomShortestEdge, RandomCrop and PadToMultiple are used in semantic
training; their names and rules follow Detectron2's INPUT section, as in Mask2Former's semantic configurations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cmpf.formats.image import RGB, shortest_edge_size

Labels: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class LabeledImage:
    """An image with its label maps.

    image: (H, W, 3) uint8 RGB.
    labels: (..., H, W), one map or a stack of maps; None = no ground truth.
    image_pad, label_pad: padding values.
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
    """A rectangle in pixels: rows [top, top + height), columns [left, left + width)."""

    top: int
    left: int
    height: int
    width: int


class RandomHorizontalFlip:
    """Flips horizontally with the given probability."""

    def __init__(self, *, probability: float = 0.5) -> None:
        self.probability = probability

    def __call__(self, labeled: LabeledImage, rng: np.random.Generator) -> LabeledImage:
        if rng.random() >= self.probability:
            return labeled
        labels = None if labeled.labels is None else labeled.labels[..., ::-1]
        return replace(labeled, image=labeled.image[:, ::-1], labels=labels)


class Resize:
    """Resizes to a fixed size (H, W), regardless of the aspect ratio."""

    def __init__(self, *, size: tuple[int, int]) -> None:
        self.size = size

    def __call__(self, labeled: LabeledImage, rng: np.random.Generator) -> LabeledImage:
        return resize(labeled, self.size)


class ResizeShortestEdge:
    """Resizes the shorter side to `short_side`, or less where the longer one would exceed `max_side`."""

    def __init__(self, *, short_side: int, max_side: int) -> None:
        self.short_side = short_side
        self.max_side = max_side

    def __call__(self, labeled: LabeledImage, rng: np.random.Generator) -> LabeledImage:
        height, width = labeled.size
        size = shortest_edge_size(height, width, short_side=self.short_side, max_side=self.max_side)
        return resize(labeled, size)


class LargeScaleJitter:
    """Resizes by a random factor, then crops or pads to a square.

    The factor is uniform in [min_scale, max_scale]; at 1 the longer side fits the square exactly. A larger image is
    cropped at a uniform position; a smaller one is placed in the upper left corner (as in COCO panoptic training).
    """

    def __init__(self, *, size: int, min_scale: float, max_scale: float, shared_offset: bool = False) -> None:
        """
        Args:
            size: side of the square in pixels.
            min_scale, max_scale: 0 < min_scale <= max_scale.
            shared_offset: use one random number for both axes of the crop, as Detectron2's FixedSizeCrop does, so
                that crops lie on the diagonal only; False = one for each axis.
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
        """(top, left) of the crop, where `free` is the difference in size (H, W) between image and crop."""
        if self.shared_offset:
            fraction = rng.uniform()
            return round(free[0] * fraction), round(free[1] * fraction)
        return int(rng.integers(0, free[0], endpoint=True)), int(rng.integers(0, free[1], endpoint=True))


def resize(labeled: LabeledImage, size: tuple[int, int], window: Window | None = None) -> LabeledImage:
    """Resizes to (H, W) and crops to a window of the result (None = all); only the window is computed."""
    if window is None:
        window = Window(0, 0, *size)
    if labeled.size == size == (window.height, window.width):
        return labeled
    labels = None if labeled.labels is None else _resize_nearest(labeled.labels, size, window)
    return replace(labeled, image=_resize_bilinear(labeled.image, size, window), labels=labels)


def pad(labeled: LabeledImage, size: tuple[int, int]) -> LabeledImage:
    """Pads at the right and bottom to at least (H, W)."""
    bottom, right = (max(0, target - side) for target, side in zip(size, labeled.size, strict=True))
    if bottom == right == 0:
        return labeled
    image = np.pad(labeled.image, ((0, bottom), (0, right), (0, 0)), constant_values=labeled.image_pad)
    labels = labeled.labels
    if labels is not None:
        unpadded = ((0, 0),) * (labels.ndim - 2)
        labels = np.pad(labels, (*unpadded, (0, bottom), (0, right)), constant_values=labeled.label_pad)
    return replace(labeled, image=image, labels=labels)


def _resize_bilinear(image: RGB, size: tuple[int, int], window: Window) -> RGB:
    """Pillow's bilinear resize, which antialiases when shrinking."""
    height, width = image.shape[:2]
    scale_y, scale_x = height / size[0], width / size[1]  # original pixels per pixel of the result
    box = (
        window.left * scale_x,
        window.top * scale_y,
        min(width, (window.left + window.width) * scale_x),
        min(height, (window.top + window.height) * scale_y),
    )
    source = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(source.resize((window.width, window.height), Image.Resampling.BILINEAR, box=box))


def _resize_nearest(labels: Labels, size: tuple[int, int], window: Window) -> Labels:
    """Takes the original pixel that contains the center of each new pixel."""
    rows = np.arange(window.top, window.top + window.height)
    columns = np.arange(window.left, window.left + window.width)
    rows = (2 * rows + 1) * labels.shape[-2] // (2 * size[0])
    columns = (2 * columns + 1) * labels.shape[-1] // (2 * size[1])
    result: Labels = labels[..., rows[:, None], columns]
    return result


Sampling: TypeAlias = Literal["choice", "range"]
CropType: TypeAlias = Literal["absolute", "absolute_range", "relative", "relative_range"]
CROP_TRIES = 10  # as in Detectron2's RandomCrop_CategoryAreaConstraint


class RandomShortestEdge:
    """Resizes the shorter side to a random length, or less where the longer one would exceed `max_side`."""

    def __init__(self, *, short_sides: Sequence[int], max_side: int, sampling: Sampling) -> None:
        """
        Args:
            short_sides: lengths in pixels. With sampling "choice" one of them is taken, with "range" any length
                between two of them, inclusive.
        """
        self.short_sides = tuple(short_sides)
        self.max_side = max_side
        self.sampling = sampling

    def __call__(self, labeled: LabeledImage, rng: np.random.Generator) -> LabeledImage:
        if self.sampling == "range":
            short_side = int(rng.integers(self.short_sides[0], self.short_sides[1], endpoint=True))
        else:
            short_side = self.short_sides[int(rng.integers(len(self.short_sides)))]
        return ResizeShortestEdge(short_side=short_side, max_side=self.max_side)(labeled, rng)


class RandomCrop:
    """Crops a random window in which no class should take too large a share.

    Draws up to CROP_TRIES windows until no class has more than `max_class_share` of the labeled pixels, and keeps the
    last one otherwise.
    """

    def __init__(self, *, kind: CropType, size: tuple[float, float], max_class_share: float) -> None:
        """
        Args:
            kind: "absolute" = `size` is (H, W) in pixels; "absolute_range" = each side is uniform between the
                two lengths of `size`; "relative" = `size` is a fraction of height and width; "relative_range" =
                each fraction is uniform between `size` and 1. A window is never larger than the image.
            max_class_share: 0..1; 1 = accept any window.
        """
        self.kind = kind
        self.crop_size = size
        self.max_class_share = max_class_share

    @property
    def largest_window(self) -> tuple[int, int]:
        """Largest possible window (H, W); (0, 0) if it depends on the image."""
        if self.kind == "absolute":
            return int(self.crop_size[0]), int(self.crop_size[1])
        return (int(self.crop_size[1]),) * 2 if self.kind == "absolute_range" else (0, 0)

    def __call__(self, labeled: LabeledImage, rng: np.random.Generator) -> LabeledImage:
        height, width = self._window_size(labeled.size, rng)
        for _ in range(CROP_TRIES):
            window = Window(
                top=int(rng.integers(0, labeled.size[0] - height, endpoint=True)),
                left=int(rng.integers(0, labeled.size[1] - width, endpoint=True)),
                height=height,
                width=width,
            )
            cropped = crop(labeled, window)
            if cropped.labels is None or self.max_class_share >= 1:
                break
            if largest_class_share(cropped.labels, no_class=labeled.label_pad) <= self.max_class_share:
                break
        return cropped

    def _window_size(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
        if self.kind == "absolute":
            height, width = int(self.crop_size[0]), int(self.crop_size[1])
        elif self.kind == "absolute_range":
            low, high = (int(side) for side in self.crop_size)
            height, width = (int(rng.integers(low, high, endpoint=True)) for _ in range(2))
        else:
            fraction = np.array(self.crop_size, dtype=np.float64)
            if self.kind == "relative_range":
                fraction = rng.uniform(fraction, 1.0)
            height, width = int(size[0] * fraction[0] + 0.5), int(size[1] * fraction[1] + 0.5)
        return min(max(1, height), size[0]), min(max(1, width), size[1])


class PadToMultiple:
    """Pads at the right and bottom to multiples of `divisor`, and to `at_least` or more."""

    def __init__(self, *, divisor: int, at_least: tuple[int, int] = (0, 0)) -> None:
        """
        Args:
            divisor: in pixels.
            at_least: smallest size (H, W) in pixels; gives crops of at most this size one common size.
        """
        self.divisor = divisor
        self.at_least = at_least

    def __call__(self, labeled: LabeledImage, rng: np.random.Generator) -> LabeledImage:
        sides = (max(side, minimum) for side, minimum in zip(labeled.size, self.at_least, strict=True))
        height, width = (-(-side // self.divisor) * self.divisor for side in sides)
        return pad(labeled, (height, width))


def crop(labeled: LabeledImage, window: Window) -> LabeledImage:
    """Crops an image and its label maps to a window, which must lie inside the image."""
    rows = slice(window.top, window.top + window.height)
    columns = slice(window.left, window.left + window.width)
    labels = None if labeled.labels is None else labeled.labels[..., rows, columns]
    return replace(labeled, image=labeled.image[rows, columns], labels=labels)


def largest_class_share(classes: Labels, *, no_class: int) -> float:
    """Share 0..1 of the most frequent class among the labeled pixels; 1 if no pixel is labeled.

    Args:
        classes: (H, W) class indices.
        no_class: value of unlabeled pixels.
    """
    counts = np.bincount(classes[classes != no_class].reshape(-1))
    return float(counts.max() / counts.sum()) if counts.size else 1.0
