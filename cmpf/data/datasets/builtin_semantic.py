# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Rows of the table of known datasets whose ground truth is label maps alone."""

from __future__ import annotations

from functools import partial
from typing import Any

from cmpf.data.datasets.published import BYTE_IGNORE, SPLITS, USUAL_SIZE, WORD_IGNORE, scripts, words
from cmpf.data.datasets.readers import read_semantic
from cmpf.data.datasets.spec import DatasetSpec


def _semantic(name: str, *, labels: str, vocabulary: str, script: str, **options: Any) -> DatasetSpec:
    """A dataset with class indices in label maps; `options` of DatasetSpec."""
    return DatasetSpec(
        name=name,
        kind="semantic",
        truth={"labels": labels},
        vocabulary=words(vocabulary),
        command=scripts(script),
        evaluators=("semantic",),
        **{"reader": read_semantic, "ignore_label": BYTE_IGNORE, "test_size": USUAL_SIZE, **options},
    )


def ade20k_full(split: str) -> DatasetSpec:
    """A-847: label maps of 16 bits."""
    return _semantic(
        f"openvocab_ade20k_full_sem_seg_{split}",
        folder="ADE20K_2021_17_01",
        images=f"images_detectron2/{SPLITS[split]}",
        labels=f"annotations_detectron2/{SPLITS[split]}",
        vocabulary="ade20k_847",
        script="ade20k_full",
        ignore_label=WORD_IGNORE,
    )


def context(classes: int, split: str, *, ignore_label: int) -> DatasetSpec:
    """PASCAL Context with 59 or 459 classes, which share a folder of images."""
    return _semantic(
        f"openvocab_pascal_ctx{classes}_sem_seg_{split}",
        folder="pascal_ctx_d2",
        images=f"images/{SPLITS[split]}",
        labels=f"annotations_ctx{classes}/{SPLITS[split]}",
        vocabulary=f"pascal_context_{classes}",
        script=f"pascal_context_{classes}",
        ignore_label=ignore_label,
    )


def voc(classes: int, split: str) -> DatasetSpec:
    """PASCAL VOC with 21 classes, or with 20, without background."""
    return _semantic(
        f"openvocab_pascal{classes}_sem_seg_{split}",
        folder="pascal_voc_d2",
        images=f"images/{SPLITS[split]}",
        labels=f"annotations_pascal{classes}/{SPLITS[split]}",
        vocabulary=f"pascal_voc_{classes}",
        script="pascal_voc",
    )


def ade20k_semantic(split: str) -> DatasetSpec:
    """The label maps of ADE20K's 150 classes alone."""
    return _semantic(
        f"openvocab_ade20k_sem_seg_{split}",
        folder="ADEChallengeData2016",
        images=f"images/{SPLITS[split]}",
        labels=f"annotations_detectron2/{SPLITS[split]}",
        vocabulary="ade20k_150",
        script="ade20k_semantic",
    )


def _coco_stuff(name: str, split: str) -> DatasetSpec:
    return _semantic(
        f"openvocab_coco_2017_{name}_stuff_sem_seg",
        folder="coco",
        images=f"{split}2017",
        labels=f"stuffthingmaps_detectron2/{split}2017",
        vocabulary="coco_stuff_171",
        script="coco_stuff",
        # Other programs write no label map for an image without a labeled pixel.
        reader=partial(read_semantic, labeled_only=True),
    )


BDD_SEMANTIC = _semantic(
    "bdd10k_val_sem_seg",
    folder="bdd100k",
    images="images/10k/val",
    labels="labels/sem_seg/masks/val",
    vocabulary="bdd100k_19",
    script="bdd100k_semantic",
)
STUFF_TRAIN, STUFF_TEST = _coco_stuff("train", "train"), _coco_stuff("test", "val")
