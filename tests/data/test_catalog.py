# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.prepared_trees import write_prepared_trees
from PIL import Image

import cmpf.data
from cmpf.data.datasets.builtin import SPECS
from cmpf.data.datasets.catalog import (
    DATASETS,
    PathState,
    dataset_names,
    dataset_root,
    get_dataset,
    get_spec,
    get_vocabulary,
    known_vocabularies,
    locate_dataset,
    summarize,
)
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import DatasetError
from cmpf.shapeworld.categories import CATEGORIES
from cmpf.shapeworld.writer import WorldSpec, write_dataset


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset root with a small ShapeWorld."""
    folder = tmp_path_factory.mktemp("root")
    write_dataset(folder / "shapeworld", WorldSpec(train=3, val=2, hard_val=1), progress=False)
    return folder


@pytest.fixture
def datasets(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    return root


@pytest.mark.parametrize(("name", "count"), [("shapes_train", 3), ("shapes_val", 2), ("shapes_hard_val", 1)])
def test_shapeworld_is_read_from_disk(datasets: Path, name: str, count: int) -> None:
    dataset = get_dataset(name)
    assert dataset.name == name
    assert len(dataset.samples) == count
    for sample in dataset.samples_for("semantic"):
        assert Path(sample["file_name"]).is_relative_to(datasets)
        assert all(
            Path(sample[key]).is_file() for key in ("file_name", "pan_seg_file_name", "sem_seg_file_name")
        )
        assert sample["segments_info"]
        assert all(s["category_id"] < dataset.vocabulary.num_classes for s in sample["segments_info"])


@pytest.mark.parametrize("name", ["shapes_train", "shapes_val"])
def test_panoptic_and_semantic_ground_truth_name_the_same_classes(datasets: Path, name: str) -> None:
    for sample in get_dataset(name).samples_for("semantic"):
        rgb = np.asarray(Image.open(sample["pan_seg_file_name"])).astype(int)
        labels = np.asarray(Image.open(sample["sem_seg_file_name"]))
        for segment in sample["segments_info"]:
            inside = labels[rgb @ [1, 256, 65536] == segment["id"]]
            assert set(inside.tolist()) == {segment["category_id"]}


def test_training_knows_the_seen_categories_only_and_testing_all() -> None:
    training, testing = get_vocabulary("shapes_train"), get_vocabulary("shapes_val")
    assert training.classes == tuple(c.words for c in CATEGORIES if c.seen)
    assert testing.classes == tuple(c.words for c in CATEGORIES)
    assert testing.is_thing == tuple(c.isthing for c in CATEGORIES)
    assert testing.seen_in(training) == tuple(c.seen for c in CATEGORIES)
    assert get_vocabulary("shapes_hard_val") == testing


def test_the_vocabulary_files_on_disk_are_those_of_the_table(datasets: Path) -> None:
    for name, file in (("shapes_train", "vocabulary_seen.txt"), ("shapes_val", "vocabulary_all.txt")):
        assert Vocabulary.from_file(datasets / "shapeworld" / file) == get_vocabulary(name)


def test_samples_are_read_when_first_asked_for_and_once(datasets: Path) -> None:
    dataset = get_dataset("shapes_val")
    assert "samples" not in vars(dataset)
    assert dataset.samples is dataset.samples


def test_the_root_is_read_when_a_dataset_is_asked_for(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(DatasetError, match=f"shapes_val: .*{tmp_path}"):
        get_dataset("shapes_val")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    assert get_dataset("shapes_val").folder == root / "shapeworld"


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_root_datasets_lie_in_the_working_folder(
    value: str | None, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    if value is not None:
        monkeypatch.setenv("DETECTRON2_DATASETS", value)
    assert dataset_root() == Path("datasets")


def test_an_unknown_dataset_is_answered_with_the_known_ones() -> None:
    for ask in (get_dataset, get_vocabulary, get_spec):
        with pytest.raises(DatasetError) as caught:
            ask("shape_val")
        message = str(caught.value)
        assert message.startswith("shape_val: unknown dataset; did you mean shapes_val?")
        assert all(name in message for name in dataset_names())


def test_a_missing_dataset_names_every_path_and_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(DatasetError) as caught:
        get_dataset("shapes_val")
    message = str(caught.value)
    folder = tmp_path / "shapeworld"
    assert message.startswith(f"shapes_val: not on disk (DETECTRON2_DATASETS = {tmp_path})")
    for path in ("val/images", "val/panoptic.json", "val/panoptic", "val/semantic", "val/instances.json"):
        assert f"{folder / path} (missing)" in message
    assert f"Make it with: python -m cmpf.shapeworld --out {folder} " in message


def test_a_half_written_dataset_is_not_taken_for_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_dataset(tmp_path / "shapeworld", WorldSpec(train=0, val=1), progress=False)
    assert get_dataset("shapes_val")
    (tmp_path / "shapeworld" / "complete.json").unlink()
    with pytest.raises(DatasetError, match=r"val/images \(found\).*complete\.json \(missing\)"):
        get_dataset("shapes_val")


def test_every_row_is_found_by_its_name() -> None:
    assert all(spec.name == name for name, spec in DATASETS.items())
    assert len(SPECS) == len(DATASETS)
    assert dataset_names()[:2] == (
        "openvocab_coco_2017_train_panoptic_with_sem_seg",
        "openvocab_coco_2017_val_panoptic_with_sem_seg",
    )


def test_each_known_vocabulary_comes_once_coco_first() -> None:
    vocabularies = known_vocabularies()
    assert vocabularies[0] == get_vocabulary("openvocab_coco_2017_train_panoptic_with_sem_seg")
    assert len({vocabulary.key for vocabulary in vocabularies}) == len(vocabularies)
    assert {spec.vocabulary().key for spec in SPECS} == {vocabulary.key for vocabulary in vocabularies}


def fruit_file(folder: Path) -> Path:
    """A semantic dataset of one image, described by a YAML file."""
    for name in ("images/a.jpg", "labels/a.png"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
    path = folder / "fruit.yaml"
    path.write_text(
        "name: fruit_val\ntask: semantic\nimages: images\nannotations: labels\nvocabulary: [apple, pear]\n"
    )
    return path


def test_a_yaml_file_is_a_dataset_whatever_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", "/nowhere")
    name = f"file:{fruit_file(tmp_path)}"
    dataset = get_dataset(name)
    assert dataset.name == "fruit_val"
    assert [sample["image_id"] for sample in dataset.samples] == ["a"]
    assert get_spec(name).kind == "semantic"
    assert get_vocabulary(name).names == ("apple", "pear")


def test_missing_paths_of_a_yaml_file_name_the_file_to_correct(tmp_path: Path) -> None:
    path = fruit_file(tmp_path)
    (tmp_path / "labels" / "a.png").unlink()
    (tmp_path / "labels").rmdir()
    with pytest.raises(DatasetError) as caught:
        get_dataset(f"file:{path}")
    assert str(caught.value) == (
        f"fruit_val: not on disk (paths are relative to {tmp_path}, where {path} is). Looked for "
        f"{tmp_path / 'images'} (found), {tmp_path / 'labels'} (missing). Correct the paths in {path}"
    )
    assert locate_dataset(f"file:{path}").folder == tmp_path


def test_coco_panoptic_has_its_80_things_and_53_kinds_of_stuff() -> None:
    vocabulary = get_vocabulary("openvocab_coco_2017_train_panoptic_with_sem_seg")
    assert (vocabulary.num_classes, len(vocabulary.things)) == (133, 80)
    assert vocabulary.names[:2] == ("person", "bicycle")


TRAINING = Vocabulary(classes=[["aeroplane"], ["sky"]])
NAME = "openvocab_pascal20_sem_seg_val"


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def test_a_whole_dataset_is_summed_up(prepared: Path) -> None:
    write_prepared_trees(prepared)
    summary = summarize(NAME, TRAINING)
    assert (summary.name, summary.kind, summary.folder) == (NAME, "semantic", prepared / "pascal_voc_d2")
    assert (summary.images, summary.issue) == (2, "")
    assert [state.found for state in summary.paths] == [True, True]
    assert len(summary.classes) == 20
    assert summary.classes == get_vocabulary(NAME).names
    assert (
        set(summary.things) | set(summary.stuff)
        == set(summary.seen) | set(summary.unseen)
        == set(summary.classes)
    )
    assert (summary.ignore_label, summary.test_size, summary.evaluators) == (255, (800, 1333), ("semantic",))


def test_classes_are_seen_against_the_training_vocabulary(prepared: Path) -> None:
    summary = summarize(NAME, Vocabulary(classes=[["dog"], ["sky"]]))
    assert summary.seen == ("dog",)
    assert len(summary.unseen) == 19
    assert summarize("shapes_val", get_vocabulary("shapes_val")).unseen == ()


def test_a_dataset_that_is_not_there_says_what_is_missing_and_how_to_make_it(prepared: Path) -> None:
    (prepared / "pascal_voc_d2" / "images" / "validation").mkdir(parents=True)
    summary = summarize(NAME, TRAINING)
    labels = prepared / "pascal_voc_d2" / "annotations_pascal20" / "validation"
    assert summary.images is None
    assert summary.issue == f"missing {labels}"
    assert summary.paths == (
        PathState(prepared / "pascal_voc_d2" / "images" / "validation", True),
        PathState(labels, False),
    )
    assert summary.command == "cmpf datasets prepare pascal_voc"


def test_a_dataset_that_is_not_whole_says_why(prepared: Path) -> None:
    write_prepared_trees(prepared)
    image = prepared / "pascal_voc_d2" / "images" / "validation" / "2008_000002.jpg"
    image.unlink()
    summary = summarize(NAME, TRAINING)
    assert summary.images is None
    assert "has no image " in summary.issue


def test_an_unknown_dataset_is_an_error() -> None:
    with pytest.raises(DatasetError, match="unknown dataset"):
        summarize("pascal", TRAINING)


def test_every_name_that_type_checkers_see_can_be_imported_and_no_other() -> None:
    tree = ast.parse(Path(cmpf.data.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    promised = {alias.name: node.module for node in imports for alias in node.names}
    assert promised
    assert promised == cmpf.data._MODULE_OF
    for name, module in promised.items():
        assert getattr(cmpf.data, name) is getattr(sys.modules[str(module)], name)
        assert name in dir(cmpf.data)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'cmpf\.data' has no attribute 'get_datsaet'"):
        cmpf.data.get_datsaet  # noqa: B018


def test_the_generator_does_not_wait_for_torch() -> None:
    code = "import sys, cmpf.shapeworld.writer; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
