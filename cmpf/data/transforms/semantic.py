# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Augmentations of semantic training: short side from a set, a crop that no class fills, padding.

Names and rules are those of Detectron2's INPUT section, as semantic configurations of Mask2Former use them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np

from cmpf.data.transforms.geometric import LabeledImage, Labels, ResizeShortestEdge, Window, pad

Sampling: TypeAlias = Literal["choice", "range"]
CropType: TypeAlias = Literal["absolute", "absolute_range", "relative", "relative_range"]
CROP_TRIES = 10  # published with the rule


class RandomShortestEdge:
    """Sets the shorter side to a random length, or less where the longer one would exceed `max_side`."""

    def __init__(self, *, short_sides: Sequence[int], max_side: int, sampling: Sampling) -> None:
        """
        Args:
            short_sides: pixels; with sampling "choice" one of them, with "range" two, the first and the last
                length, both included.
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
    """Cuts a random window out of an image with a class map, of which no class should have too large a share.

    Up to CROP_TRIES windows are drawn until at least two classes are in one and none has more than
    `max_class_share` of the pixels that have a class; the last one is taken as it is.
    """

    def __init__(self, *, kind: CropType, size: tuple[float, float], max_class_share: float) -> None:
        """
        Args:
            kind: "absolute" = `size` is (H, W) in pixels; "absolute_range" = each side is uniform between the
                two lengths of `size`; "relative" = `size` is a share of height and width; "relative_range" =
                each share is uniform between `size` and 1. A window is never larger than the image.
            max_class_share: 0..1; 1 = any window will do.
        """
        self.kind = kind
        self.crop_size = size
        self.max_class_share = max_class_share

    @property
    def largest_window(self) -> tuple[int, int]:
        """(H, W) that no window exceeds; (0, 0) where that depends on the image."""
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
            cut = crop(labeled, window)
            if cut.labels is None or self.max_class_share >= 1:
                break
            if largest_class_share(cut.labels, no_class=labeled.label_pad) <= self.max_class_share:
                break
        return cut

    def _window_size(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
        if self.kind == "absolute":
            wanted = int(self.crop_size[0]), int(self.crop_size[1])
        elif self.kind == "absolute_range":
            low, high = (int(side) for side in self.crop_size)
            wanted = int(rng.integers(low, high, endpoint=True)), int(rng.integers(low, high, endpoint=True))
        else:
            share = np.array(self.crop_size, dtype=np.float64)
            if self.kind == "relative_range":
                share = rng.uniform(share, 1.0)
            wanted = int(size[0] * share[0] + 0.5), int(size[1] * share[1] + 0.5)
        return min(max(1, wanted[0]), size[0]), min(max(1, wanted[1]), size[1])


class PadToMultiple:
    """Pads at the right and at the bottom, to multiples of `divisor` that are no less than `at_least`."""

    def __init__(self, *, divisor: int, at_least: tuple[int, int] = (0, 0)) -> None:
        """
        Args:
            at_least: (H, W) in pixels; images that were cut to this size at most all come out equal.
        """
        self.divisor = divisor
        self.at_least = at_least

    def __call__(self, labeled: LabeledImage, rng: np.random.Generator) -> LabeledImage:
        sides = (max(side, least) for side, least in zip(labeled.size, self.at_least, strict=True))
        height, width = (-(-side // self.divisor) * self.divisor for side in sides)
        return pad(labeled, (height, width))


def crop(labeled: LabeledImage, window: Window) -> LabeledImage:
    """The part of an image and its labels that a window shows; the window must lie inside."""
    rows = slice(window.top, window.top + window.height)
    columns = slice(window.left, window.left + window.width)
    labels = None if labeled.labels is None else labeled.labels[..., rows, columns]
    return replace(labeled, image=labeled.image[rows, columns], labels=labels)


def largest_class_share(classes: Labels, *, no_class: int) -> float:
    """Share 0..1 of the most frequent class among the pixels that have one; 1 where none has one.

    Args:
        classes: (H, W) class indices.
        no_class: value of pixels that do not count.
    """
    counts = np.bincount(classes[classes != no_class].reshape(-1))
    return float(counts.max() / counts.sum()) if counts.size else 1.0
