# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.evaluation_data import random_panoptic, shaken, write_ids
from helpers.panoptic_reference import Panoptic, naive_quality
from PIL import Image

from cmpf.errors import DatasetError, EvaluationError
from tools.prediction_files.panoptic import score_panoptic

# Ids as datasets have them: not in order, with gaps.
CATEGORIES = [
    {"id": 90, "name": "sky", "isthing": 0},
    {"id": 3, "name": "cat", "isthing": 1},
    {"id": 17, "name": "dog", "isthing": 1},
    {"id": 55, "name": "never there", "isthing": 0},
]
IDS = (90, 3, 17)  # of the classes 0, 1, 2 of the reference


class Files:
    """Ground truth and prediction of some images on disk; tests spoil them and score."""

    def __init__(self, folder: Path, pairs: list[tuple[Panoptic, Panoptic]]) -> None:
        self.folder = folder
        self.truth: dict[str, Any] = {"annotations": [], "categories": CATEGORIES}
        self.found: dict[str, Any] = {"annotations": []}
        for number, (truth, guess) in enumerate(pairs):
            self.add(self.truth, "gt", truth, number, f"{number}.png")
            self.add(self.found, "pred", guess, number, f"found_{number}.png")

    def add(self, document: dict[str, Any], side: str, panoptic: Panoptic, number: int, name: str) -> None:
        (self.folder / side).mkdir(exist_ok=True)
        ids, segments = panoptic
        write_ids(self.folder / side / name, ids)
        infos = [
            {**s, "category_id": IDS[s["category_id"]], "area": int((ids == s["id"]).sum())} for s in segments
        ]
        document["annotations"].append({"image_id": number, "file_name": name, "segments_info": infos})

    def score(self) -> dict[str, float]:
        for name, document in (("gt.json", self.truth), ("pred.json", self.found)):
            (self.folder / name).write_text(json.dumps(document))
        return score_panoptic(
            gt_json=self.folder / "gt.json",
            gt_dir=self.folder / "gt",
            pred_json=self.folder / "pred.json",
            pred_dir=self.folder / "pred",
            progress=False,
        )["panoptic"]


def random_pairs(count: int) -> list[tuple[Panoptic, Panoptic]]:
    generator = np.random.default_rng(8)
    pairs = []
    for _ in range(count):
        truth = random_panoptic(generator, size=(24, 20), classes=3, crowds=True)
        pairs.append((truth, shaken(generator, *truth, classes=3)))
    return pairs


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path, random_pairs(3))


def test_files_agree_with_the_definition_read_aloud(tmp_path: Path) -> None:
    pairs = random_pairs(30)
    written = Files(tmp_path, pairs)
    written.found["annotations"].reverse()  # the order of the images does not matter
    got = written.score()
    for suffix, classes in {"": [0, 1, 2], "_th": [1, 2], "_st": [0]}.items():
        for metric, value in naive_quality(pairs, classes).items():
            assert got[metric + suffix] == pytest.approx(value, abs=1e-9), metric + suffix
    for place, name in enumerate(("sky", "cat", "dog")):
        assert got[f"PQ-{name}"] == pytest.approx(naive_quality(pairs, [place])["PQ"])
    assert math.isnan(got["PQ-never there"])
    assert 20 < got["PQ"] < 80


def refused(files: Files, message: str) -> None:
    with pytest.raises((DatasetError, EvaluationError), match=message):
        files.score()


def test_images_must_be_the_same_on_both_sides(files: Files) -> None:
    last = files.found["annotations"].pop()
    refused(files, r"pred\.json: no prediction for image_id 2, which .*gt\.json lists")
    files.found["annotations"] += [last, {**last, "image_id": 77}]
    refused(files, r"pred\.json: image_id 77 is not in .*gt\.json")
    files.found["annotations"][-1]["image_id"] = 1
    refused(files, r"pred\.json: annotation listed twice: image_id 1")


def test_ids_must_be_in_image_and_list(files: Files) -> None:
    infos = files.found["annotations"][1]["segments_info"]
    infos.append({"id": 9999, "category_id": 3})
    refused(files, r"found_1\.png and .*pred\.json: prediction lists segments \[9999\], which have no pixel")
    del infos[-1]
    lost = infos.pop()
    refused(files, rf"found_1\.png .*prediction image holds ids \[{lost['id']}\]")
    infos += [lost, lost]
    refused(files, rf"found_1\.png .*prediction lists segment ids \[{lost['id']}\] twice")
    infos.pop()
    stray = files.truth["annotations"][2]["segments_info"].pop()
    refused(files, rf"gt/2\.png and .*gt\.json: ground truth image holds ids \[{stray['id']}\]")


def test_unknown_categories_are_named(files: Files) -> None:
    files.found["annotations"][0]["segments_info"][0]["category_id"] = 4
    refused(files, r"pred\.json: segment 1 of image 0 has category_id 4, which .*gt\.json does not list")
    files.found["annotations"][0]["segments_info"][0]["category_id"] = 3
    files.truth["annotations"][0]["segments_info"][0]["category_id"] = 4
    refused(files, r"gt\.json: segment \d+ of image 0 has category_id 4")


def test_images_must_be_there_whole_and_of_one_size(files: Files) -> None:
    path = files.folder / "pred" / "found_1.png"
    path.rename(files.folder / "kept.png")
    refused(files, r"found_1\.png: no such prediction PNG; .*pred\.json names it")
    path.write_bytes(b"no image")
    refused(files, r"found_1\.png: damaged panoptic PNG")
    Image.open(files.folder / "kept.png").resize((10, 24)).save(path)
    refused(files, r"found_1\.png: the prediction is \(24, 10\)")
    (files.folder / "gt" / "0.png").unlink()
    refused(files, r"gt/0\.png: no such ground truth PNG; .*gt\.json names it")


def test_json_of_another_form_is_refused(files: Files) -> None:
    del files.found["annotations"][0]["file_name"]
    refused(files, r"pred\.json: annotation without 'file_name'")
    files.found = {"annotation": []}
    refused(files, r"pred\.json: no COCO file, it has no list 'annotations' of objects")
    files.truth["categories"] = [{"id": 3, "name": "cat"}]
    refused(files, r"gt\.json: category without 'isthing'")
