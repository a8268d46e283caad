# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Draws panoptic, semantic and instance predictions on images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cmpf.common.regions import select_instances
from cmpf.errors import VocabularyError
from cmpf.types import UNLABELED, SegmentInfo
from cmpf.visualization.canvas import Canvas
from cmpf.visualization.labels import Label, add_legend, draw_labels
from cmpf.visualization.palette import class_color, shades
from cmpf.visualization.placement import grid_step, subsample

ImageLike = npt.NDArray[np.uint8] | Image.Image
Mask = npt.NDArray[np.bool_]
Masks = Any  # (N, H, W) bool array, or an object with the same shape and indexing
_GRID_SIDE = 160  # cells per side of the grid on which connected components are found
_MAX_TABLE = 2**16  # largest value for which _renumber uses a lookup table
_ROWS = 64  # renumbered at a time; the indices take more memory than the result
_MIN_COMPONENT = 0.005  # of the image's area; smaller components get no label, unless none is larger


def draw_panoptic(
    image: ImageLike,
    ids: npt.NDArray[np.integer[Any]],
    segments: Sequence[SegmentInfo],
    *,
    names: Sequence[str],
    opacity: float = 0.45,
    legend: bool = False,
) -> Image.Image:
    """Draws panoptic segments with tint, outline and label; void pixels are unchanged.

    A class has the same color in every image; its instances have shades of that color. An image whose longer side is
    below 640 pixels is enlarged to 640.

    Args:
        image: (H, W, 3) uint8 RGB, or a Pillow image.
        ids: (H, W) segment ids, 0 = void.
        segments: each with `id` and `category_id`.
        names: class names by class index.
        opacity: from 0 (image only) to 1 (colors only).
        legend: whether to add a legend of the classes below the image.
    Raises:
        ImageError: the image is empty, or the ids have another size.
        VocabularyError: a class index has no name.
    """
    canvas = Canvas(image)
    canvas.check("segment ids", ids.shape)
    numbers = _renumber(ids, [int(info["id"]) for info in segments])
    regions = canvas.enlarge_regions(numbers, len(segments) + 1)
    categories = [check_class(int(info["category_id"]), names) for info in segments]
    colors = shades(categories, names)
    canvas.fill_regions(regions, [None, *colors], opacity)
    step = grid_step(canvas.size)
    labels = [
        Label(names[category], color, subsample(regions, step) == number)
        for number, (category, color) in enumerate(zip(categories, colors, strict=True), start=1)
    ]
    return add_labels(canvas, labels, categories, names, legend)


def draw_semantic(
    image: ImageLike,
    labels: npt.NDArray[np.integer[Any]],
    *,
    names: Sequence[str],
    opacity: float = 0.45,
    legend: bool = False,
) -> Image.Image:
    """Draws the regions of a semantic label map with tint, outline and label; unlabeled pixels are unchanged.

    Args:
        image: (H, W, 3) uint8 RGB, or a Pillow image.
        labels: (H, W) class indices, 65535 = no class.
        names, opacity, legend: see draw_panoptic.
    Raises:
        ImageError: the image is empty, or the labels have another size.
        VocabularyError: a class index has no name.
    """
    canvas = Canvas(image)
    canvas.check("labels", labels.shape)
    values: set[int] = set().union(*(np.unique(row).tolist() for row in labels))
    categories = [check_class(category, names) for category in sorted(values - {UNLABELED})]
    regions = canvas.enlarge_regions(_renumber(labels, categories), len(categories) + 1)
    colors = [class_color(category, names[category]) for category in categories]
    canvas.fill_regions(regions, [None, *colors], opacity)
    step = grid_step(canvas.size)
    region_labels = [
        Label(names[category], color, component)
        for number, (category, color) in enumerate(zip(categories, colors, strict=True), start=1)
        for component in large_components(Region(regions, number), step)
    ]
    return add_labels(canvas, region_labels, categories, names, legend)


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
    """Draws instances with tint, outline, label and score; smaller ones on top.

    Instances with a score below `min_score`, and those whose mask has an IoU above `max_overlap` with a better
    instance that is drawn, are left out: a model may return several predictions for one object.

    Args:
        image: (H, W, 3) uint8 RGB, or a Pillow image.
        masks: (N, H, W) bool, or an object with the same shape and indexing.
        labels: (N,) class indices.
        scores: (N,) in [0, 1].
        names, opacity, legend: see draw_panoptic.
        min_score: in [0, 1]; 0 = all.
        max_overlap: IoU in [0, 1]; 1 = all.
    Raises:
        ImageError: the image is empty, or the masks have another size.
        VocabularyError: a class index has no name.
    """
    canvas = Canvas(image)
    canvas.check("masks", masks.shape[1:])
    shown = select_instances(masks, scores, min_score, max_overlap)
    categories = [check_class(int(labels[i]), names) for i in shown]
    colors, step = dict(zip(shown, shades(categories, names), strict=True)), grid_step(canvas.size)
    areas = {i: int(np.count_nonzero(masks[i])) for i in shown}
    instance_labels: dict[int, Label] = {}
    for i in sorted(shown, key=lambda i: -areas[i]):
        mask = canvas.enlarge_mask(masks[i])
        canvas.fill_mask(mask, colors[i], opacity)
        text = f"{names[int(labels[i])]} {100 * float(scores[i]):.0f}%"
        instance_labels[i] = Label(text, colors[i], subsample(mask, step).copy())
    return add_labels(canvas, [instance_labels[i] for i in shown], categories, names, legend)


@dataclass(frozen=True)
class Region:
    """A view of the pixels with one number in a map (H, W); it is indexed like a mask and takes no memory."""

    regions: npt.NDArray[np.integer[Any]]
    number: int

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return int(self.regions.shape[0]), int(self.regions.shape[1])

    def __getitem__(self, index: Any) -> Any:
        return self.regions[index] == self.number


def check_class(category: int, names: Sequence[str]) -> int:
    """Returns the class index; VocabularyError if it has no name."""
    if not 0 <= category < len(names):
        raise VocabularyError(
            f"class index {category} has no name; the list of names covers 0..{len(names) - 1}: "
            "draw with the vocabulary that was predicted with"
        )
    return category


def add_labels(
    canvas: Canvas, labels: Sequence[Label], categories: Sequence[int], names: Sequence[str], legend: bool
) -> Image.Image:
    """The canvas with labels and an optional legend of the classes."""
    image = canvas.image()
    draw_labels(image, labels)
    if not legend:
        return image
    return add_legend(image, [(names[c], class_color(c, names[c])) for c in sorted(set(categories))])


def large_components(mask: Mask | Region, step: int) -> list[Mask]:
    """The connected components of a region that get a label: the largest one, and all that are large enough.

    Args:
        step: the returned masks are subsampled by it.
    """
    from scipy import ndimage  # see Canvas

    coarse_step = max(1, round(max(mask.shape) / _GRID_SIDE))
    coarse, fine = subsample(mask, coarse_step), subsample(mask, step)
    components, count = ndimage.label(coarse)
    if count <= 1:
        return [fine]
    areas = np.bincount(components.reshape(-1))[1:]
    large = np.flatnonzero((areas == areas.max()) | (areas > _MIN_COMPONENT * coarse.size)) + 1
    rows, columns = (
        np.minimum(np.arange(step // 2, fine_side, step) // coarse_step, coarse_side - 1)
        for fine_side, coarse_side in zip(mask.shape, coarse.shape, strict=True)
    )
    fine_components = components[rows[:, None], columns[None]]
    return [fine & (fine_components == number) for number in large]


def _renumber(values: npt.NDArray[np.integer[Any]], listed: Sequence[int]) -> npt.NDArray[np.integer[Any]]:
    """Replaces each value of a map (H, W) by its index in `listed`, counted from 1; other values by 0.

    Args:
        listed: distinct values.
    """
    order = np.argsort(np.array(listed, dtype=np.int64))
    ascending = np.append(np.array(listed, dtype=np.int64)[order], np.iinfo(np.int64).max)
    numbers = np.append(order + 1, 0).astype(np.min_scalar_type(len(listed) + 1))

    def look_up(part: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.integer[Any]]:
        indices = np.searchsorted(ascending, part)
        return np.where(ascending[indices] == part, numbers[indices], 0)

    result = np.empty(values.shape, dtype=numbers.dtype)
    largest = int(values.max(initial=0))
    use_table = values.min(initial=0) >= 0 and largest < _MAX_TABLE  # ten times as fast
    table = look_up(np.arange(largest + 1)) if use_table else numbers
    for top in range(0, len(values), _ROWS):
        part = values[top : top + _ROWS]
        result[top : top + _ROWS] = table.take(part) if use_table else look_up(part)
    return result
