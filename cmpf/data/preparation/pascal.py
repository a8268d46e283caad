# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""PASCAL VOC 2012, and PASCAL Context with 59 and 459 classes."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cmpf.data.datasets.catalog import get_spec
from cmpf.data.datasets.spec import DatasetSpec
from cmpf.data.preparation.files import lookup_table, place, read_bytes
from cmpf.data.preparation.spec import Item, Preparation, Step
from cmpf.errors import DatasetError
from cmpf.formats.coco_json import coco_form, read_coco
from cmpf.formats.label_map import write_labels
from cmpf.formats.masks import decode_mask

FOLDER_OF = {"train": "training", "val": "validation"}
IGNORE, CONTEXT_IGNORE = 255, 65535
VOC_FOLDER, CONTEXT_FOLDER = "pascal_voc_d2", "pascal_ctx_d2"
VOC_CLASSES = 20  # without background
CONTEXT_IMAGES = {"train": 4_996, "val": 5_104}
CONTEXT_DOWNLOAD = (
    "https://cs.stanford.edu/~roozbeh/pascal-context (trainval.tar.gz) and "
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2010 (VOCtrainval_03-May-2010.tar)"
)
CONTEXT_LABELS = 459
# Labels, of 1..459, of the 59 most frequent classes: aeroplane, bag, bed, bedclothes, bench, ... window, wood.
CONTEXT_59 = (
    *(2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144),
    *(158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354),
    *(355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458),
)
CLASSES_59 = lookup_table(
    {label: index for index, label in enumerate(CONTEXT_59)},
    default=IGNORE,
    size=CONTEXT_LABELS + 1,
    dtype=np.uint8,
)


class Voc(Preparation):
    """PASCAL VOC 2012: label maps of 21 classes (with background) and of 20; the images of each split in a folder.

    Raw: VOCtrainval_11-May-2012.tar, unpacked as VOCdevkit/VOC2012 (or VOC2012): SegmentationClass/*.png with palette
    indices 0 = background, 1..20, 255 = border, and ImageSets/Segmentation/{train,val}.txt. The larger training set
    of SBD is not used. Labels of 21 classes are the indices as they are; of 20 classes index - 1, and 255 for
    background.
    """

    title = "PASCAL VOC 2012"
    download = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012 (VOCtrainval_11-May-2012.tar)"
    images: ClassVar[Mapping[str, int]] = {"train": 1_464, "val": 1_449}

    def raw(self, root: Path, split: str) -> Sequence[Path]:
        """List of the split, images and labels of the release."""
        folder = devkit(root, "2012")
        names = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
        return [names, folder / "JPEGImages", folder / "SegmentationClass"]

    def plan(self, root: Path, split: str) -> Sequence[Step]:
        """The image beside the others with its labels of 21 classes, then those of 20."""
        listing, raw_images, labels = self.raw(root, split)
        folder, part = root / VOC_FOLDER, FOLDER_OF[split]
        names = listed_names(listing)
        of_21 = [
            Item(
                sources=(labels / f"{name}.png", raw_images / f"{name}.jpg"),
                targets=(
                    folder / "annotations_pascal21" / part / f"{name}.png",
                    folder / "images" / part / f"{name}.jpg",
                ),
            )
            for name in names
        ]
        of_20 = [
            Item(
                sources=(labels / f"{name}.png",),
                targets=(folder / "annotations_pascal20" / part / f"{name}.png",),
            )
            for name in names
        ]
        return [
            Step(title=f"labels of {split}, 21 classes", items=of_21, convert=with_background),
            Step(title=f"labels of {split}, 20 classes", items=of_20, convert=without_background),
        ]

    def parts(self, split: str) -> Sequence[DatasetSpec]:
        """Both datasets."""
        return [get_spec(f"openvocab_pascal{classes}_sem_seg_{split}") for classes in (21, 20)]


class Context459(Preparation):
    """PASCAL Context, all 459 classes (PC-459): 16-bit label maps, and the images of each split in a folder.

    Raw: VOCdevkit/VOC2010 (or VOC2010) of VOCtrainval_03-May-2010.tar with JPEGImages/ and ImageSets/Main/
    {train,val}.txt, and in it trainval/*.mat of trainval.tar.gz. A pixel of LabelMap is a line number of labels.txt,
    1..459. The label is that number - 1, and 65535 where nothing is annotated.
    """

    title, download, images = "PASCAL Context, 459 classes", CONTEXT_DOWNLOAD, CONTEXT_IMAGES
    classes: ClassVar[int] = CONTEXT_LABELS

    def raw(self, root: Path, split: str) -> Sequence[Path]:
        """List of the split, images, and *.mat."""
        folder = devkit(root, "2010")
        return [folder / "ImageSets" / "Main" / f"{split}.txt", folder / "JPEGImages", folder / "trainval"]

    def plan(self, root: Path, split: str) -> Sequence[Step]:
        """A label map for each *.mat, and the image beside the others."""
        names, raw_images, mats = self.raw(root, split)
        items = [
            Item(
                sources=(mats / f"{name}.mat", raw_images / f"{name}.jpg"),
                targets=self.targets(root, split, f"{name}.jpg"),
            )
            for name in listed_names(names)
        ]
        convert = labels_of_459 if self.classes == CONTEXT_LABELS else labels_of_59
        return [Step(title=f"labels of {split}", items=items, convert=convert)]

    def targets(self, root: Path, split: str, image: str) -> tuple[Path, Path]:
        """Label map and image of an image's name."""
        folder, part = root / CONTEXT_FOLDER, FOLDER_OF[split]
        labels = folder / f"annotations_ctx{self.classes}" / part / image
        suffix = ".tif" if self.classes == CONTEXT_LABELS else ".png"
        return labels.with_suffix(suffix), folder / "images" / part / image

    def parts(self, split: str) -> Sequence[DatasetSpec]:
        """The dataset."""
        return [get_spec(f"openvocab_pascal_ctx{self.classes}_sem_seg_{split}")]


class Context59(Context459):
    """PASCAL Context, the 59 most frequent classes (PC-59): label maps, and the images of each split in a folder.

    Raw: VOCdevkit/VOC2010 (or VOC2010) of VOCtrainval_03-May-2010.tar with JPEGImages/, and in it one of
      trainval_merged.json   of PASCAL in Detail, of published results; says which image is in which split
      trainval/*.mat         of trainval.tar.gz; splits are those of ImageSets/Main/{train,val}.txt
    The first is taken where both are there. Both number the classes 1..459. The label is the place of a class among
    the 59, and 255 for all other classes and where nothing is annotated.
    """

    title = "PASCAL Context, 59 classes"
    download = f"{CONTEXT_DOWNLOAD}, or trainval_merged.json of https://sites.google.com/view/pasd"
    classes = len(CONTEXT_59)

    def raw(self, root: Path, split: str) -> Sequence[Path]:
        """The JSON file and the images, or list, images and *.mat."""
        json = devkit(root, "2010") / "trainval_merged.json"
        return [json, json.parent / "JPEGImages"] if json.is_file() else super().raw(root, split)

    def plan(self, root: Path, split: str) -> Sequence[Step]:
        """A label map for each image of the split, and the image beside the others."""
        json, raw_images = self.raw(root, split)[:2]
        if json.suffix != ".json":
            return super().plan(root, split)
        content = read_coco(json, ("images", "annos_segmentation"))
        masks: dict[Any, list[tuple[int, Any]]] = defaultdict(list)
        with coco_form(json):
            for annotation in content["annos_segmentation"]:
                masks[annotation["image_id"]].append((annotation["category_id"], annotation["segmentation"]))
            items = [
                Item(
                    sources=(raw_images / image["file_name"],),
                    targets=self.targets(root, split, image["file_name"]),
                    data=(image["height"], image["width"], masks[image["image_id"]]),
                )
                for image in content["images"]
                if image["phase"] == split
            ]
        if not items:
            raise DatasetError(f"{json}: no image of phase {split!r}; fetch it again")
        return [Step(title=f"labels of {split}", items=items, convert=merge_masks)]


def devkit(root: Path, year: str) -> Path:
    """VOCdevkit/VOC2012 as it is unpacked, or VOC2012 without the folder around it, as Detectron2 has it."""
    usual, short = root / "VOCdevkit" / f"VOC{year}", root / f"VOC{year}"
    return short if short.is_dir() and not usual.is_dir() else usual


def listed_names(path: Path) -> list[str]:
    """Names of images in a file of ImageSets/, one a line.

    Raises:
        DatasetError: none, or one that comes twice.
    """
    names = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise DatasetError(f"{path}: names no image; unpack the release again")
    if len(set(names)) != len(names):
        raise DatasetError(f"{path}: names an image twice; unpack the release again")
    return names


def with_background(item: Item) -> None:
    """Indices as they are; the image is linked, or copied to another disk."""
    write_labels(item.target, _voc_indices(item.source).astype(np.uint8))
    place(item.sources[1], item.targets[1])


def without_background(item: Item) -> None:
    """Index - 1; background joins the border."""
    indices = _voc_indices(item.source)
    border = (indices == IGNORE) | (indices == 0)
    write_labels(item.target, np.where(border, IGNORE, indices - 1).astype(np.uint8))


def _voc_indices(path: Path) -> NDArray[np.int64]:
    values = read_bytes(path)
    wrong = np.unique(values[(values > VOC_CLASSES) & (values != IGNORE)]).tolist()
    if wrong:
        raise DatasetError(f"{path}: values {wrong[:5]}; expected 0..{VOC_CLASSES} and {IGNORE}")
    return values


def labels_of_459(item: Item) -> None:
    """Label - 1; the image is linked, or copied to another disk."""
    labels = read_mat(item.source)
    write_labels(item.target, np.where(labels == 0, CONTEXT_IGNORE, labels - 1).astype(np.uint16))
    place(item.sources[1], item.targets[1])


def labels_of_59(item: Item) -> None:
    """Labels -> classes; the image is linked, or copied to another disk."""
    write_labels(item.target, CLASSES_59[read_mat(item.source)])
    place(item.sources[1], item.targets[1])


def merge_masks(item: Item) -> None:
    """Masks, later ones over earlier ones -> classes; the image is linked, or copied to another disk."""
    height, width, masks = item.data
    labels = np.zeros((height, width), dtype=np.int64)
    for label, encoded in masks:
        labels[decode_mask(encoded, height=height, width=width, where=f"{item.source}: a mask")] = label
    if labels.min() < 0 or labels.max() > CONTEXT_LABELS:
        raise DatasetError(f"{item.source}: category {labels.max()}; expected 0..{CONTEXT_LABELS}")
    write_labels(item.target, CLASSES_59[labels])
    place(item.source, item.targets[1])


def read_mat(path: Path) -> NDArray[np.int64]:
    """(H, W) labels 1..459 of a released *.mat, 0 where nothing is annotated.

    Raises:
        DatasetError: missing, damaged, or not a label map.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        with path.open("rb") as opened:
            values = np.asarray(loadmat(opened, variable_names=["LabelMap"])["LabelMap"])
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such file; unpack trainval.tar.gz again") from error
    except KeyError as error:
        raise DatasetError(f"{path}: no LabelMap in it; it is not of PASCAL Context") from error
    except (MatReadError, OSError, ValueError, TypeError, EOFError, IndexError, zlib.error) as error:
        raise DatasetError(f"{path}: damaged ({error}); unpack trainval.tar.gz again") from error
    if values.ndim != 2 or not values.size or values.dtype.kind not in "uif":
        raise DatasetError(
            f"{path}: LabelMap of shape {values.shape} and type {values.dtype}; expected (H, W)"
        )
    labels = values.astype(np.int64)
    if (labels != values).any() or labels.min() < 0 or labels.max() > CONTEXT_LABELS:
        raise DatasetError(
            f"{path}: values {values.min()}..{values.max()}; expected whole numbers 0..{CONTEXT_LABELS}"
        )
    return labels
