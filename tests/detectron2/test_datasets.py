# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from helpers.detectron2_host import host_config, needs
from helpers.panoptic import write_tiny_panoptic

from cmpf.data import Vocabulary, dataset_names, get_dataset, get_vocabulary
from cmpf.errors import DatasetError

d2 = needs("cmpf.detectron2")
datasets = needs("cmpf.detectron2.datasets")
data = needs("detectron2.data")
structures = needs("detectron2.structures")


@pytest.fixture
def foreign() -> Iterator[object]:
    yield data.MetadataCatalog.get("fruit")
    data.MetadataCatalog.pop("fruit")


def test_all_datasets_are_in_both_catalogs() -> None:
    assert set(dataset_names()) <= set(data.DatasetCatalog.list())
    assert set(dataset_names()) <= set(data.MetadataCatalog.list())


def test_metadata_of_coco_need_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "openvocab_coco_2017_val_panoptic_with_sem_seg"
    monkeypatch.setenv("DETECTRON2_DATASETS", "/nowhere")
    data.MetadataCatalog.pop(name)
    d2.register_datasets()
    metadata = data.MetadataCatalog.get(name)
    assert metadata.panoptic_json == "/nowhere/coco/annotations/panoptic_val2017.json"
    assert metadata.json_file == "/nowhere/coco/annotations/instances_val2017.json"
    assert metadata.panoptic_root == "/nowhere/coco/panoptic_val2017"
    assert (metadata.evaluator_type, metadata.ignore_label) == ("coco_panoptic_seg", 255)
    assert len(metadata.thing_classes) == 80  # things come first in COCO
    assert len(metadata.stuff_classes) == 133
    assert metadata.thing_dataset_id_to_contiguous_id[90] == 79  # toothbrush, the last thing
    assert 200 not in metadata.thing_dataset_id_to_contiguous_id  # rug, the last stuff
    assert metadata.stuff_dataset_id_to_contiguous_id[200] == 132
    assert metadata.get("keypoint_names") is None
    data.MetadataCatalog.pop(name)
    d2.register_datasets()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("openvocab_ade20k_panoptic_val", "ade20k_panoptic_seg"),
        ("openvocab_cityscapes_fine_panoptic_val", "cityscapes_panoptic_seg"),
        ("openvocab_mapillary_vistas_panoptic_val", "mapillary_vistas_panoptic_seg"),
        ("bdd10k_40_panoptic_val", "coco_panoptic_seg"),
    ],
)
def test_panoptic_datasets_name_the_published_evaluator_with_colors_and_synonyms(
    name: str, kind: str
) -> None:
    metadata, words = data.MetadataCatalog.get(name), get_vocabulary(name)
    assert metadata.evaluator_type == kind
    assert len(metadata.stuff_colors) == len(metadata.stuff_classes) == words.num_classes
    assert len(metadata.thing_colors) == len(metadata.thing_classes)
    assert all(
        len(color) == 3 and all(0 <= value <= 255 for value in color) for color in metadata.stuff_colors
    )
    assert [tuple(synonyms) for synonyms in metadata.synonyms] == list(map(tuple, words.classes))


def test_cityscapes_names_the_folder_of_its_official_ground_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", "/nowhere")
    metadata = datasets.DatasetMetadata(name="openvocab_cityscapes_fine_panoptic_val")
    assert metadata.gt_dir == "/nowhere/cityscapes/gtFine/val"
    assert data.MetadataCatalog.get("openvocab_ade20k_panoptic_val").get("gt_dir") is None


def test_coco_evaluator_where_things_are_mixed_with_stuff_is_warned_about(
    shapeworld: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    needs("cmpf.detectron2").ThingEvaluator("shapes_val", output_dir=str(tmp_path))
    assert caplog.text == ""
    needs("detectron2.evaluation").COCOEvaluator("shapes_val", output_dir=str(tmp_path))
    assert "use cmpf.detectron2.ThingEvaluator('shapes_val') in its place" in caplog.text


def test_where_things_and_stuff_are_mixed_thing_classes_name_all() -> None:
    metadata = data.MetadataCatalog.get("openvocab_ade20k_panoptic_val")
    assert len(metadata.thing_classes) == len(metadata.stuff_classes) == 150
    assert len(metadata.thing_dataset_id_to_contiguous_id) == 100


@pytest.mark.parametrize(
    ("name", "kind"), [("openvocab_lvis_v1_val", "lvis"), ("openvocab_pascal20_sem_seg_val", "sem_seg")]
)
def test_datasets_of_one_task_name_its_evaluator(name: str, kind: str) -> None:
    metadata = data.MetadataCatalog.get(name)
    assert metadata.evaluator_type == kind
    assert metadata.get("panoptic_json") is None


def test_semantic_labels_are_their_own_ids() -> None:
    ids = data.MetadataCatalog.get("openvocab_pascal20_sem_seg_val").stuff_dataset_id_to_contiguous_id
    assert ids == {index: index for index in range(20)}


def test_samples_are_those_of_our_readers_in_detectron2s_form(shapeworld: Path) -> None:
    ours, theirs = (
        get_dataset("shapes_val").samples_for("instance", "semantic"),
        data.DatasetCatalog.get("shapes_val"),
    )
    assert [sample["image_id"] for sample in ours] == [sample["image_id"] for sample in theirs]
    for mine, given in zip(ours, theirs, strict=True):
        assert given["vocabulary"] == "shapes_val"
        assert given["segments_info"] == mine["segments_info"]
        assert all(a["bbox_mode"] == structures.BoxMode.XYWH_ABS for a in given["annotations"])


def test_ids_that_stand_in_the_annotations_are_read_when_asked_for(shapeworld: Path) -> None:
    metadata = data.MetadataCatalog.get("shapes_val")
    words = get_vocabulary("shapes_val")
    assert sorted(metadata.stuff_dataset_id_to_contiguous_id.values()) == list(range(words.num_classes))
    assert sorted(metadata.thing_dataset_id_to_contiguous_id.values()) == list(words.things)


def test_ids_of_a_dataset_that_is_not_there_are_an_error_that_names_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", "/nowhere")
    with pytest.raises(DatasetError, match=r"/nowhere/shapeworld/val/panoptic\.json: cannot be read"):
        datasets.DatasetMetadata(name="shapes_val").thing_dataset_id_to_contiguous_id  # noqa: B018
    with pytest.raises(DatasetError, match="shapes_val: not on disk"):
        data.DatasetCatalog.get("shapes_val")


def test_detectron2s_own_mapper_gives_what_the_model_learns_from(shapeworld: Path) -> None:
    cfg = host_config().clone()
    cfg.defrost()
    cfg.INPUT.MASK_FORMAT, cfg.INPUT.CROP.ENABLED, cfg.INPUT.MIN_SIZE_TRAIN = "bitmask", False, (64,)
    samples = data.DatasetCatalog.get("shapes_train")
    mapped = data.DatasetMapper(cfg, is_train=True)(samples[0])
    (sample,) = needs("cmpf.detectron2.conversion").to_samples(
        [mapped], bgr=False, classes=get_vocabulary("shapes_train")
    )
    segments = samples[0]["segments_info"]
    # Things come from the annotations, stuff from the label map: one target per segment.
    assert sorted(sample["targets"]["labels"].tolist()) == sorted(s["category_id"] for s in segments)
    assert sample["targets"]["masks"].any(dim=0).float().mean() > 0.9  # little is void
    assert sample["image"].dtype is torch.uint8


def test_a_dataset_of_ones_own_is_registered_by_its_file(tmp_path: Path) -> None:
    write_tiny_panoptic(tmp_path, count=2)
    content = {
        "name": "pets",
        "task": "panoptic",
        "images": "images",
        "annotations": "panoptic.json",
        "vocabulary": ["cat", "dog", "grass"],
        "things": ["cat", "dog"],
    }
    (tmp_path / "pets.yaml").write_text(yaml.safe_dump(content))
    name = f"file:{tmp_path / 'pets.yaml'}"
    d2.register_datasets([name])
    assert len(data.DatasetCatalog.get(name)) == 2
    metadata = data.MetadataCatalog.get(name)
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    assert metadata.stuff_dataset_id_to_contiguous_id == {3: 0, 7: 1, 20: 2}
    assert metadata.thing_classes == ["cat", "dog"]
    data.DatasetCatalog.remove(name)
    data.MetadataCatalog.remove(name)


def test_what_another_program_registered_stays() -> None:
    data.DatasetCatalog.register("file:theirs", list)
    d2.register_datasets(["file:theirs"])
    assert data.DatasetCatalog.get("file:theirs") == []
    data.DatasetCatalog.remove("file:theirs")
    data.MetadataCatalog.remove("file:theirs")


def classes(vocabulary: Vocabulary) -> list[tuple[str, bool]]:
    return list(zip(vocabulary.names, vocabulary.is_thing, strict=True))


def test_classes_that_only_detectron2_knows_are_things_or_stuff_as_it_says(foreign: object) -> None:
    foreign.thing_classes = ["apple", "pear"]  # type: ignore[attr-defined]
    assert classes(datasets.vocabulary_of("fruit")) == [("apple", True), ("pear", True)]
    foreign.stuff_classes = ["apple", "pear"]  # type: ignore[attr-defined]
    foreign.thing_dataset_id_to_contiguous_id = {7: 1}  # type: ignore[attr-defined]
    assert classes(datasets.vocabulary_of("fruit")) == [("apple", False), ("pear", True)]


def test_stuff_alone_is_stuff(foreign: object) -> None:
    foreign.stuff_classes = ["bowl"]  # type: ignore[attr-defined]
    assert classes(datasets.vocabulary_of("fruit")) == [("bowl", False)]


def test_two_numberings_are_an_error(foreign: object) -> None:
    foreign.thing_classes, foreign.stuff_classes = ["apple"], ["bowl"]  # type: ignore[attr-defined]
    with pytest.raises(DatasetError, match="class index 0 is 'apple' among its thing_classes and 'bowl'"):
        datasets.vocabulary_of("fruit")


def test_a_dataset_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(DatasetError, match="nowhere_val: no dataset of CMPF, and Detectron2's Metadata"):
        datasets.vocabulary_of("nowhere_val")
    assert "nowhere_val" not in data.MetadataCatalog.list()
