# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""PASCAL VOC 2012, PASCAL VOC 2010 with the annotations of PASCAL Context, and PASCAL in Detail, as released."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from helpers.raw_datasets.common import HEIGHT, WIDTH, blocks, photo, write_json, write_palette_png
from pycocotools import mask as rle
from scipy.io import savemat

NAMES = {"train": ("2008_000008", "2008_000015"), "val": ("2008_000002", "2008_000003")}
TEST_NAMES = ("2008_000001",)  # images that no split lists
MAT_TEXT = "MATLAB 5.0 MAT-file, Platform: GLNXA64, Created on: Sat Mar 22 14:34:02 2014"
# Background, aeroplane, tv monitor, border, dog, background.
VOC_INDICES = (0, 1, 20, 255, 12, 0)
# Line numbers of labels.txt: accordion, aeroplane, wool | nothing, unknown (431), wood (the last of the 59).
CONTEXT_LABELS = (1, 2, 459, 0, 431, 458)


def make_pascal_voc(root: Path) -> None:
    """VOCdevkit/VOC2012."""
    folder = root / "VOCdevkit" / "VOC2012"
    _make_devkit(folder, "Segmentation")
    for seed, name in enumerate((*NAMES["train"], *NAMES["val"])):
        turned = [*VOC_INDICES[seed:], *VOC_INDICES[:seed]]
        write_palette_png(folder / "SegmentationClass" / f"{name}.png", blocks(turned))
        write_palette_png(folder / "SegmentationObject" / f"{name}.png", blocks([0, 1, 2, 255, 3, 0]))


def make_pascal_context(root: Path) -> None:
    """VOCdevkit/VOC2010 with trainval/*.mat."""
    folder = root / "VOCdevkit" / "VOC2010"
    _make_devkit(folder, "Main")
    (folder / "ImageSets" / "Main" / "aeroplane_val.txt").write_text("2008_000002  1\n2008_000003 -1\n")
    for seed, name in enumerate((*NAMES["train"], *NAMES["val"])):
        turned = [*CONTEXT_LABELS[seed:], *CONTEXT_LABELS[:seed]]
        write_label_map(folder / "trainval" / f"{name}.mat", blocks(turned).astype(np.uint16))


def make_pascal_in_detail(root: Path, *, left_out: tuple[str, ...] = ()) -> None:
    """VOCdevkit/VOC2010 with trainval_merged.json, but without *.mat: the 59 classes and background alone.

    Args:
        left_out: images that it does not list, as the released one leaves out three that have a *.mat.
    """
    folder = root / "VOCdevkit" / "VOC2010"
    _make_devkit(folder, "Main")
    grid = blocks([1, 2, 3, 4, 5, 6])
    images, annotations = [], []
    for phase, names in NAMES.items():
        for name in (n for n in names if n not in left_out):
            image = int(name.replace("_", ""))
            images.append(
                {
                    "file_name": f"{name}.jpg",
                    "phase": phase,
                    "height": HEIGHT,
                    "width": WIDTH,
                    "image_id": image,
                    "date_captured": "31-Oct-2007",
                }
            )
            # A wall (440) of three blocks, a person (284) over the last of them, background (0), wood (458).
            for mask, category in ((grid <= 3, 440), (grid == 3, 284), (grid == 5, 0), (grid == 6, 458)):
                annotations.append(_annotation(len(annotations), image, category, mask))
    write_json(
        folder / "trainval_merged.json",
        {
            "info": {},
            "images": images,
            "annos_segmentation": annotations,
            "annos_occlusion": [],
            "annos_boundary": [],
            "categories": [{"category_id": 440, "name": "wall", "onlysemantic": 1}],
            "parts": [],
        },
    )


def write_label_map(path: Path, labels: np.ndarray, *, key: str = "LabelMap") -> None:
    """Writes a *.mat as MATLAB does: compressed, one variable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {key: labels}, do_compression=True)
    content = path.read_bytes()
    path.write_bytes(MAT_TEXT.ljust(116).encode() + content[116:])  # scipy puts the time there


def _make_devkit(folder: Path, task: str) -> None:
    """Images and lists of splits."""
    lists = folder / "ImageSets" / task
    lists.mkdir(parents=True, exist_ok=True)
    for split, names in {**NAMES, "trainval": (*NAMES["train"], *NAMES["val"])}.items():
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    for seed, name in enumerate((*NAMES["train"], *NAMES["val"], *TEST_NAMES)):
        photo(folder / "JPEGImages" / f"{name}.jpg", seed=seed)


def _annotation(number: int, image: int, category: int, mask: np.ndarray) -> dict[str, Any]:
    encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "iscrowd": 0,
        "area": int(mask.sum()),
        "bbox": [0, 0, 1, 1],
        "parts": [],
        "segmentation": {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")},
    }
