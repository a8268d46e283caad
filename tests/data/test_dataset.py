# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from helpers.panoptic import write_tiny_panoptic

from cmpf.data.datasets.readers import read_coco_panoptic
from cmpf.data.datasets.spec import Dataset, DatasetSpec, PackedSamples
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import DatasetError
from cmpf.types import Sample

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
