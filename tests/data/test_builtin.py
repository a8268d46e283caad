# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.prepared_trees import SIZE, write_prepared_trees

from cmpf.data.datasets.builtin import SPECS
from cmpf.data.datasets.catalog import get_dataset, get_spec
from cmpf.data.datasets.constants import ADE20K_THINGS, CITYSCAPES_IDS, COCO_IDS, index_by_id, prepare_command
from cmpf.data.datasets.spec import Shipped
from cmpf.data.datasets.validate import report_of
from cmpf.data.mapper import DatasetMapper, InstanceTargets, PanopticTargets, SemanticTargets
from cmpf.data.preparation import PREPARATIONS
from cmpf.errors import DatasetError

ON_DISK = [spec.name for spec in SPECS if not spec.name.startswith("shapes_")]
PANOPTIC = [name for name in ON_DISK if get_spec(name).kind == "panoptic"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared_trees(tmp_path_factory.mktemp("root"))


@pytest.fixture(autouse=True)
def _root(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tree))


def target_source(name: str) -> Any:
    entry = get_spec(name)
    if entry.kind == "semantic":
        classes = len(entry.vocabulary())
        return SemanticTargets(
            num_classes=classes, ignore_label=entry.ignore_label, class_of_id=entry.class_of_label
        )
    return InstanceTargets() if entry.kind == "instance" else PanopticTargets()


# Class indices of left and right in the trees; the highest class is in most, so that vocabulary and files agree.
CLASSES = {
    "openvocab_coco_2017_{}_panoptic_with_sem_seg": (79, 132),
    "openvocab_ade20k_panoptic_{}": (7, 149),
    "openvocab_ade20k_full_sem_seg_{}": (0, 846),
    "openvocab_cityscapes_fine_panoptic_{}": (13, 2),
    "openvocab_mapillary_vistas_panoptic_{}": (0, 64),
    "openvocab_pascal_ctx459_sem_seg_{}": (0, 458),
    "openvocab_pascal_ctx59_sem_seg_{}": (0, 58),
    "openvocab_pascal21_sem_seg_{}": (0, 20),
    "openvocab_pascal20_sem_seg_{}": (0, 19),
    "openvocab_ade20k_sem_seg_{}": (7, 149),
    "openvocab_coco_stuff_164k_sem_seg_{}": (0, 170),
}
EXPECTED = {name.format(split): pair for name, pair in CLASSES.items() for split in ("train", "val")} | {
    "bdd10k_val_sem_seg": (13, 18),
    "bdd10k_40_panoptic_val": (34, 0),
    "openvocab_coco_stuff_164k_sem_seg": (0, 170),
    "openvocab_coco_2017_train_stuff_sem_seg": (0, 170),
    "openvocab_coco_2017_test_stuff_sem_seg": (0, 170),
}
# Datasets of objects alone: the class of the one object that an image has, of so many.
OBJECTS = {
    **{f"openvocab_coco_2017_{split}": ("toothbrush", 79, 80) for split in ("train", "val")},
    **{f"openvocab_ade20k_instance_{split}": ("bed", 0, 100) for split in ("train", "val")},
}
LVIS = [f"openvocab_lvis_v1_{split}" for split in ("train", "val", "test_dev", "test_challenge")]


def test_every_dataset_is_expected_below() -> None:
    assert set(ON_DISK) == {*EXPECTED, *OBJECTS, *LVIS}


@pytest.mark.parametrize("name", OBJECTS)
def test_datasets_of_objects_have_the_things_alone(name: str) -> None:
    dataset, (word, index, count) = get_dataset(name), OBJECTS[name]
    assert (len(dataset.vocabulary), dataset.vocabulary.names[index]) == (count, word)
    assert all(dataset.vocabulary.is_thing)
    mapper = DatasetMapper(augmentations=[], target=InstanceTargets(), image_pad=0)
    for sample in dataset.samples_for(*dataset.spec.evaluators):
        targets = mapper(sample, np.random.default_rng(0))["targets"]
        assert targets["labels"].tolist() == [index]
        assert int(targets["masks"].sum()) == (SIZE[0] - 2) * SIZE[1] // 2
    assert report_of(name).issues == []


def test_things_of_ade20k_are_in_the_order_of_its_classes() -> None:
    everything = get_spec("openvocab_ade20k_panoptic_val").vocabulary()
    objects = get_spec("openvocab_ade20k_instance_val").vocabulary()
    assert everything.things == ADE20K_THINGS
    assert [everything.classes[index] for index in ADE20K_THINGS] == list(objects.classes)


@pytest.mark.parametrize("part", ["dev", "challenge"])
def test_test_images_of_lvis_come_without_ground_truth(part: str, tree: Path) -> None:
    dataset = get_dataset(f"openvocab_lvis_v1_test_{part}")
    first = dataset.samples[0]
    assert first["file_name"] == str(tree / f"coco/test2017/{16 if part == 'dev' else 63:012d}.jpg")
    assert "annotations" not in first
    assert "neg_category_ids" not in first
    assert dataset.spec.evaluators == ()
    assert report_of(dataset.name).issues == []
    with pytest.raises(DatasetError, match=r"\.jpg: no annotations; its dataset lists images alone"):
        DatasetMapper(augmentations=[], target=InstanceTargets(), image_pad=0)(
            first, np.random.default_rng(0)
        )


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("openvocab_coco_stuff_164k_sem_seg", "openvocab_coco_2017_test_stuff_sem_seg"),
        ("openvocab_coco_stuff_164k_sem_seg_val", "openvocab_coco_2017_test_stuff_sem_seg"),
        ("openvocab_coco_stuff_164k_sem_seg_train", "openvocab_coco_2017_train_stuff_sem_seg"),
    ],
)
def test_names_of_earlier_versions_mean_the_same_datasets(alias: str, name: str) -> None:
    assert get_spec(alias).alias_of == name
    assert list(get_dataset(alias).samples) == list(get_dataset(name).samples)
    assert get_spec(name).alias_of == ""


def test_images_of_coco_stuff_without_a_label_map_are_left_out_with_a_line_in_the_log(
    tree: Path, caplog: pytest.LogCaptureFixture
) -> None:
    extra = tree / "coco" / "val2017" / "000000000632.jpg"
    extra.write_bytes((tree / "coco" / "val2017" / "000000000139.jpg").read_bytes())
    labels = tree / "coco" / "stuffthingmaps_detectron2" / "val2017"
    name = "openvocab_coco_2017_test_stuff_sem_seg"
    try:
        found = [Path(sample["file_name"]).stem for sample in get_dataset(name).samples]
        issues = report_of(name).issues
    finally:
        extra.unlink()
    assert found == ["000000000139", "000000000285"]
    expected = f"{extra.parent}: 1 of 3 images have no label map in {labels} and are skipped: 000000000632"
    assert {record.getMessage() for record in caplog.records} == {expected}
    assert issues == []
    orphan = labels / "000000000999.png"
    orphan.write_bytes((labels / "000000000139.png").read_bytes())
    try:
        with pytest.raises(LookupError, match=f"{orphan}: has no image 000000000999"):
            _ = get_dataset(name).samples
    finally:
        orphan.unlink()


@pytest.mark.parametrize("name", list(EXPECTED))
def test_a_prepared_dataset_is_read_to_its_last_pixel(name: str) -> None:
    dataset = get_dataset(name)
    assert len(dataset.samples) == 2
    mapper = DatasetMapper(augmentations=[], target=target_source(name), image_pad=0)
    left, right = EXPECTED[name]
    for sample in dataset.samples:
        targets = mapper(sample, np.random.default_rng(0))["targets"]
        masks = dict(zip(targets["labels"].tolist(), targets["masks"].numpy(), strict=True))
        assert set(masks) == {left, right}
        assert masks[left][2:, : SIZE[1] // 2].all()
        assert masks[right][2:, SIZE[1] // 2 :].all()
        assert not (masks[left] | masks[right])[:2].any()


@pytest.mark.parametrize("name", PANOPTIC)
def test_label_maps_and_objects_of_panoptic_datasets_name_the_same_classes(name: str) -> None:
    dataset = get_dataset(name)
    left, right = EXPECTED[name]
    if "semantic" in dataset.spec.evaluators:
        classes = len(dataset.vocabulary)
        source = SemanticTargets(num_classes=classes, ignore_label=dataset.spec.ignore_label)
        for sample in dataset.samples_for("semantic"):
            labels = source.read(sample)
            assert set(np.unique(labels).tolist()) == {-1, left, right}
    if "instance" in dataset.spec.evaluators:
        for sample in dataset.samples_for("instance"):
            assert [a["category_id"] for a in sample["annotations"]] == [left]
            assert InstanceTargets().read(sample).sum() == (SIZE[0] - 2) * SIZE[1] // 2


@pytest.mark.parametrize("split", ["train", "val"])
def test_lvis_finds_its_images_in_both_folders_of_coco(split: str, tree: Path) -> None:
    first, second = get_dataset(f"openvocab_lvis_v1_{split}").samples
    assert first["file_name"] == str(tree / "coco" / "train2017" / "000000000139.jpg")
    assert second["file_name"] == str(tree / "coco" / f"{split}2017" / "000000000285.jpg")
    assert [a["category_id"] for a in first["annotations"] + second["annotations"]] == [0, 1201]
    assert first["neg_category_ids"] == [1202]


def test_rows_name_the_ignore_labels_and_sizes_of_their_datasets() -> None:
    given = {spec.name: (spec.ignore_label, spec.test_size) for spec in SPECS}
    assert given["openvocab_ade20k_full_sem_seg_val"] == (65535, (800, 1333))
    assert given["openvocab_pascal_ctx459_sem_seg_val"] == (65535, (800, 1333))
    assert given["openvocab_mapillary_vistas_panoptic_val"] == (65, (1024, 2560))
    assert given["openvocab_cityscapes_fine_panoptic_val"] == (255, (1024, 2560))
    assert given["openvocab_pascal21_sem_seg_val"] == (255, (800, 1333))
    assert given["shapes_val"] == (255, None)


def test_rows_name_the_evaluators_of_their_datasets() -> None:
    given = {spec.name: set(spec.evaluators) for spec in SPECS}
    every_task = {"panoptic", "instance", "semantic"}
    assert given["openvocab_ade20k_panoptic_val"] == every_task
    assert given["shapes_val"] == every_task
    assert given["openvocab_cityscapes_fine_panoptic_val"] == {"panoptic", "cityscapes"}
    assert given["openvocab_mapillary_vistas_panoptic_val"] == {"panoptic", "semantic"}
    assert given["bdd10k_40_panoptic_val"] == {"panoptic"}
    assert given["openvocab_lvis_v1_val"] == {"lvis"}
    semantic = [spec for spec in SPECS if spec.kind == "semantic"]
    assert all(spec.evaluators == ("semantic",) for spec in semantic)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_every_row_is_complete(spec: Any) -> None:
    assert all(not Path(path).is_absolute() and ".." not in Path(path).parts for path in spec.paths)
    count = spec.vocabulary().num_classes
    assert spec.class_of_id is None or sorted(spec.class_of_id.values()) == list(range(count))
    prepared = re.findall(r"cmpf datasets prepare (\w+)", spec.command)
    assert prepared or spec.name.startswith("shapes_")
    assert set(prepared) <= set(PREPARATIONS)


def test_an_image_that_nobody_labeled_is_named(tree: Path) -> None:
    extra = tree / "pascal_voc_d2" / "images" / "validation" / "2008_000009.jpg"
    extra.touch()
    with pytest.raises(LookupError, match=rf"{extra}: has no labels 2008_000009"):
        _ = get_dataset("openvocab_pascal20_sem_seg_val").samples
    extra.unlink()


def test_coco_has_80_things_and_53_kinds_of_stuff_with_gaps() -> None:
    assert len(COCO_IDS) == len(set(COCO_IDS)) == 133
    assert list(COCO_IDS) == sorted(COCO_IDS)
    # ids that COCO gave up before its first release
    assert not {12, 26, 29, 30, 45, 66, 68, 69, 71, 83} & set(COCO_IDS)
    assert (COCO_IDS[79], COCO_IDS[80], COCO_IDS[-1]) == (90, 92, 200)


def test_cityscapes_has_19_train_ids() -> None:
    index = index_by_id(CITYSCAPES_IDS)
    assert len(index) == 19
    # road, building, traffic light, sky, person, car, bus, train and bicycle
    assert [index[n] for n in (7, 11, 19, 23, 24, 26, 28, 31, 33)] == [0, 2, 6, 10, 11, 13, 15, 16, 18]


def test_vocabulary_files_are_read_once() -> None:
    assert Shipped("coco_panoptic")() is Shipped("coco_panoptic")()


def test_commands_run_one_after_the_other() -> None:
    assert prepare_command("a", "b") == "cmpf datasets prepare a && cmpf datasets prepare b"


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_a_png_of_bdd100k_without_a_name_is_an_issue(tmp_path: Path, name: str) -> None:
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"image_id": 1, "file_name": name, "segments_info": []}],
        "categories": [],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    spec = get_spec("bdd10k_40_panoptic_val")
    with pytest.raises(DatasetError, match="no such image"):
        spec.reader(
            images=tmp_path,
            annotations=tmp_path / "a.json",
            panoptic=tmp_path,
            vocabulary=spec.vocabulary(),
            class_of_id=spec.class_of_id,
        )
