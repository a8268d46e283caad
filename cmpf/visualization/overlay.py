# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Overlays of panoptic, semantic and instance results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cmpf.common.regions import worth_showing
from cmpf.errors import VocabularyError
from cmpf.types import UNLABELED, SegmentInfo
from cmpf.visualization.canvas import Canvas
from cmpf.visualization.labels import Label, add_legend, draw_labels
from cmpf.visualization.palette import class_color, shades
from cmpf.visualization.placement import grid_step, thinned

ImageLike = npt.NDArray[np.uint8] | Image.Image
Mask = npt.NDArray[np.bool_]
Masks = Any  # an array (N, H, W) of bool, or what reads like it: a shape, and a mask (H, W) at each index
_GRID_SIDE = 160  # cells per side on which pieces of a semantic region are told apart
_MANY = 2**16  # numbers of regions below which a table of all is made
_ROWS = 64  # that are looked at together
_PIECE_SHARE = 0.005  # of the image; smaller pieces beside the largest one get no label of their own


def draw_panoptic(
    image: ImageLike,
    ids: npt.NDArray[np.integer[Any]],
    segments: Sequence[SegmentInfo],
    *,
    names: Sequence[str],
    opacity: float = 0.45,
    legend: bool = False,
) -> Image.Image:
    """The image with its segments tinted, outlined and named; void stays as it is.

    A class has the same color in every image, instances of a class have shades of it.
    An image with a longer side under 640 pixels is enlarged to that.

    Args:
        image: (H, W, 3) uint8 RGB, or a Pillow image.
        ids: (H, W) segment ids, 0 is void.
        segments: `id` and `category_id` of each.
        names: name of each class index.
        opacity: 0 (image only) .. 1 (colors only).
        legend: add a strip below with the classes in the image.
    Raises:
        ImageError: the image is empty or of another size than the ids.
        VocabularyError: a class index has no name.
    """
    canvas = Canvas(image)
    canvas.check("segment ids", ids.shape)
    places = _places(ids, [int(info["id"]) for info in segments])
    regions = canvas.enlarge_regions(places, len(segments) + 1)
    categories = [int(info["category_id"]) for info in segments]
    for category in categories:
        checked_class(category, names)
    colors = shades(categories, names)
    canvas.fill_regions(regions, [None, *colors], opacity)
    step = grid_step(canvas.size)
    labels = [
        Label(names[category], color, thinned(regions, step) == place, step)
        for place, (category, color) in enumerate(zip(categories, colors, strict=True), start=1)
    ]
    return finished(canvas, labels, categories, names, legend)


def draw_semantic(
    image: ImageLike,
    labels: npt.NDArray[np.integer[Any]],
    *,
    names: Sequence[str],
    opacity: float = 0.45,
    legend: bool = False,
) -> Image.Image:
    """The image with its classes tinted, outlined and named; what has no class stays as it is.

    Args:
        image: (H, W, 3) uint8 RGB, or a Pillow image.
        labels: (H, W) class indices; 65535 = no class.
        names, opacity, legend: see draw_panoptic.
    Raises:
        ImageError: the image is empty or of another size than the labels.
        VocabularyError: a class index has no name.
    """
    canvas = Canvas(image)
    canvas.check("labels", labels.shape)
    found: set[int] = set().union(*(np.unique(row).tolist() for row in labels))
    categories = sorted(found - {UNLABELED})
    for category in categories:
        checked_class(category, names)
    regions = canvas.enlarge_regions(_places(labels, categories), len(categories) + 1)
    colors = [class_color(category, names[category]) for category in categories]
    canvas.fill_regions(regions, [None, *colors], opacity)
    step = grid_step(canvas.size)
    wanted = [
        Label(names[category], colors[place], piece, step)
        for place, category in enumerate(categories)
        for piece in pieces_of(Region(regions, place + 1), step)
    ]
    return finished(canvas, wanted, categories, names, legend)


def draw_instances(
    image: ImageLike,
    masks: Masks,
    *,
    labels: npt.NDArray[np.integer[Any]],
    scores: npt.NDArray[np.floating[Any]],
    names: Sequence[str],
    opacity: float = 0.45,
    legend: bool = False,
    min_score: float = 0.3,
    max_overlap: float = 0.7,
) -> Image.Image:
    """The image with its instances tinted, outlined and named with their scores, small ones on top.

    A model returns its best hundred guesses, many of them of one object. Shown are those with a score of at
    least `min_score` whose mask does not have an IoU above `max_overlap` with a better one that is shown.

    Args:
        image: (H, W, 3) uint8 RGB, or a Pillow image.
        masks: (N, H, W) bool, or what reads like it.
        labels: (N,) class indices.
        scores: (N,), 0..1.
        names, opacity, legend: see draw_panoptic.
        min_score, max_overlap: 0..1; 0 and 1 show everything.
    Raises:
        ImageError: the image is empty or of another size than the masks.
        VocabularyError: a class index has no name.
    """
    canvas = Canvas(image)
    canvas.check("masks", masks.shape[1:])
    shown = worth_showing(masks, scores, min_score, max_overlap)
    categories = [checked_class(int(labels[i]), names) for i in shown]
    colors, step = dict(zip(shown, shades(categories, names), strict=True)), grid_step(canvas.size)
    areas = {i: int(np.count_nonzero(masks[i])) for i in shown}
    wanted: dict[int, Label] = {}
    for i in sorted(shown, key=lambda i: -areas[i]):
        mask = canvas.enlarge_mask(masks[i])
        canvas.fill_mask(mask, colors[i], opacity)
        text = f"{names[int(labels[i])]} {100 * float(scores[i]):.0f}%"
        wanted[i] = Label(text, colors[i], thinned(mask, step).copy(), step)
    return finished(canvas, [wanted[i] for i in shown], categories, names, legend)


@dataclass(frozen=True)
class Region:
    """The pixels (H, W) with one number, which is sliced as a mask is and takes no memory."""

    regions: npt.NDArray[np.integer[Any]]
    number: int

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return int(self.regions.shape[0]), int(self.regions.shape[1])

    def __getitem__(self, place: Any) -> Any:
        return self.regions[place] == self.number


def _places(values: npt.NDArray[np.integer[Any]], listed: Sequence[int]) -> npt.NDArray[np.integer[Any]]:
    """(H, W) place of each pixel's value in a list of different values, counted from 1; 0 for others."""
    order = np.argsort(np.array(listed, dtype=np.int64))
    ascending = np.append(np.array(listed, dtype=np.int64)[order], np.iinfo(np.int64).max)
    numbers = np.append(order + 1, 0).astype(np.min_scalar_type(len(listed) + 1))

    def place(some: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.integer[Any]]:
        found = np.searchsorted(ascending, some)
        return np.where(ascending[found] == some, numbers[found], 0)

    places = np.empty(values.shape, dtype=numbers.dtype)
    largest = int(values.max(initial=0))
    small = values.min(initial=0) >= 0 and largest < _MANY  # as a rule; then a table is ten times as fast
    table = place(np.arange(largest + 1)) if small else numbers
    for top in range(0, len(values), _ROWS):  # an index takes more room than a number
        own = values[top : top + _ROWS]
        places[top : top + _ROWS] = table.take(own) if small else place(own)
    return places


def checked_class(category: int, names: Sequence[str]) -> int:
    """The class index as it is; VocabularyError where it has no name."""
    if not 0 <= category < len(names):
        raise VocabularyError(
            f"class index {category} has no name; the list of names covers 0..{len(names) - 1}: "
            "draw with the vocabulary that was predicted with"
        )
    return category


def finished(
    canvas: Canvas, labels: Sequence[Label], categories: Sequence[int], names: Sequence[str], legend: bool
) -> Image.Image:
    """The canvas with its labels and, if asked for, a legend of the classes."""
    image = draw_labels(canvas.image(), labels, copy=False)
    if not legend:
        return image
    return add_legend(image, [(names[c], class_color(c, names[c])) for c in sorted(set(categories))])


def pieces_of(mask: Mask | Region, step: int) -> list[Mask]:
    """The largest connected piece of a region and others that are large enough for a label, thinned by a step."""
    from scipy import ndimage  # see Canvas

    coarse = max(1, round(max(mask.shape) / _GRID_SIDE))
    cells, every = thinned(mask, coarse), thinned(mask, step)
    numbered, count = ndimage.label(cells)
    if count <= 1:
        return [every]
    areas = np.bincount(numbered.reshape(-1))[1:]
    large = np.flatnonzero((areas == areas.max()) | (areas > _PIECE_SHARE * cells.size)) + 1
    rows, columns = (
        np.minimum(np.arange(step // 2, n, step) // coarse, m - 1)
        for n, m in zip(mask.shape, cells.shape, strict=True)
    )
    piece = numbered[rows[:, None], columns[None]]
    return [every & (piece == number) for number in large]
