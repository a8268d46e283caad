# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""PASCAL Context with 59 and with 459 classes."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cmpf.data.datasets.catalog import get_spec
from cmpf.data.datasets.constants import SPLITS
from cmpf.data.datasets.spec import DatasetSpec
from cmpf.data.datasets.validate import Report
from cmpf.data.preparation.files import files_by_stem, link_or_copy, lookup_table
from cmpf.data.preparation.pascal import IGNORE, devkit, listed_names
from cmpf.data.preparation.spec import Item, Preparation, Step
from cmpf.errors import DatasetError
from cmpf.formats.coco_json import coco_form, read_coco
from cmpf.formats.label_map import write_labels
from cmpf.formats.masks import decode_mask

CONTEXT_FOLDER, CONTEXT_IGNORE = "pascal_ctx_d2", 65535
CONTEXT_IMAGES = {"train": 4_996, "val": 5_104}
# Images with labels in ImageSets/Main; published results are on the images of trainval_merged.json.
MAT_IMAGES = {"train": 4_998, "val": 5_105}
CONTEXT_DOWNLOAD = (
    "https://cs.stanford.edu/~roozbeh/pascal-context (trainval.tar.gz) and "
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2010 (VOCtrainval_03-May-2010.tar)"
)
CONTEXT_LABELS = 459
# Labels (1..459) of the 59 most frequent classes: aeroplane, bag, bed, bedclothes, bench, ... window, wood.
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


class Context459(Preparation):
    """PASCAL Context, all 459 classes (PC-459): 16-bit label maps; one image folder per split.

    Raw data: VOCdevkit/VOC2010 (or VOC2010) from VOCtrainval_03-May-2010.tar with JPEGImages/ and ImageSets/Main/
    {train,val}.txt, and in it trainval/*.mat from trainval.tar.gz. LabelMap holds line numbers of labels.txt, 1..459.
    Labels are one less, and 65535 for unlabeled pixels. PC-59 uses the same image folder, so the images are those of
    PC-59: those of trainval_merged.json if it exists, else those with labels of 59 classes, else those of the lists.
    """

    title, download, images = "PASCAL Context, 459 classes", CONTEXT_DOWNLOAD, CONTEXT_IMAGES
    classes: ClassVar[int] = CONTEXT_LABELS

    def raw(self, root: Path, split: str) -> Sequence[Path]:
        """The list of the split, the images and the *.mat files."""
        folder = devkit(root, "2010")
        return [folder / "ImageSets" / "Main" / f"{split}.txt", folder / "JPEGImages", folder / "trainval"]

    def plan(self, root: Path, split: str) -> Sequence[Step]:
        """Creates a label map per *.mat file, and collects the images."""
        _, raw_images, mats = self.raw(root, split)
        items = [
            Item(
                sources=(mats / f"{name}.mat", raw_images / f"{name}.jpg"),
                targets=self.targets(root, split, f"{name}.jpg"),
            )
            for name in self.names(root, split)
        ]
        convert = convert_459 if self.classes == CONTEXT_LABELS else convert_59
        return [Step(title=f"labels of {split}", items=items, convert=convert)]

    def names(self, root: Path, split: str) -> list[str]:
        """Names of the images of a split.

        Raises:
            DatasetError: the file that lists them is missing, damaged or empty.
        """
        json = merged_json(root)
        if json.is_file():
            with coco_form(json):
                content = read_coco(json, ("images",))
                return [Path(image["file_name"]).stem for image in images_of(json, content, split)]
        labels_59 = root / CONTEXT_FOLDER / f"annotations_ctx{len(CONTEXT_59)}" / SPLITS[split]
        if self.classes == CONTEXT_LABELS and labels_59.is_dir():
            return list(files_by_stem(labels_59, ".png"))
        return listed_names(devkit(root, "2010") / "ImageSets" / "Main" / f"{split}.txt")

    def targets(self, root: Path, split: str, image: str) -> tuple[Path, Path]:
        """Paths of the label map and the image, for the file name of an image."""
        folder, subfolder = root / CONTEXT_FOLDER, SPLITS[split]
        labels = folder / f"annotations_ctx{self.classes}" / subfolder / image
        suffix = ".tif" if self.classes == CONTEXT_LABELS else ".png"
        return labels.with_suffix(suffix), folder / "images" / subfolder / image

    def parts(self, split: str) -> Sequence[DatasetSpec]:
        """The dataset."""
        return [get_spec(f"openvocab_pascal_ctx{self.classes}_sem_seg_{split}")]

    def check(self, root: Path, split: str, *, images: int, jobs: int) -> Iterator[Report]:
        """As Preparation.check, but also accepts the number of images that have a *.mat file, with a note."""
        for report in super().check(root, split, images=0, jobs=jobs):
            if images != self.images[split] or report.images != MAT_IMAGES[split]:
                yield report.with_count(images)
            else:
                more = f"{report.images:,} images have labels; published results are on {images:,} of them"
                yield report.with_note(f"{more}, those of trainval_merged.json")


class Context59(Context459):
    """PASCAL Context, the 59 most frequent classes (PC-59): label maps; one image folder per split.

    Raw data: VOCdevkit/VOC2010 (or VOC2010) from VOCtrainval_03-May-2010.tar with JPEGImages/, and in it one of
      trainval_merged.json   from PASCAL in Detail, used for published results; contains the splits
      trainval/*.mat         from trainval.tar.gz; splits are those of ImageSets/Main/{train,val}.txt
    If both exist, the first is used. Both number the classes 1..459. The label is the index of the class among the 59,
    and 255 for other classes and unlabeled pixels.
    """

    title = "PASCAL Context, 59 classes"
    download = f"{CONTEXT_DOWNLOAD}, or trainval_merged.json of https://sites.google.com/view/pasd"
    classes = len(CONTEXT_59)

    def raw(self, root: Path, split: str) -> Sequence[Path]:
        """The JSON file and the images if the former exists, else as Context459."""
        json = merged_json(root)
        return [json, json.parent / "JPEGImages"] if json.is_file() else super().raw(root, split)

    def plan(self, root: Path, split: str) -> Sequence[Step]:
        """Creates a label map per image of the split, and collects the images."""
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
                for image in images_of(json, content, split)
            ]
        return [Step(title=f"labels of {split}", items=items, convert=merge_masks)]


def merged_json(root: Path) -> Path:
    """Path of the annotations of PASCAL in Detail."""
    return devkit(root, "2010") / "trainval_merged.json"


def images_of(json: Path, content: Mapping[str, Any], split: str) -> list[dict[str, Any]]:
    """Entries of the images of a split in trainval_merged.json.

    Raises:
        DatasetError: there are none, or an entry has no "phase".
    """
    with coco_form(json):
        images = [image for image in content["images"] if image["phase"] == split]
    if not images:
        raise DatasetError(f"{json}: no image of phase {split!r}; download it again")
    return images


def convert_459(item: Item) -> None:
    """Writes label - 1 as a label map, and links or copies the image."""
    labels = read_mat(item.source)
    write_labels(item.target, np.where(labels == 0, CONTEXT_IGNORE, labels - 1).astype(np.uint16))
    link_or_copy(item.sources[1], item.targets[1])


def convert_59(item: Item) -> None:
    """Writes the class indices as a label map, and links or copies the image."""
    write_labels(item.target, CLASSES_59[read_mat(item.source)])
    link_or_copy(item.sources[1], item.targets[1])


def merge_masks(item: Item) -> None:
    """Pastes masks in order, writes the class indices as a label map, and links or copies the image."""
    height, width, masks = item.data
    labels = np.zeros((height, width), dtype=np.int64)
    for label, segmentation in masks:
        mask = decode_mask(segmentation, height=height, width=width, where=f"{item.source}: a mask")
        labels[mask] = label
    wrong = labels[(labels < 0) | (labels > CONTEXT_LABELS)]
    if wrong.size:
        raise DatasetError(f"{item.source}: category {wrong[0]}; expected 0..{CONTEXT_LABELS}")
    write_labels(item.target, CLASSES_59[labels])
    link_or_copy(item.source, item.targets[1])


def read_mat(path: Path) -> NDArray[np.int64]:
    """Reads the labels (H, W) of a released *.mat file: 1..459, 0 = unlabeled.

    Raises:
        DatasetError: the file is missing, damaged, or not a label map.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        with path.open("rb") as file:
            values = np.asarray(loadmat(file, variable_names=["LabelMap"])["LabelMap"])
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
