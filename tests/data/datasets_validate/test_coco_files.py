# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.own_dataset import SOURCE, copy_own_dataset

from cmpf.cli.datasets import dataset_name
from cmpf.data.datasets.validate import Mistake, check_dataset
from cmpf.data.datasets.validate.coco_files import read_coco
from cmpf.data.datasets.validate.findings import Findings

EMPTY: dict[str, list[object]] = {"images": [], "annotations": [], "categories": []}


def kind_message(path: Path, wanted: str) -> str:
    findings = Findings()
    assert read_coco(path, wanted, findings) is None
    (found,) = findings.found
    assert (found.mistake, found.file) == (Mistake.JSON_KIND, path)
    return found.message


def test_each_kind_is_taken_where_it_is_wanted() -> None:
    for kind in ("panoptic", "instances"):
        content = read_coco(SOURCE / f"{kind}_val.json", kind, Findings())
        assert content is not None
        assert len(content["images"]) == 4


def test_instances_given_for_panoptic_and_the_other_way_round_are_told() -> None:
    assert kind_message(SOURCE / "instances_val.json", "panoptic") == (
        "holds instances; expected COCO panoptic, with annotations that have 'segments_info'"
    )
    assert kind_message(SOURCE / "panoptic_val.json", "instances") == (
        "holds panoptic; expected COCO instances, with annotations that have 'segmentation'"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"image_id": 1, "score": 0.5}], "holds a list, as results of a model do; expected"),
        ({"images": []}, "holds no COCO ground truth: it has no list 'annotations'; expected"),
        ("text", "holds no COCO ground truth: it has no list 'images'; expected"),
        (EMPTY, "holds no annotations; expected"),
        ({**EMPTY, "annotations": [{"caption": "a cat"}]}, "holds COCO captions; expected"),
        (
            {**EMPTY, "annotations": [{"keypoints": [], "segmentation": []}]},
            "holds COCO keypoints; expected",
        ),
        ({**EMPTY, "annotations": [{"bbox": []}]}, "holds annotations of no kind that is known; expected"),
    ],
)
def test_other_files_are_called_by_what_they_hold(tmp_path: Path, content: object, message: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert kind_message(tmp_path / "a.json", "panoptic").startswith(message)


def test_folders_missing_files_and_broken_ones_are_told(tmp_path: Path) -> None:
    assert kind_message(tmp_path, "panoptic") == "is a folder; expected a COCO panoptic JSON file"
    (tmp_path / "cut.json").write_text('{"images": [')
    findings = Findings()
    assert read_coco(tmp_path / "cut.json", "panoptic", findings) is None
    assert read_coco(tmp_path / "none.json", "panoptic", findings) is None
    assert [finding.mistake for finding in findings.found] == [Mistake.DAMAGED, Mistake.MISSING]


@pytest.mark.parametrize(
    ("name", "wrong", "expected"),
    [
        ("fruit_train", "instances_train.json", "holds instances; expected COCO panoptic"),
        ("fruit_instances", "panoptic_val.json", "holds panoptic; expected COCO instances"),
        ("fruit_semantic", "panoptic_val.json", "is a file; a semantic dataset has a folder"),
        ("fruit_instances", "labels/val", "is a folder; expected a COCO instances JSON file"),
    ],
)
def test_a_dataset_with_annotations_of_another_task_says_so(
    tmp_path: Path, name: str, wrong: str, expected: str
) -> None:
    own = copy_own_dataset(tmp_path)
    file = own / f"{name}.yaml"
    lines = file.read_text().splitlines()
    changed = [f"annotations: {wrong}" if line.startswith("annotations:") else line for line in lines]
    file.write_text("\n".join(changed))
    found = [f for f in check_dataset(dataset_name(str(file))) if f.mistake is Mistake.JSON_KIND]
    assert [finding.file for finding in found] == [own / wrong]
    assert found[0].message.startswith(expected)
