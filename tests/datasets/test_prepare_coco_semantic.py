# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.preparing import Case
from helpers.raw_datasets import load_script
from helpers.raw_datasets.coco import make_coco
from PIL import Image

from cmpf.data.datasets.builtin_parts import COCO_IDS

CASE = Case(script="prepare_coco_semantic", make=(make_coco,), raw="", target="")
LABELS = "coco/panoptic_semseg_val2017/000000000139.png"
JSON = "coco/annotations/panoptic_val2017.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_coco(tmp_path)
    return tmp_path


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_segments_become_classes_and_crowds_keep_theirs(root: Path) -> None:
    assert CASE.run(root) == 0
    labels = np.array(Image.open(root / LABELS))
    assert labels.dtype == np.uint8
    # A grid of 2 x 3 blocks of 32 x 32: person, person, crowd of cars | sky (187), void, rug (200, the last one).
    # Car is id 3, so class 2. Sky: 80 things come before; of the stuff ids, 92 .. 181 are 36 and 184, 185, 186 three.
    assert labels[::32, ::32].tolist() == [[0, 0, 2], [80 + 36 + 3, 255, 132]]
    assert np.array_equal(labels, np.kron(labels[::32, ::32], np.ones((32, 32), dtype=np.uint8)))


def test_classes_are_those_of_the_catalog() -> None:
    assert tuple(load_script("prepare_coco_semantic").CLASS_OF) == COCO_IDS


def test_segments_that_the_json_file_lacks_are_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(root / JSON, lambda content: content["annotations"][0]["segments_info"].pop(0))
    assert CASE.run(root) == 1
    error = capsys.readouterr().err
    assert "coco/panoptic_val2017/000000000139.png: segments [3226956] are not in the JSON file" in error
    assert not (root / LABELS).exists()
    assert (root / "coco/panoptic_semseg_val2017/000000000285.png").exists()


def test_a_json_file_of_another_kind_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(root / JSON, lambda content: content["annotations"][0].pop("segments_info"))
    assert CASE.run(root) == 1
    assert f"{root / JSON}: not COCO's panoptic file (KeyError('segments_info'))" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c["annotations"][0]["segments_info"].pop(), "segments in the PNG alone: 1"),
        (
            lambda c: c["annotations"][0]["segments_info"].append({"id": 7, "category_id": 1}),
            "segments in the JSON file alone: 1",
        ),
        (
            lambda c: c["annotations"][0]["segments_info"][0].update(area=5),
            "areas that differ from the PNG's: 1",
        ),
        (lambda c: c["annotations"][0]["segments_info"][0].update(category_id=12), "category id 12"),
        (lambda c: c["images"].append(c["images"][0]), "doubled image ids: 1"),
        (lambda c: c["annotations"].append(c["annotations"][0]), "images with two entries: 1"),
        (lambda c: c["annotations"].pop(), "images without entries in the JSON file: 1"),
        (lambda c: c["images"].pop(), "entries without image: 1"),
        (lambda c: c["images"][0].update(height=63), "sizes that differ from the JSON file's: 1"),
    ],
)
def test_the_check_compares_the_json_file_with_the_pngs(
    root: Path, capsys: pytest.CaptureFixture[str], change, expected: str
) -> None:
    assert CASE.run(root) == 0
    edit(root / JSON, change)
    assert CASE.check(root) == 1
    assert expected in capsys.readouterr().out


def test_the_check_looks_at_instances(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert CASE.run(root) == 0
    instances = root / "coco/annotations/instances_val2017.json"
    edit(instances, lambda c: c["annotations"][0].update(category_id=187))
    assert CASE.check(root) == 1
    assert "unknown categories: 1" in capsys.readouterr().out
