# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.cityscapes_truth import (
    CAR,
    IGNORED,
    LABEL_IDS,
    NAMES,
    PERSON,
    ROAD,
    prediction,
    random_street,
    write_truth,
)

from cmpf.errors import EvaluationError
from cmpf.evaluation import CityscapesEvaluator, SemanticEvaluator, cityscapes_scripts

pytest.importorskip("cityscapesscripts", reason="needs pip install cityscapesscripts (extra 'cityscapes')")
SEEN = [index % 2 == 1 for index in range(19)]  # car and person are seen


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where evaluators leave their files, so that a test can look."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.chdir(folder)
    return folder


def street() -> np.ndarray:
    """40 x 60: road, a car of 20 x 20 and a person of 20 x 10; 400 and 200 pixels."""
    truth = np.full((40, 60), ROAD)
    truth[10:30, 5:25] = 1000 * CAR
    truth[10:30, 40:50] = 1000 * PERSON + 1
    return truth


def classes(instances: np.ndarray) -> np.ndarray:
    return np.where(instances >= 1000, instances // 1000, instances)


def test_a_hand_worked_street(tmp_path: Path) -> None:
    truth = street()
    car = np.zeros((40, 60), bool)
    car[10:25, 5:25] = True  # 300 of 400 pixels: IoU 0.75 is more than 0.50, 0.55, 0.60, 0.65, 0.70, 5 of 10
    labels = classes(truth)
    labels[25:30, 5:25] = ROAD  # 100 pixels of the car as road
    judge = CityscapesEvaluator(class_names=NAMES, seen=SEEN)
    judge.process([write_truth(tmp_path, 1, truth)], [prediction(labels, (car, CAR, 0.9))])
    got = judge.evaluate()
    # road 2400 - 600 = 1800 right of 1900; car 300 of 400; person 200 of 200
    assert got["sem_seg"]["IoU-road"] == pytest.approx(100 * 18 / 19)
    assert got["sem_seg"]["IoU-car"] == pytest.approx(75)
    assert got["sem_seg"]["mIoU"] == pytest.approx((100 * 18 / 19 + 75 + 100) / 3)
    assert (got["sem_seg"]["S_mIoU"], got["sem_seg"]["U_mIoU"]) == (
        pytest.approx((75 + 100) / 2),
        pytest.approx(100 * 18 / 19),
    )
    # the person was not found: 0
    assert (got["segm"]["AP-car"], got["segm"]["AP-person"]) == (pytest.approx(50), 0)
    assert (got["segm"]["AP"], got["segm"]["AP50"]) == (pytest.approx(25), pytest.approx(50))
    assert got["segm"]["S_AP"] == pytest.approx(25)
    assert math.isnan(got["segm"]["U_AP"])
    assert math.isnan(got["segm"]["AP-road"])


def test_a_detection_on_unlabeled_pixels_costs_nothing(tmp_path: Path) -> None:
    truth = street()
    truth[30:40, 30:60] = IGNORED
    found = truth == 1000 * CAR
    stray = np.zeros_like(found)
    stray[30:40, 30:60] = True
    judge = CityscapesEvaluator(class_names=NAMES, semantic=False)
    sample = write_truth(tmp_path, 1, truth)
    judge.process([sample], [prediction(classes(truth), (found, CAR, 0.5), (stray, CAR, 0.9))])
    got = judge.evaluate()
    assert list(got) == ["segm"]
    assert got["segm"]["AP-car"] == pytest.approx(100)
    judge.process([sample], [prediction(classes(truth), (found, CAR, 0.5), (~found, CAR, 0.9))])
    # One wrong before one right gives the points (recall, precision) (1, 1/2), (0, 0) and an added (0, 1). Each
    # weighs half the distance between its neighbors' recalls: 1/2 * (1 - 0) / 2 + 0 * (1 - 0) / 2 + 1 * 0 = 1/4.
    assert judge.evaluate()["segm"]["AP-car"] == pytest.approx(25)


def test_official_and_own_miou_agree_on_random_streets(tmp_path: Path) -> None:
    official = CityscapesEvaluator(class_names=NAMES, seen=SEEN)
    own = SemanticEvaluator(class_names=NAMES, ignore_label=IGNORED, seen=SEEN)
    for number in range(6):
        sample, output = random_street(tmp_path, number)
        official.process([sample], [output])
        own.process([sample], [output])
    got, expected = official.evaluate()["sem_seg"], own.evaluate()["sem_seg"]
    for name in expected:
        twin = name if "mIoU" not in name or name.endswith("_union") else f"{name}_union"
        assert got[name] == pytest.approx(expected[twin], abs=1e-9, nan_ok=True), name
    assert 20 < got["mIoU"] < 90
    assert all(0 < got[name] < 100 for name in ("iIoU", "IoU_sup", "iIoU_sup"))


def test_no_file_is_left_anywhere(tmp_path: Path, own_temporary_folder: Path) -> None:
    import cityscapesscripts

    package = Path(cityscapesscripts.__file__).parent
    before = {*package.rglob("*.json")}
    judge = CityscapesEvaluator(class_names=NAMES)
    judge.process(*[[part] for part in random_street(tmp_path, 1)])
    assert os.listdir(own_temporary_folder)
    judge.evaluate()
    assert os.listdir(own_temporary_folder) == []
    assert {*package.rglob("*.json")} == before
    judge.process(*[[part] for part in random_street(tmp_path, 1)])
    judge.reset()
    assert os.listdir(own_temporary_folder) == []


def test_no_image_gives_nan() -> None:
    got = CityscapesEvaluator(class_names=NAMES).evaluate()
    assert sorted(got) == ["segm", "sem_seg"]
    assert all(math.isnan(value) for metrics in got.values() for value in metrics.values())


def test_broken_inputs_are_errors_that_name_the_file(tmp_path: Path) -> None:
    truth = street()
    sample, labels = write_truth(tmp_path, 1, truth), classes(truth)
    judge = CityscapesEvaluator(class_names=NAMES)

    def process(output: Any, **changes: Any) -> None:
        judge.process([{**sample, **changes}], [output])

    with pytest.raises(EvaluationError, match=r"leftImg8bit\.png: the prediction is \(40, 10\)"):
        process(prediction(labels[:, :10]))
    with pytest.raises(EvaluationError, match=r"leftImg8bit\.png: predicted label 19"):
        process(prediction(labels + 19))
    with pytest.raises(EvaluationError, match=r"leftImg8bit\.png: prediction with class index 19"):
        process(prediction(labels, (labels > 0, 19, 0.5)))
    with pytest.raises(EvaluationError, match="returned no instances"):
        process({"sem_seg": prediction(labels)["sem_seg"]})
    with pytest.raises(EvaluationError, match=r"other_labelIds\.png: official ground truth not found"):
        process(prediction(labels), sem_seg_file_name=str(tmp_path / "other_labelTrainIds.png"))
    with pytest.raises(EvaluationError, match="0 outputs for 1 inputs"):
        judge.process([sample], [])
    with pytest.raises(EvaluationError, match="2 outputs for 1 inputs"):
        judge.process([sample], [prediction(labels)] * 2)
    with pytest.raises(EvaluationError, match="2 classes; the official Cityscapes evaluation has 19"):
        CityscapesEvaluator(class_names=["road", "car"])


def test_what_the_script_complains_of_is_an_error_and_no_exit(tmp_path: Path) -> None:
    sample, output = random_street(tmp_path, 1)
    judge = CityscapesEvaluator(class_names=NAMES, instance=False)
    judge.process([sample], [output])
    damaged = Path(sample["sem_seg_file_name"].replace("labelTrainIds", "labelIds"))
    damaged.write_bytes(b"no image")
    with pytest.raises(EvaluationError, match=r"evaluation stopped: Unable to load .*_labelIds\.png"):
        judge.evaluate()


def test_label_ids_are_those_of_the_dataset() -> None:
    pytest.importorskip(
        "cityscapesscripts", reason="needs pip install cityscapesscripts (extra 'cityscapes')"
    )
    assert cityscapes_scripts.label_ids().tolist() == list(LABEL_IDS)


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cityscapesscripts.helpers.labels", None)
    with pytest.raises(EvaluationError, match=r"needs the package cityscapesscripts.*pip install"):
        CityscapesEvaluator(class_names=NAMES)
