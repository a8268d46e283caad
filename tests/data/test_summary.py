# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import pytest
from helpers.prepared_trees import write_prepared_trees

from cmpf.data.datasets.catalog import get_vocabulary
from cmpf.data.datasets.summary import PathState, summarize
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import DatasetError

TRAINING = Vocabulary(classes=[["aeroplane"], ["sky"]])
NAME = "openvocab_pascal20_sem_seg_val"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def test_a_whole_dataset_is_summed_up(root: Path) -> None:
    write_prepared_trees(root)
    summary = summarize(NAME, TRAINING)
    assert (summary.name, summary.kind, summary.folder) == (NAME, "semantic", root / "pascal_voc_d2")
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


def test_classes_are_seen_against_the_training_vocabulary(root: Path) -> None:
    summary = summarize(NAME, Vocabulary(classes=[["dog"], ["sky"]]))
    assert summary.seen == ("dog",)
    assert len(summary.unseen) == 19
    assert summarize("shapes_val", get_vocabulary("shapes_val")).unseen == ()


def test_a_dataset_that_is_not_there_says_what_is_missing_and_how_to_make_it(root: Path) -> None:
    (root / "pascal_voc_d2" / "images" / "validation").mkdir(parents=True)
    summary = summarize(NAME, TRAINING)
    labels = root / "pascal_voc_d2" / "annotations_pascal20" / "validation"
    assert summary.images is None
    assert summary.issue == f"missing {labels}"
    assert summary.paths == (
        PathState(root / "pascal_voc_d2" / "images" / "validation", True),
        PathState(labels, False),
    )
    assert summary.command == "cmpf datasets prepare pascal_voc"


def test_a_dataset_that_is_not_whole_says_why(root: Path) -> None:
    write_prepared_trees(root)
    image = root / "pascal_voc_d2" / "images" / "validation" / "2008_000002.jpg"
    image.unlink()
    summary = summarize(NAME, TRAINING)
    assert summary.images is None
    assert "has no image " in summary.issue


def test_an_unknown_dataset_is_an_error() -> None:
    with pytest.raises(DatasetError, match="unknown dataset"):
        summarize("pascal", TRAINING)
