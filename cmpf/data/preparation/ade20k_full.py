# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""ADE20K full with 847 classes (A-847)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cmpf.data.datasets.catalog import get_spec
from cmpf.data.datasets.constants import SPLITS
from cmpf.data.datasets.spec import DatasetSpec
from cmpf.data.preparation.files import files_by_stem, link_or_copy, lookup_table, read_channels
from cmpf.data.preparation.spec import Item, Preparation, Step
from cmpf.errors import DatasetError
from cmpf.formats.image import RGB, read_image, write_image
from cmpf.formats.label_map import write_labels

FOLDER = "ADE20K_2021_17_01"
IGNORE = 65535
SHORT_SIDE = 512  # larger images are downscaled to this shorter side, as in published results
OBJECTS = 255 // 10 * 256 + 256  # number of object ids, R // 10 * 256 + G with 8-bit R and G
INDEX_FILE = Path(__file__).resolve().parents[2] / "assets" / "ade20k_full_index.txt"


class Full(Preparation):
    """ADE20K full (A-847): 16-bit label maps of the 847 most frequent classes, and all images in one folder per split.

    Raw data: the release ADE20K_2021_17_01 from groups.csail.mit.edu/vision/datasets/ADE20K, with images/ADE/
    {training,validation}/PLACE/SCENE/ADE_*.jpg and *_seg.png. The object id of a pixel is R / 10 * 256 + G (integer
    division). The label is the train id of the object, or 65535 for objects without one. As in published results,
    images whose shorter side is above 512 are downscaled to 512 (images bilinear, saved as JPEG; labels nearest);
    --full-size keeps their size.
    """

    title = "ADE20K full (A-847)"
    download = "https://groups.csail.mit.edu/vision/datasets/ADE20K (registration; {username}_{hash}.zip)"
    images: ClassVar[Mapping[str, int]] = {"train": 25_574, "val": 2_000}

    def __init__(self, *, full_size: bool = False) -> None:
        """
        Args:
            full_size: keep the size of the release.
        """
        self.full_size = full_size

    def raw(self, root: Path, split: str) -> Sequence[Path]:
        """The released tree."""
        return [root / FOLDER / "images" / "ADE" / SPLITS[split]]

    def plan(self, root: Path, split: str) -> Sequence[Step]:
        """Creates a label map per image, and collects the images in one folder."""
        folder = root / FOLDER
        images = folder / "images_detectron2" / SPLITS[split]
        labels = folder / "annotations_detectron2" / SPLITS[split]
        items = [
            Item(
                sources=(path, path.with_name(f"{stem}.jpg")),
                targets=(labels / f"{stem}.tif", images / f"{stem}.jpg"),
            )
            for stem, path in files_by_stem(self.raw(root, split)[0], "_seg.png", recursive=True).items()
        ]
        convert = convert_labels if self.full_size else convert_and_resize
        return [Step(title=f"labels of {split}", items=items, convert=convert)]

    def parts(self, split: str) -> Sequence[DatasetSpec]:
        """The dataset."""
        return [get_spec(f"openvocab_ade20k_full_sem_seg_{split}")]


@cache
def objects() -> tuple[int, ...]:
    """Object id of each of the 847 train ids."""
    lines = INDEX_FILE.read_text(encoding="utf-8").splitlines()
    return tuple(int(word) for line in lines if not line.startswith("#") for word in line.split())


def convert_labels(item: Item) -> None:
    """Converts objects to train ids, and links or copies the image."""
    write_labels(item.target, _train_ids(item.source))
    link_or_copy(item.sources[1], item.targets[1])


def convert_and_resize(item: Item) -> None:
    """As convert_labels, but downscales both if the shorter side is above 512.

    Raises:
        DatasetError: the sizes of image and objects differ.
    """
    labels = _train_ids(item.source)
    height, width = labels.shape
    if min(height, width) <= SHORT_SIDE:
        write_labels(item.target, labels)
        link_or_copy(item.sources[1], item.targets[1])
        return
    size = downscaled_size(height, width)
    image = read_image(item.sources[1])
    if image.shape[:2] != labels.shape:
        raise DatasetError(
            f"{item.sources[1]}: of size {image.shape[:2]}, objects of size {labels.shape}; unpack the release again"
        )
    # As published: bilinear without antialiasing for images, nearest by the upper left corner for labels, and Pillow's
    # default JPEG quality.
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, labels.shape, strict=True))
    write_labels(item.target, labels[rows[:, None], columns])
    write_image(item.targets[1], resize_bilinear(image, size))


def downscaled_size(height: int, width: int) -> tuple[int, int]:
    """The size (H, W) with the shorter side at 512."""
    scale = SHORT_SIDE / min(height, width)
    return round(height * scale), round(width * scale)


def resize_bilinear(image: RGB, size: tuple[int, int]) -> RGB:
    """Resizes (H, W, 3) to (H', W') = `size`, bilinear without antialiasing, as OpenCV's INTER_LINEAR."""
    values = image.astype(np.float32)
    for axis, (old, new) in enumerate(zip(image.shape[:2], size, strict=True)):
        centers = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
        lower = np.floor(centers).astype(np.int64)
        upper = np.minimum(lower + 1, old - 1)
        weight = (centers - lower).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        values = values.take(lower, axis) * (1 - weight) + values.take(upper, axis) * weight
    return np.rint(values).astype(np.uint8)


def _train_ids(path: Path) -> NDArray[np.uint16]:
    """Train ids (H, W) of the objects in a *_seg.png."""
    train_id_of = {object_id: train_id for train_id, object_id in enumerate(objects())}
    table = lookup_table(train_id_of, default=IGNORE, size=OBJECTS, dtype=np.uint16)
    values = read_channels(path, 3)
    labels: NDArray[np.uint16] = table[values[..., 0] // 10 * 256 + values[..., 1]]
    return labels
