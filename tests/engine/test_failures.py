# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from cmpf.engine.failures import IssueCounter, batch_names, failure, images_of_all, record_failure

BATCH = [{"file_name": "a.jpg", "image_id": 4}, {"image_id": 7}, {"image": None}]


def test_samples_are_named_by_file_else_by_id() -> None:
    assert batch_names(BATCH) == ["a.jpg", "7", "(no name)"]
    assert batch_names(object()) == []


def test_a_failure_is_written_down_with_names_and_ids(tmp_path: Path) -> None:
    record_failure(tmp_path, iteration=12, issue="loss = nan", batch=BATCH)
    assert json.loads((tmp_path / "failed_batch.json").read_text()) == {
        "iteration": 12,
        "issue": "loss = nan",
        "images": [{"file_name": "a.jpg", "image_id": 4}, {"image_id": 7}, {}],
    }


def test_the_error_names_images_files_and_the_way_on(tmp_path: Path) -> None:
    weights = tmp_path / "model_0000012.safetensors"
    message = str(failure("loss = nan", batch=BATCH, folder=tmp_path, weights=weights))
    assert message.startswith(f"loss = nan. Images of the batch (also in {tmp_path / 'failed_batch.json'}): ")
    assert "a.jpg, 7, (no name)" in message
    assert f"Checkpoint: {weights}." in message
    assert message.endswith("--resume goes on with the next batch")


def test_a_batch_of_an_unknown_kind_is_called_unnamed(tmp_path: Path) -> None:
    assert "failed_batch.json): unnamed. " in str(failure("x", batch=3, folder=tmp_path, weights=tmp_path))


def test_only_what_names_an_image_is_collected() -> None:
    assert images_of_all(BATCH) == [{"file_name": "a.jpg", "image_id": 4}, {"image_id": 7}, {}]
    assert images_of_all(3) == []


def test_only_issues_in_a_row_count(caplog: pytest.LogCaptureFixture) -> None:
    counter = IssueCounter(allowed=3)
    with caplog.at_level(logging.WARNING):
        answers = [
            counter.add(issue, iteration=i, batch=BATCH)
            for i, issue in enumerate(("a", "b", "", "c", "d", "e"))
        ]
    assert answers == [False, False, False, False, False, True]
    assert "iteration 4: d; step left out (2 of 3 in a row). Images: a.jpg, 7, (no name)" in caplog.text
    assert len(caplog.records) == 5
