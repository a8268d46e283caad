# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""PASCAL VOC 2012, and helpers for the VOC devkit that PASCAL Context also uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cmpf.common.files import read_text
from cmpf.data.datasets.catalog import get_spec
from cmpf.data.datasets.constants import SPLITS
from cmpf.data.datasets.spec import DatasetSpec
from cmpf.data.preparation.files import link_or_copy, read_uint8
from cmpf.data.preparation.spec import Item, Preparation, Step
from cmpf.errors import DatasetError
from cmpf.formats.label_map import write_labels

IGNORE = 255
VOC_FOLDER = "pascal_voc_d2"
VOC_CLASSES = 20  # without background
MAX_LIST = 2**24  # bytes of a file of ImageSets/


class Voc(Preparation):
    """PASCAL VOC 2012: label maps of 21 classes (with background) and of 20 classes; one image folder per split.

    Raw data: VOCtrainval_11-May-2012.tar, unpacked as VOCdevkit/VOC2012 (or VOC2012): SegmentationClass/*.png with
    palette indices 0 = background, 1..20, 255 = border, and ImageSets/Segmentation/{train,val}.txt. The larger training
    set of SBD is not used. With 21 classes, labels are the unchanged indices; with 20 classes, they are index - 1, and
    255 for background.
    """

    title = "PASCAL VOC 2012"
    download = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012 (VOCtrainval_11-May-2012.tar)"
    images: ClassVar[Mapping[str, int]] = {"train": 1_464, "val": 1_449}

    def raw(self, root: Path, split: str) -> Sequence[Path]:
        """The list of the split, and the images and labels of the release."""
        folder = devkit(root, "2012")
        names = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
        return [names, folder / "JPEGImages", folder / "SegmentationClass"]

    def plan(self, root: Path, split: str) -> Sequence[Step]:
        """Creates label maps with 21 classes and collects the images; then creates label maps with 20 classes."""
        listing, raw_images, labels = self.raw(root, split)
        folder, subfolder = root / VOC_FOLDER, SPLITS[split]
        names = listed_names(listing)
        items_21 = [
            Item(
                sources=(labels / f"{name}.png", raw_images / f"{name}.jpg"),
                targets=(
                    folder / "annotations_pascal21" / subfolder / f"{name}.png",
                    folder / "images" / subfolder / f"{name}.jpg",
                ),
            )
            for name in names
        ]
        items_20 = [
            Item(
                sources=(labels / f"{name}.png",),
                targets=(folder / "annotations_pascal20" / subfolder / f"{name}.png",),
            )
            for name in names
        ]
        return [
            Step(title=f"labels of {split}, 21 classes", items=items_21, convert=convert_with_background),
            Step(title=f"labels of {split}, 20 classes", items=items_20, convert=convert_without_background),
        ]

    def parts(self, split: str) -> Sequence[DatasetSpec]:
        """Both datasets."""
        return [get_spec(f"openvocab_pascal{classes}_sem_seg_{split}") for classes in (21, 20)]


def devkit(root: Path, year: str) -> Path:
    """VOCdevkit/VOC{year} as in the archive, or VOC{year} as Detectron2 expects it."""
    unpacked, short = root / "VOCdevkit" / f"VOC{year}", root / f"VOC{year}"
    return short if short.is_dir() and not unpacked.is_dir() else unpacked


def listed_names(path: Path) -> list[str]:
    """Reads image names from a file of ImageSets/, one per line.

    Raises:
        DatasetError: the file is missing, damaged, has no name, or has a name twice.
    """
    try:
        lines = read_text(path, limit=MAX_LIST).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); unpack the release again") from error
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise DatasetError(f"{path}: lists no image; unpack the release again")
    if len(set(names)) != len(names):
        raise DatasetError(f"{path}: lists an image twice; unpack the release again")
    return names


def convert_with_background(item: Item) -> None:
    """Writes the palette indices as a label map, and links or copies the image."""
    write_labels(item.target, _voc_indices(item.source).astype(np.uint8))
    link_or_copy(item.sources[1], item.targets[1])


def convert_without_background(item: Item) -> None:
    """Writes index - 1, and the ignore label for background and border."""
    indices = _voc_indices(item.source)
    ignored = (indices == IGNORE) | (indices == 0)
    write_labels(item.target, np.where(ignored, IGNORE, indices - 1).astype(np.uint8))


def _voc_indices(path: Path) -> NDArray[np.int64]:
    values = read_uint8(path)
    wrong = np.unique(values[(values > VOC_CLASSES) & (values != IGNORE)]).tolist()
    if wrong:
        raise DatasetError(f"{path}: values {wrong[:5]}; expected 0..{VOC_CLASSES} and {IGNORE}")
    return values
