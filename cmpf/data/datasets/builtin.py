# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The table of known datasets: where people have the files, and what is in them.

Paths are those of Detectron2, OpenSeg and FC-CLIP, so prepared folders load as they are. Vocabulary files name
the classes; a missing one is found out when the vocabulary is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cmpf.data.datasets.builtin_semantic import (
    BDD_SEMANTIC,
    STUFF_TEST,
    STUFF_TRAIN,
    ade20k_full,
    ade20k_semantic,
    context,
    voc,
)
from cmpf.data.datasets.published import (
    ADE20K_THINGS,
    BYTE_IGNORE,
    CITYSCAPES_IDS,
    COCO_IDS,
    COCO_THINGS,
    SPLITS,
    STREET_SIZE,
    USUAL_SIZE,
    WORD_IGNORE,
    in_order,
    scripts,
    things_of,
    words,
)
from cmpf.data.datasets.readers import (
    FileNames,
    read_coco_instances,
    read_coco_panoptic,
    read_lvis,
)
from cmpf.data.datasets.spec import DatasetSpec
from cmpf.data.vocabulary import Vocabulary
from cmpf.shapeworld.categories import CATEGORIES, vocabulary_text


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
        hidden_stuff=True,
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


def _with_ending(name: str, *, ending: str) -> str:
    return str(Path(name).with_suffix(ending))


_BDD_PANOPTIC = _panoptic(
    "bdd10k_40_panoptic_val",
    folder="bdd100k",
    images="images/10k/val",
    truth=("jsons/pan_seg_val_cocofmt.json", "jsons/pan_seg/masks/val"),
    # BDD100K's own converter names the PNG in `images`, too, and leaves sizes out.
    reader=partial(read_coco_panoptic, names=FileNames(image_of_png=partial(_with_ending, ending=".jpg"))),
    vocabulary=words("bdd100k_40"),
    command=scripts("bdd100k_panoptic"),
    evaluators=("panoptic",),
    class_of_id=in_order(range(1, 41)),
)


def _instances(name: str, *, annotations: str, **options: Any) -> DatasetSpec:
    """A dataset of objects alone; COCO's evaluator, unless told otherwise. `options` of DatasetSpec."""
    usual = {"reader": read_coco_instances, "evaluators": ("instance",), "test_size": USUAL_SIZE}
    return DatasetSpec(name=name, kind="instance", truth={"annotations": annotations}, **{**usual, **options})


def _coco_instances(split: str) -> DatasetSpec:
    return _instances(
        f"openvocab_coco_2017_{split}",
        folder="coco",
        images=f"{split}2017",
        annotations=f"annotations/instances_{split}2017.json",
        vocabulary=things_of("coco_panoptic"),
        command=f"{scripts('coco_semantic --check')} (images and annotations are a download, see datasets/README.md)",
        class_of_id=in_order(COCO_THINGS),
    )


def _ade20k_instances(split: str) -> DatasetSpec:
    return _instances(
        f"openvocab_ade20k_instance_{split}",
        folder="ADEChallengeData2016",
        images=f"images/{SPLITS[split]}",
        annotations=f"ade20k_instance_{split}.json",
        vocabulary=things_of("ade20k_150"),
        command=scripts("ade20k_instances"),
        class_of_id=in_order(ADE20K_THINGS),
    )


# Images lie in coco/{train,val,test}2017, annotations in lvis/.
_lvis_objects = partial(
    _instances,
    folder="",
    images="coco",
    vocabulary=words("lvis_v1_1203"),
    class_of_id=in_order(range(1, 1204)),
)


def _lvis(split: str) -> DatasetSpec:
    return _lvis_objects(
        f"openvocab_lvis_v1_{split}",
        annotations=f"lvis/lvis_v1_{split}.json",
        reader=read_lvis,
        command=scripts("lvis"),
        evaluators=("lvis",),
    )


def _lvis_test(part: str) -> DatasetSpec:
    """Images whose ground truth only the server of the challenge has."""
    return _lvis_objects(
        f"openvocab_lvis_v1_test_{part}",
        annotations=f"lvis/lvis_v1_image_info_test_{part}.json",
        reader=partial(read_lvis, annotated=False),
        command=f"{scripts('lvis')} (which verifies train and val; test is a download, see datasets/README.md)",
        evaluators=(),
    )


def _both(make: Callable[..., DatasetSpec]) -> tuple[DatasetSpec, DatasetSpec]:
    return make(split="train"), make(split="val")


# Names of earlier versions -> the spec that they mean.
_ALIASES = {
    "openvocab_coco_stuff_164k_sem_seg": STUFF_TEST,
    "openvocab_coco_stuff_164k_sem_seg_train": STUFF_TRAIN,
    "openvocab_coco_stuff_164k_sem_seg_val": STUFF_TEST,
}

SPECS: tuple[DatasetSpec, ...] = (
    *_both(_coco),
    *_both(_coco_instances),
    _shapes("train", seen_only=True),
    _shapes("val"),
    _shapes("hard_val"),
    _shapes("tune"),
    *_both(_ade20k),
    *_both(ade20k_semantic),
    *_both(_ade20k_instances),
    *_both(ade20k_full),
    *_both(_cityscapes),
    *_both(_mapillary),
    BDD_SEMANTIC,
    _BDD_PANOPTIC,
    *_both(partial(context, 459, ignore_label=WORD_IGNORE)),
    *_both(partial(context, 59, ignore_label=BYTE_IGNORE)),
    *_both(partial(voc, 21)),
    *_both(partial(voc, 20)),
    *_both(_lvis),
    _lvis_test("dev"),
    _lvis_test("challenge"),
    STUFF_TRAIN,
    STUFF_TEST,
    *(replace(spec, name=alias, alias_of=spec.name) for alias, spec in _ALIASES.items()),
)
