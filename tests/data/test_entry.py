# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cmpf.data.datasets.spec import Dataset, DatasetSpec
from cmpf.data.vocabulary import Vocabulary

WORDS = Vocabulary(classes=[["road"], ["sky"]])


def entry(**options: Any) -> DatasetSpec:
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
    assert entry().paths == ("images", "labels")
    assert entry(marker="complete.json").paths == ("images", "labels", "complete.json")


@pytest.mark.parametrize(("kind", "expected"), [("semantic", {7: 0}), ("panoptic", None), ("instance", None)])
def test_the_label_map_is_for_label_maps_of_semantic_datasets_only(kind: str, expected: Any) -> None:
    assert entry(kind=kind).class_of_label == expected


def test_the_command_names_the_folder_and_keeps_other_braces() -> None:
    assert entry().command_in(Path("/x")) == "make --out /x {x}"


def test_the_reader_gets_paths_words_and_label_map_once() -> None:
    dataset = Dataset(entry(), Path("/data"))
    assert dataset.name == "a"
    (given,) = dataset.samples
    assert given == {
        "images": Path("/data/images"),
        "labels": Path("/data/labels"),
        "vocabulary": WORDS,
        "class_of_id": {7: 0},
    }
    assert dataset.samples is dataset.samples
