# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Datasets of the user's own YAML files, and what a dataset gives."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.panoptic import write_tiny_panoptic
from PIL import Image

from cmpf.data.datasets.catalog import DATASETS
from cmpf.data.datasets.custom import read_dataset_file
from cmpf.data.datasets.custom_values import (
    WrongValueError,
    parse_class_names,
    parse_label,
    parse_label_map,
    parse_test_size,
    parse_text,
    parse_vocabulary,
    with_things,
)
from cmpf.data.datasets.readers import read_coco_panoptic
from cmpf.data.datasets.spec import Dataset, DatasetSpec, PackedSamples
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import DatasetError, VocabularyError
from cmpf.types import Sample

FRUIT = {
    "name": "my_fruit_val",
    "task": "panoptic",
    "images": "images",
    "annotations": "panoptic.json",
    "vocabulary": ["cat, kitten", "dog", "grass"],
}


def write(folder: Path, **content: Any) -> Path:
    path = folder / "fruit.yaml"
    path.write_text(
        yaml.safe_dump({key: value for key, value in {**FRUIT, **content}.items() if value is not None})
    )
    return path


def load(path: Path) -> Dataset:
    return Dataset(*read_dataset_file(path, known=DATASETS))


def issues(path: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        read_dataset_file(path, known=DATASETS)
    return str(caught.value)


def test_a_panoptic_dataset_needs_five_lines(tmp_path: Path) -> None:
    tiny = write_tiny_panoptic(tmp_path, count=2)
    dataset = load(write(tmp_path))
    assert dataset.folder == tmp_path
    assert dataset.spec.evaluators == ("panoptic",)
    assert [sample["image_id"] for sample in dataset.samples] == [1, 2]
    assert dataset.samples[0]["pan_seg_file_name"] == str(
        tmp_path / "panoptic" / "1.png"
    )  # the JSON file's stem
    assert dataset.vocabulary.is_thing == (True, True, True)
    assert len(tiny.ids) == 2


def test_a_panoptic_dataset_may_have_more(tmp_path: Path) -> None:
    write_tiny_panoptic(tmp_path, count=1)
    (tmp_path / "panoptic").rename(tmp_path / "pngs")
    path = write(
        tmp_path,
        panoptic="pngs",
        label_files="semantic",
        instances="instances.json",
        things=["kitten", "dog"],
        test_size=[320, 640],
        ignore_label=254,
        label_map={3: 1, 7: 0, 20: 2},
    )
    dataset = load(path)
    entry = dataset.spec
    assert entry.evaluators == ("panoptic", "instance", "semantic")
    assert (entry.test_size, entry.ignore_label, entry.class_of_label) == ((320, 640), 254, None)
    assert dataset.vocabulary.is_thing == (True, True, False)
    (sample,) = dataset.samples_for("instance", "semantic")
    assert sample["sem_seg_file_name"] == str(tmp_path / "semantic" / "1.png")
    assert [a["category_id"] for a in sample["annotations"]] == [0, 1]  # dog and cat by the map


@pytest.mark.parametrize("folder", [".", "..", "/"])
def test_a_folder_in_place_of_a_panoptic_file_is_told_when_samples_are_read(
    tmp_path: Path, folder: str
) -> None:
    write_tiny_panoptic(tmp_path, count=1)
    dataset = load(write(tmp_path, annotations=folder))
    with pytest.raises(DatasetError, match="is a folder; expected a COCO panoptic JSON file"):
        _ = dataset.samples


@pytest.mark.parametrize("key", ["images", "annotations", "panoptic", "label_files", "instances"])
@pytest.mark.parametrize("path", ["x" * 300, "a\0b", "\ud800", "ab/" * 2000])
def test_a_path_that_no_file_system_allows_is_an_issue(tmp_path: Path, key: str, path: str) -> None:
    content = json.dumps({**FRUIT, key: path})
    (tmp_path / "fruit.yaml").write_text(content)
    assert f"{key}: expected a path that a file system allows, got " in issues(tmp_path / "fruit.yaml")


def test_an_instance_dataset_is_read(tmp_path: Path) -> None:
    write_tiny_panoptic(tmp_path, count=1)
    dataset = load(write(tmp_path, task="instance", annotations="instances.json"))
    assert (dataset.spec.kind, dataset.spec.evaluators) == ("instance", ("instance",))
    assert [a["category_id"] for a in dataset.samples[0]["annotations"]] == [1, 0]


def test_a_semantic_dataset_is_read_with_its_suffixes_and_label_map(tmp_path: Path) -> None:
    for name in ("images/a_rgb.png", "labels/a_gt.png"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / name)
    path = write(
        tmp_path,
        task="semantic",
        annotations="labels",
        image_suffix="_rgb",
        label_suffix="_gt",
        label_map={10: 2},
        ignore_label=0,
    )
    dataset = load(path)
    assert [sample["image_id"] for sample in dataset.samples] == ["a"]
    assert dataset.spec.class_of_label == {10: 2}
    assert (dataset.spec.kind, dataset.spec.evaluators, dataset.spec.ignore_label) == (
        "semantic",
        ("semantic",),
        0,
    )


def test_the_vocabulary_may_be_a_file_beside_it_or_that_of_a_known_dataset(tmp_path: Path) -> None:
    (tmp_path / "fruit.txt").write_text("# isthing: 1 0\n0:apple\n1:grass\n")
    assert load(write(tmp_path, vocabulary="fruit.txt")).vocabulary.is_thing == (True, False)
    coco = "openvocab_coco_2017_val_panoptic_with_sem_seg"
    assert load(write(tmp_path, vocabulary=coco)).vocabulary.num_classes == 133


def test_everything_that_is_wrong_comes_in_one_message(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        name="shapes_val",
        task="panoptic",
        images=None,
        anotations="x",
        zzz=1,
        test_size=800,
        label_suffix="_gt",
        label_map={1: 3},
        things=["plum"],
    )
    message = issues(path)
    assert message.startswith(f"{path} (8 issues): ")
    for part in (
        "images: missing",
        "anotations: unknown, did you mean annotations?",
        "zzz: unknown, known are name, task, ",
        "label_suffix: means nothing for task panoptic, only for semantic",
        "name: shapes_val is a known dataset; choose another name",
        "test_size: expected [shorter side, longest longer side] such as [800, 1333], got 800",
        "things: things names 'plum'",
        "label_map has 1 -> 3, beyond classes 0..2",
    ):
        assert part in message


def test_a_wrong_task_and_a_wrong_vocabulary_are_told_together(tmp_path: Path) -> None:
    (tmp_path / "fruit.txt").write_text("apple\n")
    message = issues(write(tmp_path, task="panoptik", vocabulary="fruit.txt"))
    assert "task: expected panoptic, semantic or instance, got 'panoptik'" in message
    assert f"vocabulary: {tmp_path / 'fruit.txt'}, line 1: 'apple' does not begin with a number" in message
    assert "(1 issue): vocabulary: fruit.dat: neither a file" in issues(
        write(tmp_path, vocabulary="fruit.dat")
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "no YAML file"),
        ("- a", "expected lines KEY: VALUE with name, task, images"),
        ("", "expected lines KEY: VALUE"),
        ("name: a\nname: b\n", "name given twice; keep one"),
        ("name: !!python/object:os.system x\n", "no YAML file"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    assert f"{path}: {message}" in issues(path)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    assert "no such dataset file (looked at /" in issues(tmp_path / "none.yaml")
    assert "cannot be read as a dataset file" in issues(tmp_path)
    (tmp_path / "a.yaml").write_bytes(b"name: \xff\xfe")
    assert "no YAML file" in issues(tmp_path / "a.yaml")


KNOWN = {"fruit_val": lambda: Vocabulary(classes=[["apple"], ["pear"]])}


@pytest.mark.parametrize(
    ("read", "value", "result"),
    [
        (parse_text, " a ", "a"),
        (parse_label, 65535, 65535),
        (parse_test_size, [800, 1333], (800, 1333)),
        (parse_label_map, {7: 0, 8: 0}, {7: 0, 8: 0}),
        (parse_class_names, [], []),
    ],
)
def test_good_values_are_taken(read: Callable[[Any], Any], value: Any, result: Any) -> None:
    assert read(value) == result


@pytest.mark.parametrize(
    ("read", "value", "message"),
    [
        (parse_text, "", "expected text, got ''"),
        (parse_text, None, "expected text, got nothing"),
        (parse_text, 5, "expected text, got 5"),
        (parse_label, 65536, r"expected a whole number 0\.\.65535, got 65536"),
        (parse_label, -1, "whole number"),
        (parse_label, True, "whole number"),
        (parse_test_size, 800, "expected .shorter side, longest longer side. .* got 800"),
        (parse_test_size, [1333, 800], "shorter side"),
        (parse_test_size, [0, 800], "shorter side"),
        (parse_test_size, [800], "shorter side"),
        (parse_label_map, {}, "class index.* got {}"),
        (parse_label_map, [1], "class index"),
        (parse_label_map, {"road": 0}, "class index"),
        (parse_label_map, {70000: 0}, "class index"),
        (parse_class_names, "apple", r"expected a list of class names such as \[apple, pear\], got 'apple'"),
        (parse_class_names, [True], "list of class names"),
        (parse_text, ["x" * 200], r"x\.\.\.$"),
    ],
)
def test_other_values_are_told_with_what_was_expected(
    read: Callable[[Any], Any], value: Any, message: str
) -> None:
    with pytest.raises(WrongValueError, match=message):
        read(value)


def test_a_vocabulary_is_a_file_a_list_or_a_known_dataset(tmp_path: Path) -> None:
    (tmp_path / "fruit.txt").write_text("0:apple,red apple\n1:pear\n")
    from_file = parse_vocabulary("fruit.txt", known=KNOWN, folder=tmp_path)
    assert from_file.classes == (("apple", "red apple"), ("pear",))
    assert (
        parse_vocabulary(["apple, red apple", "pear"], known=KNOWN, folder=tmp_path).classes
        == from_file.classes
    )
    assert parse_vocabulary("fruit_val", known=KNOWN, folder=tmp_path).names == ("apple", "pear")


@pytest.mark.parametrize(("wrong", "near"), [("friut.txt", "fruit.txt"), ("fruit_vall", "fruit_val")])
def test_a_vocabulary_that_is_not_there_is_answered_with_the_nearest(
    tmp_path: Path, wrong: str, near: str
) -> None:
    (tmp_path / "fruit.txt").touch()
    with pytest.raises(
        WrongValueError, match=rf"neither a file \(\S+{wrong}\) nor a known .* did you mean {near}\?"
    ):
        parse_vocabulary(wrong, known=KNOWN, folder=tmp_path)
    with pytest.raises(WrongValueError, match="known dataset; give a vocabulary file"):
        parse_vocabulary("zzz", known=KNOWN, folder=tmp_path / "nowhere")


def test_only_the_named_classes_are_things() -> None:
    words = Vocabulary(classes=[["apple", "red apple"], ["grass"]])
    assert with_things(words, ["red apple"]).is_thing == (True, False)
    assert with_things(words, []).is_thing == (False, False)
    assert with_things(words, ["apple"]).classes == words.classes
    with pytest.raises(VocabularyError, match="plum"):
        with_things(words, ["plum"])


def test_a_vocabulary_of_an_impossible_name_is_an_issue_like_others(tmp_path: Path) -> None:
    assert "vocabulary: xxx" in issues(write(tmp_path, vocabulary="x" * 5000))


WORDS = Vocabulary(classes=[["road"], ["sky"]])


def spec(**options: Any) -> DatasetSpec:
    fields: dict[str, Any] = {
        "name": "a",
        "kind": "semantic",
        "folder": "a",
        "images": "images",
        "truth": {"labels": "labels"},
        "reader": lambda **given: [given],
        "vocabulary": lambda: WORDS,
        "command": "make --out {folder} {x}",
        "evaluators": ("semantic",),
        "class_of_id": {7: 0},
    }
    return DatasetSpec(**{**fields, **options})


def test_paths_are_those_of_images_truth_and_marker() -> None:
    assert spec().paths == ("images", "labels")
    assert spec(marker="complete.json").paths == ("images", "labels", "complete.json")


@pytest.mark.parametrize(("kind", "expected"), [("semantic", {7: 0}), ("panoptic", None), ("instance", None)])
def test_class_of_label_is_for_label_maps_of_semantic_datasets_only(kind: str, expected: Any) -> None:
    assert spec(kind=kind).class_of_label == expected


def test_the_command_names_the_folder_and_keeps_other_braces() -> None:
    assert spec().command_in(Path("/x")) == "make --out /x {x}"


def test_the_reader_gets_paths_words_and_class_of_id_once(tmp_path: Path) -> None:
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    dataset = Dataset(spec(), tmp_path)
    assert dataset.name == "a"
    (given,) = dataset.samples
    assert given == {
        "images": tmp_path / "images",
        "labels": tmp_path / "labels",
        "vocabulary": WORDS,
        "class_of_id": {7: 0},
    }
    assert dataset.samples is dataset.samples


def test_training_and_each_evaluator_read_and_need_their_own_files_only(tmp_path: Path) -> None:
    tiny = write_tiny_panoptic(tmp_path, count=2)
    truth = {
        "annotations": "panoptic.json",
        "panoptic": "panoptic",
        "semantic": "semantic",
        "instances": "instances.json",
    }
    own = spec(
        kind="panoptic",
        truth=truth,
        reader=read_coco_panoptic,
        vocabulary=lambda: tiny.vocabulary,
        evaluators=("panoptic", "instance", "semantic"),
        class_of_id=None,
    )
    keys = {"file_name", "image_id", "height", "width", "pan_seg_file_name", "segments_info"}
    both = Dataset(own, tmp_path).samples_for("instance", "semantic")[0]
    assert both.keys() == keys | {"annotations", "sem_seg_file_name"}
    (tmp_path / "instances.json").unlink()
    for path in (tmp_path / "semantic").iterdir():
        path.unlink()
    dataset = Dataset(own, tmp_path)
    assert dataset.samples[0].keys() == dataset.samples_for("panoptic")[0].keys() == keys
    with pytest.raises(DatasetError, match=rf"a: not on disk .*{tmp_path}/instances\.json \(missing\)"):
        dataset.samples_for("instance")
    with pytest.raises(DatasetError, match=r"missing file \(2\).*no such label map"):
        dataset.samples_for("semantic")
    assert own.paths_for("instance") == ("images", "panoptic.json", "panoptic", "instances.json")


# Packed samples

SAMPLES: list[Sample] = [
    {"file_name": f"{number}.jpg", "image_id": number, "height": 480} for number in range(5)
]


def test_packed_samples_are_a_sequence() -> None:
    packed = PackedSamples(SAMPLES)
    assert len(packed) == 5
    assert list(packed) == SAMPLES
    assert (packed[1], packed[-1], packed[1:4:2]) == (SAMPLES[1], SAMPLES[4], SAMPLES[1:4:2])
    for place in (5, -6):
        with pytest.raises(IndexError):
            packed[place]
    assert list(PackedSamples([])) == []


def test_each_packed_sample_is_a_copy_and_all_travel_to_other_processes() -> None:
    packed = PackedSamples(SAMPLES)
    packed[0]["image_id"] = 99
    assert list(pickle.loads(pickle.dumps(packed))) == SAMPLES


def test_packed_samples_take_a_fraction_of_the_memory() -> None:
    def sample(number: int) -> Sample:
        segments: Any = [
            {"id": 1000 * number + k, "category_id": k, "isthing": True, "area": 3000 + k} for k in range(20)
        ]
        return {
            "file_name": f"/data/coco/train2017/{number:012}.jpg",
            "image_id": number,
            "segments_info": segments,
        }

    tracemalloc.start()
    packed = PackedSamples(sample(number) for number in range(500))
    held, _ = tracemalloc.get_traced_memory()
    plain = [sample(number) for number in range(500)]
    both, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert list(packed) == plain
    assert held < 0.2 * (both - held)
