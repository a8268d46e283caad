# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The rows of the table of datasets: where people have the files, and what is in them.

Paths are those of Detectron2, OpenSeg and FC-CLIP, so prepared folders load as they are. Vocabulary files name
the classes; a missing one is found out when the vocabulary is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from cmpf.data.datasets.builtin_parts import (
    BYTE_IGNORE,
    CITYSCAPES_IDS,
    COCO_IDS,
    SPLITS,
    STREET_SIZE,
    USUAL_SIZE,
    WORD_IGNORE,
    in_order,
    scripts,
    words,
)
from cmpf.data.datasets.readers import FileNames, read_coco_panoptic, read_lvis, read_semantic
from cmpf.data.datasets.spec import DatasetSpec
from cmpf.data.vocabulary import Vocabulary
from cmpf.shapeworld.categories import CATEGORIES, vocabulary_text


def _coco(split: str) -> DatasetSpec:
    return DatasetSpec(
        name=f"openvocab_coco_2017_{split}_panoptic_with_sem_seg",
        kind="panoptic",
        folder="coco",
        images=f"{split}2017",
        truth={
            "annotations": f"annotations/panoptic_{split}2017.json",
            "panoptic": f"panoptic_{split}2017",
            "semantic": f"panoptic_semseg_{split}2017",
            "instances": f"annotations/instances_{split}2017.json",
        },
        reader=read_coco_panoptic,
        vocabulary=words("coco_panoptic"),
        command=f"{scripts('coco_semantic')} (the rest is a download, see datasets/README.md)",
        evaluators=("panoptic", "instance", "semantic"),
        class_of_id=in_order(COCO_IDS),
        test_size=USUAL_SIZE,
    )


def _shapes_words(seen_only: bool) -> Vocabulary:
    chosen = tuple(category for category in CATEGORIES if category.seen or not seen_only)
    return Vocabulary.from_text(vocabulary_text(chosen), source="ShapeWorld")


def _shapes(split: str, *, seen_only: bool = False) -> DatasetSpec:
    return DatasetSpec(
        name=f"shapes_{split}",
        kind="panoptic",
        folder="shapeworld",
        images=f"{split}/images",
        truth={
            "annotations": f"{split}/panoptic.json",
            "panoptic": f"{split}/panoptic",
            "semantic": f"{split}/semantic",
            "instances": f"{split}/instances.json",
        },
        reader=read_coco_panoptic,
        vocabulary=partial(_shapes_words, seen_only),
        command="python -m cmpf.shapeworld --out {folder} --train 4000 --val 1000 --hard-val 200",
        evaluators=("panoptic", "instance", "semantic"),
        marker="complete.json",
    )


def _ade20k(split: str) -> DatasetSpec:
    return DatasetSpec(
        name=f"openvocab_ade20k_panoptic_{split}",
        kind="panoptic",
        folder="ADEChallengeData2016",
        images=f"images/{SPLITS[split]}",
        truth={
            "annotations": f"ade20k_panoptic_{split}.json",
            "panoptic": f"ade20k_panoptic_{split}",
            "semantic": f"annotations_detectron2/{SPLITS[split]}",
            "instances": f"ade20k_instance_{split}.json",
        },
        reader=read_coco_panoptic,
        vocabulary=words("ade20k_150"),
        command=scripts("ade20k_semantic", "ade20k_panoptic", "ade20k_instances"),
        evaluators=("panoptic", "instance", "semantic"),
        class_of_id=in_order(range(150)),  # the files' own names have changed over time, their ids have not
        test_size=USUAL_SIZE,
    )


def _cityscapes_file(entry: Mapping[str, Any], ending: str) -> str:
    """bonn_000000_000019 lies in the folder of its town; the JSON file has another name for it."""
    identity = str(entry["id"])
    return f"{identity.split('_')[0]}/{identity}{ending}"


_CITYSCAPES_NAMES = FileNames(
    image=partial(_cityscapes_file, ending="_leftImg8bit.png"),
    semantic=partial(_cityscapes_file, ending="_gtFine_labelTrainIds.png"),
)


def _cityscapes(split: str) -> DatasetSpec:
    return DatasetSpec(
        name=f"openvocab_cityscapes_fine_panoptic_{split}",
        kind="panoptic",
        folder="cityscapes",
        images=f"leftImg8bit/{split}",
        truth={
            "annotations": f"gtFine/cityscapes_panoptic_{split}.json",
            "panoptic": f"gtFine/cityscapes_panoptic_{split}",
            "semantic": f"gtFine/{split}",
        },
        reader=partial(read_coco_panoptic, names=_CITYSCAPES_NAMES),
        vocabulary=words("cityscapes_19"),
        command=scripts("cityscapes"),
        evaluators=("panoptic", "cityscapes"),
        class_of_id=in_order(CITYSCAPES_IDS),
        test_size=STREET_SIZE,
    )


def _mapillary(split: str) -> DatasetSpec:
    return DatasetSpec(
        name=f"openvocab_mapillary_vistas_panoptic_{split}",
        kind="panoptic",
        folder="mapillary_vistas",
        images=f"{SPLITS[split]}/images",
        truth={
            "annotations": f"{SPLITS[split]}/panoptic/panoptic_2018.json",
            "panoptic": f"{SPLITS[split]}/panoptic",
            "semantic": f"{SPLITS[split]}/labels",
        },
        reader=read_coco_panoptic,
        vocabulary=words("mapillary_vistas_65"),
        command=scripts("mapillary_vistas"),
        evaluators=("panoptic", "semantic"),
        class_of_id=in_order(range(1, 66)),  # label maps hold id - 1, and 65 for unlabeled pixels
        ignore_label=65,
        test_size=STREET_SIZE,
    )


def _bdd_panoptic() -> DatasetSpec:
    return DatasetSpec(
        name="bdd10k_40_panoptic_val",
        kind="panoptic",
        folder="bdd100k",
        images="images/10k/val",
        truth={
            "annotations": "jsons/pan_seg_val_cocofmt.json",
            "panoptic": "labels/pan_seg/coco_pano/val",
        },
        reader=read_coco_panoptic,
        vocabulary=words("bdd100k_40"),
        command=scripts("bdd100k_panoptic"),
        evaluators=("panoptic",),
        class_of_id=in_order(range(1, 41)),
        test_size=USUAL_SIZE,
    )


def _lvis(split: str) -> DatasetSpec:
    return DatasetSpec(
        name=f"openvocab_lvis_v1_{split}",
        kind="instance",
        folder="",  # images lie in coco/train2017 and coco/val2017, annotations in lvis/
        images="coco",
        truth={"annotations": f"lvis/lvis_v1_{split}.json"},
        reader=read_lvis,
        vocabulary=words("lvis_v1_1203"),
        command=scripts("lvis"),
        evaluators=("lvis",),
        class_of_id=in_order(range(1, 1204)),
        test_size=USUAL_SIZE,
    )


def _semantic(
    name: str,
    *,
    folder: str,
    images: str,
    labels: str,
    vocabulary: str,
    script: str,
    ignore_label: int = BYTE_IGNORE,
) -> DatasetSpec:
    """A row with class indices in label maps."""
    return DatasetSpec(
        name=name,
        kind="semantic",
        folder=folder,
        images=images,
        truth={"labels": labels},
        reader=read_semantic,
        vocabulary=words(vocabulary),
        command=scripts(script),
        evaluators=("semantic",),
        ignore_label=ignore_label,
        test_size=USUAL_SIZE,
    )


def _ade20k_full(split: str) -> DatasetSpec:
    return _semantic(
        f"openvocab_ade20k_full_sem_seg_{split}",
        folder="ADE20K_2021_17_01",
        images=f"images_detectron2/{SPLITS[split]}",
        labels=f"annotations_detectron2/{SPLITS[split]}",
        vocabulary="ade20k_847",
        script="ade20k_full",
        ignore_label=WORD_IGNORE,
    )


def _context(classes: int, split: str, *, ignore_label: int) -> DatasetSpec:
    return _semantic(
        f"openvocab_pascal_ctx{classes}_sem_seg_{split}",
        folder="pascal_ctx_d2",
        images=f"images/{SPLITS[split]}",
        labels=f"annotations_ctx{classes}/{SPLITS[split]}",
        vocabulary=f"pascal_context_{classes}",
        script=f"pascal_context_{classes}",
        ignore_label=ignore_label,
    )


def _voc(classes: int, split: str) -> DatasetSpec:
    return _semantic(
        f"openvocab_pascal{classes}_sem_seg_{split}",
        folder="pascal_voc_d2",
        images=f"images/{SPLITS[split]}",
        labels=f"annotations_pascal{classes}/{SPLITS[split]}",
        vocabulary=f"pascal_voc_{classes}",
        script="pascal_voc",
    )


def _coco_stuff(name: str, split: str) -> DatasetSpec:
    return _semantic(
        name,
        folder="coco",
        images=f"{split}2017",
        labels=f"stuffthingmaps_detectron2/{split}2017",
        vocabulary="coco_stuff_171",
        script="coco_stuff",
    )


def _both(row: Callable[..., DatasetSpec]) -> tuple[DatasetSpec, DatasetSpec]:
    return row(split="train"), row(split="val")


_BDD_SEMANTIC = _semantic(
    "bdd10k_val_sem_seg",
    folder="bdd100k",
    images="images/10k/val",
    labels="labels/sem_seg/masks/val",
    vocabulary="bdd100k_19",
    script="bdd100k_semantic",
)
_STUFF = "openvocab_coco_stuff_164k_sem_seg"

SPECS: tuple[DatasetSpec, ...] = (
    *_both(_coco),
    _shapes("train", seen_only=True),
    _shapes("val"),
    _shapes("hard_val"),
    *_both(_ade20k),
    *_both(_ade20k_full),
    *_both(_cityscapes),
    *_both(_mapillary),
    _BDD_SEMANTIC,
    _bdd_panoptic(),
    *_both(partial(_context, 459, ignore_label=WORD_IGNORE)),
    *_both(partial(_context, 59, ignore_label=BYTE_IGNORE)),
    *_both(partial(_voc, 21)),
    *_both(partial(_voc, 20)),
    *_both(_lvis),
    _coco_stuff(_STUFF, "val"),  # the name without a split means the test images
    _coco_stuff(f"{_STUFF}_train", "train"),
    _coco_stuff(f"{_STUFF}_val", "val"),
)
