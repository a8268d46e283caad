# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Records keep what was found, whole, through a line of JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers.predictions import garden

from cmpf.errors import DatasetError
from cmpf.labelling.record import ImageRecord, from_json, record_of, to_json


@pytest.fixture
def record() -> ImageRecord:
    return record_of(garden(), "photos/garden.jpg", "ab" * 32)


def test_a_record_holds_both_results_with_their_masks(record: ImageRecord) -> None:
    assert (record.uri, record.height, record.width, record.error) == ("photos/garden.jpg", 6, 8, "")
    cat, grass = record.of_task("panoptic")
    (instance,) = record.of_task("instance")
    assert [s.category for s in (cat, grass, instance)] == ["cat", "grass", "cat"]
    assert (cat.bbox, cat.area, cat.isthing, cat.score) == ((0.0, 0.0, 3.0, 4.0), 12, True, 0.9)
    assert (instance.bbox, instance.area, instance.id) == ((0.0, 0.0, 3.0, 4.0), 12, 1)
    assert instance.score == pytest.approx(0.9, abs=1e-6)
    assert np.array_equal(cat.mask(), garden().panoptic == 1)
    assert np.array_equal(grass.mask(), garden().panoptic == 2)
    assert np.array_equal(instance.mask(), garden().instances.masks[0])


def test_a_task_that_did_not_run_leaves_no_segments() -> None:
    only = replace(garden(), panoptic_result=None)
    assert {segment.task for segment in record_of(only, "a.jpg").segments} == {"instance"}
    neither = replace(only, instances_result=None)
    assert record_of(neither, "a.jpg").segments == ()


def test_a_line_of_json_gives_the_same_record(record: ImageRecord) -> None:
    line = to_json(replace(record, uri="фото\n 1.jpg"))
    assert "\n" not in line
    assert from_json(line) == replace(record, uri="фото\n 1.jpg")
    failed = ImageRecord("b.jpg", "", 0, 0, error="b.jpg: the file is empty")
    assert from_json(to_json(failed)) == failed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": "6"}, "height is '6', expected a value of type int"),
        ({"width": True}, "width is True, expected a value of type int"),
        ({"segments": {}}, "segments is dict, expected a list"),
        ({"segments": [3]}, "segment 0: int, expected an object"),
    ],
)
def test_values_of_another_type_are_refused(
    record: ImageRecord, changes: dict[str, Any], message: str
) -> None:
    content = {**json.loads(to_json(record)), **changes}
    with pytest.raises(DatasetError, match=f"journal.jsonl, line 3.*{message}"):
        from_json(json.dumps(content), "journal.jsonl, line 3")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counts": "0"}, "packed run lengths"),
        ({"size": [6, 9]}, r"run lengths of size \[6, 9\] in an image of \[6, 8\]"),
        ({"task": "depth"}, "task 'depth' of 'decoder', expected"),
        ({"bbox": [1.0, 2.0]}, r"bbox \[1.0, 2.0\], expected four numbers"),
        ({"score": None}, "score is None, expected a value of type float"),
    ],
)
def test_damaged_segments_are_refused(record: ImageRecord, changes: dict[str, Any], message: str) -> None:
    content = json.loads(to_json(record))
    content["segments"][1].update(changes)
    with pytest.raises(DatasetError, match=f"segment 1: {message}"):
        from_json(json.dumps(content))


def test_a_cut_line_is_refused(record: ImageRecord) -> None:
    with pytest.raises(DatasetError, match="a record: not a complete JSON object"):
        from_json(to_json(record)[:-9])
    content = json.loads(to_json(record))
    del content["sha256"]
    with pytest.raises(DatasetError, match="there is no 'sha256'"):
        from_json(json.dumps(content))
