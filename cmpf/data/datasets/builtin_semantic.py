# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Specs of the built-in semantic datasets."""

from __future__ import annotations

from functools import partial
from typing import Any

from cmpf.data.datasets.constants import IGNORE_8_BIT, IGNORE_16_BIT, SPLITS, USUAL_SIZE, prepare_command
from cmpf.data.datasets.readers import read_semantic
from cmpf.data.datasets.spec import DatasetSpec, Shipped


def _semantic(name: str, *, labels: str, vocabulary: str, preparation: str, **options: Any) -> DatasetSpec:
    """A dataset with class indices in label maps; `options` are fields of DatasetSpec."""
    return DatasetSpec(
        name=name,
        kind="semantic",
        truth={"labels": labels},
        vocabulary=Shipped(vocabulary),
        command=prepare_command(preparation),
        evaluators=("semantic",),
        **{"reader": read_semantic, "ignore_label": IGNORE_8_BIT, "test_size": USUAL_SIZE, **options},
    )


def ade20k_full(split: str) -> DatasetSpec:
    """ADE20K with 847 classes (A-847), 16-bit label maps."""
    return _semantic(
        f"openvocab_ade20k_full_sem_seg_{split}",
        folder="ADE20K_2021_17_01",
        images=f"images_detectron2/{SPLITS[split]}",
        labels=f"annotations_detectron2/{SPLITS[split]}",
        vocabulary="ade20k_847",
        preparation="ade20k_full",
        ignore_label=IGNORE_16_BIT,
    )


def context(classes: int, split: str, *, ignore_label: int) -> DatasetSpec:
    """PASCAL Context with 59 or 459 classes; both share a folder of images."""
    return _semantic(
        f"openvocab_pascal_ctx{classes}_sem_seg_{split}",
        folder="pascal_ctx_d2",
        images=f"images/{SPLITS[split]}",
        labels=f"annotations_ctx{classes}/{SPLITS[split]}",
        vocabulary=f"pascal_context_{classes}",
        preparation=f"pascal_context_{classes}",
        ignore_label=ignore_label,
    )


def voc(classes: int, split: str) -> DatasetSpec:
    """PASCAL VOC with 21 classes, or 20 without background."""
    return _semantic(
        f"openvocab_pascal{classes}_sem_seg_{split}",
        folder="pascal_voc_d2",
        images=f"images/{SPLITS[split]}",
        labels=f"annotations_pascal{classes}/{SPLITS[split]}",
        vocabulary=f"pascal_voc_{classes}",
        preparation="pascal_voc",
    )


def ade20k_semantic(split: str) -> DatasetSpec:
    """ADE20K with 150 classes, label maps only."""
    return _semantic(
        f"openvocab_ade20k_sem_seg_{split}",
        folder="ADEChallengeData2016",
        images=f"images/{SPLITS[split]}",
        labels=f"annotations_detectron2/{SPLITS[split]}",
        vocabulary="ade20k_150",
        preparation="ade20k_semantic",
    )


def _coco_stuff(name: str, split: str) -> DatasetSpec:
    return _semantic(
        f"openvocab_coco_2017_{name}_stuff_sem_seg",
        folder="coco",
        images=f"{split}2017",
        labels=f"stuffthingmaps_detectron2/{split}2017",
        vocabulary="coco_stuff_171",
        preparation="coco_stuff",
        # Other preparation scripts write no label map for an image without labeled pixels.
        reader=partial(read_semantic, labeled_only=True),
    )


BDD_SEMANTIC = _semantic(
    "bdd10k_val_sem_seg",
    folder="bdd100k",
    images="images/10k/val",
    labels="labels/sem_seg/masks/val",
    vocabulary="bdd100k_19",
    preparation="bdd100k_semantic",
)
STUFF_TRAIN, STUFF_TEST = _coco_stuff("train", "train"), _coco_stuff("test", "val")
