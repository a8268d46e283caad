# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Specs of the built-in datasets.

Paths are those of Detectron2, OpenSeg and FC-CLIP, so folders prepared for them can be used unchanged.
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
from cmpf.data.datasets.constants import (
    ADE20K_THINGS,
    CITYSCAPES_IDS,
    COCO_IDS,
    COCO_THINGS,
    IGNORE_8_BIT,
    IGNORE_16_BIT,
    SPLITS,
    STREET_SIZE,
    USUAL_SIZE,
    index_by_id,
    prepare_command,
)
from cmpf.data.datasets.readers import (
    FileNames,
    read_coco_instances,
    read_coco_panoptic,
    read_lvis,
)
from cmpf.data.datasets.spec import DatasetSpec, Shipped
from cmpf.data.vocabulary import Vocabulary
from cmpf.shapeworld.categories import CATEGORIES, vocabulary_text


def _panoptic(
    name: str, *, truth: tuple[str, str], extra_truth: Mapping[str, str] | None = None, **options: Any
) -> DatasetSpec:
    """A panoptic dataset, by default with COCO's evaluators and test size.

    Args:
        truth: JSON file and folder of PNGs.
        extra_truth: additional ground truth, see read_coco_panoptic.
        options: fields of DatasetSpec.
    """
    defaults = {"evaluators": ("panoptic", "instance", "semantic"), "test_size": USUAL_SIZE}
    return DatasetSpec(
        name=name,
        kind="panoptic",
        truth={"annotations": truth[0], "panoptic": truth[1], **(extra_truth or {})},
        **{"reader": read_coco_panoptic, **defaults, **options},
    )


def _coco(split: str) -> DatasetSpec:
    return _panoptic(
        f"openvocab_coco_2017_{split}_panoptic_with_sem_seg",
        folder="coco",
        images=f"{split}2017",
        truth=(f"annotations/panoptic_{split}2017.json", f"panoptic_{split}2017"),
        extra_truth={
            "semantic": f"panoptic_semseg_{split}2017",
            "instances": f"annotations/instances_{split}2017.json",
        },
        vocabulary=Shipped("coco_panoptic"),
        command=f"{prepare_command('coco_semantic')} (the rest is a download, see datasets/README.md)",
        class_of_id=index_by_id(COCO_IDS),
    )


def _shapes_vocabulary(seen_only: bool) -> Vocabulary:
    categories = tuple(category for category in CATEGORIES if category.seen or not seen_only)
    return Vocabulary.from_text(vocabulary_text(categories), source="ShapeWorld")


def _shapes(split: str, *, seen_only: bool = False) -> DatasetSpec:
    return _panoptic(
        f"shapes_{split}",
        folder="shapeworld",
        images=f"{split}/images",
        truth=(f"{split}/panoptic.json", f"{split}/panoptic"),
        extra_truth={"semantic": f"{split}/semantic", "instances": f"{split}/instances.json"},
        vocabulary=partial(_shapes_vocabulary, seen_only),
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
        extra_truth={
            "semantic": f"annotations_detectron2/{SPLITS[split]}",
            "instances": f"ade20k_instance_{split}.json",
        },
        vocabulary=Shipped("ade20k_150"),
        command=prepare_command("ade20k_semantic", "ade20k_panoptic", "ade20k_instances"),
        hidden_stuff=True,
        class_of_id=index_by_id(range(150)),  # by id, since the names in published files differ
    )


def _cityscapes_file(entry: Mapping[str, Any], suffix: str) -> str:
    """The path bonn/bonn_000000_000019{suffix} from the image id, since the JSON file names no such file."""
    image_id = str(entry["id"])
    return f"{image_id.split('_')[0]}/{image_id}{suffix}"


_CITYSCAPES_NAMES = FileNames(
    image=partial(_cityscapes_file, suffix="_leftImg8bit.png"),
    semantic=partial(_cityscapes_file, suffix="_gtFine_labelTrainIds.png"),
)


def _cityscapes(split: str) -> DatasetSpec:
    return _panoptic(
        f"openvocab_cityscapes_fine_panoptic_{split}",
        folder="cityscapes",
        images=f"leftImg8bit/{split}",
        truth=(f"gtFine/cityscapes_panoptic_{split}.json", f"gtFine/cityscapes_panoptic_{split}"),
        extra_truth={"semantic": f"gtFine/{split}"},
        reader=partial(read_coco_panoptic, names=_CITYSCAPES_NAMES),
        vocabulary=Shipped("cityscapes_19"),
        command=prepare_command("cityscapes"),
        evaluators=("panoptic", "cityscapes"),
        class_of_id=index_by_id(CITYSCAPES_IDS),
        test_size=STREET_SIZE,
    )


def _mapillary(split: str) -> DatasetSpec:
    folder = SPLITS[split]
    return _panoptic(
        f"openvocab_mapillary_vistas_panoptic_{split}",
        folder="mapillary_vistas",
        images=f"{folder}/images",
        truth=(f"{folder}/panoptic/panoptic_2018.json", f"{folder}/panoptic"),
        extra_truth={"semantic": f"{folder}/labels"},
        vocabulary=Shipped("mapillary_vistas_65"),
        command=prepare_command("mapillary_vistas"),
        evaluators=("panoptic", "semantic"),
        class_of_id=index_by_id(range(1, 66)),  # label maps hold id - 1, and 65 in unlabeled pixels
        ignore_label=65,
        test_size=STREET_SIZE,
    )


def _with_suffix(name: str, *, suffix: str) -> str:
    path = Path(name)
    return str(path.parent / f"{path.stem}{suffix}")  # with_suffix refuses "." and "/"


_BDD_PANOPTIC = _panoptic(
    "bdd10k_40_panoptic_val",
    folder="bdd100k",
    images="images/10k/val",
    truth=("jsons/pan_seg_val_cocofmt.json", "jsons/pan_seg/masks/val"),
    # BDD100K's own converter writes the PNG's name into `images`, without sizes.
    reader=partial(read_coco_panoptic, names=FileNames(image_of_png=partial(_with_suffix, suffix=".jpg"))),
    vocabulary=Shipped("bdd100k_40"),
    command=prepare_command("bdd100k_panoptic"),
    evaluators=("panoptic",),
    class_of_id=index_by_id(range(1, 41)),
)


def _instances(name: str, *, annotations: str, **options: Any) -> DatasetSpec:
    """An instance dataset, by default with COCO's evaluator; `options` are fields of DatasetSpec."""
    defaults = {"reader": read_coco_instances, "evaluators": ("instance",), "test_size": USUAL_SIZE}
    return DatasetSpec(
        name=name, kind="instance", truth={"annotations": annotations}, **{**defaults, **options}
    )


def _coco_instances(split: str) -> DatasetSpec:
    return _instances(
        f"openvocab_coco_2017_{split}",
        folder="coco",
        images=f"{split}2017",
        annotations=f"annotations/instances_{split}2017.json",
        vocabulary=Shipped("coco_panoptic", things_only=True),
        command=f"{prepare_command('coco_semantic --check')} "
        "(images and annotations are a download, see datasets/README.md)",
        class_of_id=index_by_id(COCO_THINGS),
    )


def _ade20k_instances(split: str) -> DatasetSpec:
    return _instances(
        f"openvocab_ade20k_instance_{split}",
        folder="ADEChallengeData2016",
        images=f"images/{SPLITS[split]}",
        annotations=f"ade20k_instance_{split}.json",
        vocabulary=Shipped("ade20k_150", things_only=True),
        command=prepare_command("ade20k_instances"),
        class_of_id=index_by_id(ADE20K_THINGS),
    )


# Images are in coco/{train,val,test}2017, annotations in lvis/.
_lvis_spec = partial(
    _instances,
    folder="",
    images="coco",
    vocabulary=Shipped("lvis_v1_1203"),
    class_of_id=index_by_id(range(1, 1204)),
)


def _lvis(split: str) -> DatasetSpec:
    return _lvis_spec(
        f"openvocab_lvis_v1_{split}",
        annotations=f"lvis/lvis_v1_{split}.json",
        reader=read_lvis,
        command=prepare_command("lvis"),
        evaluators=("lvis",),
    )


def _lvis_test(part: str) -> DatasetSpec:
    """Test images of the LVIS challenge, without public ground truth."""
    return _lvis_spec(
        f"openvocab_lvis_v1_test_{part}",
        annotations=f"lvis/lvis_v1_image_info_test_{part}.json",
        reader=partial(read_lvis, annotated=False),
        command=f"{prepare_command('lvis')} (which verifies train and val; test is a download, see datasets/README.md)",
        evaluators=(),
    )


def _both(spec: Callable[..., DatasetSpec]) -> tuple[DatasetSpec, DatasetSpec]:
    return spec(split="train"), spec(split="val")


# Former names.
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
    *_both(partial(context, 459, ignore_label=IGNORE_16_BIT)),
    *_both(partial(context, 59, ignore_label=IGNORE_8_BIT)),
    *_both(partial(voc, 21)),
    *_both(partial(voc, 20)),
    *_both(_lvis),
    _lvis_test("dev"),
    _lvis_test("challenge"),
    STUFF_TRAIN,
    STUFF_TEST,
    *(replace(spec, name=alias, alias_of=spec.name) for alias, spec in _ALIASES.items()),
)
