# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The table of known datasets: where people have the files, and what is in them.

Paths are those of Detectron2, OpenSeg and FC-CLIP, so prepared folders load as they are. Vocabulary files name
the classes; a missing one is found out when the vocabulary is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from cmpf.data.datasets.readers import FileNames, read_coco_panoptic, read_lvis, read_semantic
from cmpf.data.datasets.spec import DatasetSpec
from cmpf.data.vocabulary import Vocabulary
from cmpf.shapeworld.categories import CATEGORIES, vocabulary_text

VOCABULARIES = Path(__file__).resolve().parents[2] / "assets" / "vocabularies"
BYTE_IGNORE, WORD_IGNORE = 255, 65535
USUAL_SIZE, STREET_SIZE = (800, 1333), (1024, 2560)  # (shorter side, longest longer side) in testing
SPLITS = {"train": "training", "val": "validation"}

# COCO's category ids have gaps: 80 of 1..90, and 53 kinds of stuff.
_COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_COCO_STUFF = (
    *(92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148, 149),
    *(151, 154, 155, 156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181),
    *range(184, 201),
)
COCO_IDS = (*(identity for identity in range(1, 91) if identity not in _COCO_GAPS), *_COCO_STUFF)
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33)  # label ids of train ids 0..18


def in_order(ids: Iterable[int]) -> dict[int, int]:
    """Category id -> its place in `ids`, which is the class index."""
    return {identity: index for index, identity in enumerate(ids)}


@cache
def _from_file(name: str) -> Vocabulary:
    return Vocabulary.from_file(VOCABULARIES / f"{name}.txt")


def words(name: str) -> Callable[[], Vocabulary]:
    """Reads a vocabulary file of the package when called, and only once."""
    return partial(_from_file, name)


def scripts(*names: str) -> str:
    """Command that runs preparations one after the other."""
    return " && ".join(f"cmpf datasets prepare {name}" for name in names)


def _panoptic(
    name: str, *, truth: tuple[str, str], beside: Mapping[str, str] | None = None, **options: Any
) -> DatasetSpec:
    """A dataset of segments; COCO's evaluators and the usual size, unless told otherwise.

    Args:
        truth: JSON file and folder of PNGs. beside: further ground truth, see read_coco_panoptic.
        options: of DatasetSpec.
    """
    usual = {"evaluators": ("panoptic", "instance", "semantic"), "test_size": USUAL_SIZE}
    return DatasetSpec(
        name=name,
        kind="panoptic",
        truth={"annotations": truth[0], "panoptic": truth[1], **(beside or {})},
        **{"reader": read_coco_panoptic, **usual, **options},
    )


def _coco(split: str) -> DatasetSpec:
    return _panoptic(
        f"openvocab_coco_2017_{split}_panoptic_with_sem_seg",
        folder="coco",
        images=f"{split}2017",
        truth=(f"annotations/panoptic_{split}2017.json", f"panoptic_{split}2017"),
        beside={
            "semantic": f"panoptic_semseg_{split}2017",
            "instances": f"annotations/instances_{split}2017.json",
        },
        vocabulary=words("coco_panoptic"),
        command=f"{scripts('coco_semantic')} (the rest is a download, see datasets/README.md)",
        class_of_id=in_order(COCO_IDS),
    )


def _shapes_words(seen_only: bool) -> Vocabulary:
    chosen = tuple(category for category in CATEGORIES if category.seen or not seen_only)
    return Vocabulary.from_text(vocabulary_text(chosen), source="ShapeWorld")


def _shapes(split: str, *, seen_only: bool = False) -> DatasetSpec:
    return _panoptic(
        f"shapes_{split}",
        folder="shapeworld",
        images=f"{split}/images",
        truth=(f"{split}/panoptic.json", f"{split}/panoptic"),
        beside={"semantic": f"{split}/semantic", "instances": f"{split}/instances.json"},
        vocabulary=partial(_shapes_words, seen_only),
        command="python -m cmpf.shapeworld --out {folder} --train 4000 --val 1000 --hard-val 200",
        marker="complete.json",
        test_size=None,
    )


def _ade20k(split: str) -> DatasetSpec:
    return _panoptic(
        f"openvocab_ade20k_panoptic_{split}",
        folder="ADEChallengeData2016",
        images=f"images/{SPLITS[split]}",
        truth=(f"ade20k_panoptic_{split}.json", f"ade20k_panoptic_{split}"),
        beside={
            "semantic": f"annotations_detectron2/{SPLITS[split]}",
            "instances": f"ade20k_instance_{split}.json",
        },
        vocabulary=words("ade20k_150"),
        command=scripts("ade20k_semantic", "ade20k_panoptic", "ade20k_instances"),
        class_of_id=in_order(range(150)),  # the files' own names have changed over time, their ids have not
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
    return _panoptic(
        f"openvocab_cityscapes_fine_panoptic_{split}",
        folder="cityscapes",
        images=f"leftImg8bit/{split}",
        truth=(f"gtFine/cityscapes_panoptic_{split}.json", f"gtFine/cityscapes_panoptic_{split}"),
        beside={"semantic": f"gtFine/{split}"},
        reader=partial(read_coco_panoptic, names=_CITYSCAPES_NAMES),
        vocabulary=words("cityscapes_19"),
        command=scripts("cityscapes"),
        evaluators=("panoptic", "cityscapes"),
        class_of_id=in_order(CITYSCAPES_IDS),
        test_size=STREET_SIZE,
    )


def _mapillary(split: str) -> DatasetSpec:
    folder = SPLITS[split]
    return _panoptic(
        f"openvocab_mapillary_vistas_panoptic_{split}",
        folder="mapillary_vistas",
        images=f"{folder}/images",
        truth=(f"{folder}/panoptic/panoptic_2018.json", f"{folder}/panoptic"),
        beside={"semantic": f"{folder}/labels"},
        vocabulary=words("mapillary_vistas_65"),
        command=scripts("mapillary_vistas"),
        evaluators=("panoptic", "semantic"),
        class_of_id=in_order(range(1, 66)),  # label maps hold id - 1, and 65 for unlabeled pixels
        ignore_label=65,
        test_size=STREET_SIZE,
    )


_BDD_PANOPTIC = _panoptic(
    "bdd10k_40_panoptic_val",
    folder="bdd100k",
    images="images/10k/val",
    truth=("jsons/pan_seg_val_cocofmt.json", "labels/pan_seg/coco_pano/val"),
    vocabulary=words("bdd100k_40"),
    command=scripts("bdd100k_panoptic"),
    evaluators=("panoptic",),
    class_of_id=in_order(range(1, 41)),
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


def _semantic(name: str, *, labels: str, vocabulary: str, script: str, **options: Any) -> DatasetSpec:
    """A dataset with class indices in label maps; `options` of DatasetSpec."""
    return DatasetSpec(
        name=name,
        kind="semantic",
        truth={"labels": labels},
        reader=read_semantic,
        vocabulary=words(vocabulary),
        command=scripts(script),
        evaluators=("semantic",),
        **{"ignore_label": BYTE_IGNORE, "test_size": USUAL_SIZE, **options},
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


def _both(make: Callable[..., DatasetSpec]) -> tuple[DatasetSpec, DatasetSpec]:
    return make(split="train"), make(split="val")


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
    _BDD_PANOPTIC,
    *_both(partial(_context, 459, ignore_label=WORD_IGNORE)),
    *_both(partial(_context, 59, ignore_label=BYTE_IGNORE)),
    *_both(partial(_voc, 21)),
    *_both(partial(_voc, 20)),
    *_both(_lvis),
    _coco_stuff(_STUFF, "val"),  # the name without a split means the test images
    _coco_stuff(f"{_STUFF}_train", "train"),
    _coco_stuff(f"{_STUFF}_val", "val"),
)
