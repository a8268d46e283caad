# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmpf.errors import CMPFError
from cmpf.inference import Prediction, unique_names


def test_asking_for_a_task_that_did_not_run_says_which_did(prediction: Prediction) -> None:
    only = replace(prediction, panoptic_result=None, instances_result=None)
    with pytest.raises(CMPFError, match='holds semantic but not panoptic: call predict with task="panoptic"'):
        _ = only.panoptic
    assert only.summary() == {"cat": 1, "grass": 1}


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_every_task_has_an_image(prediction: Prediction, task: str) -> None:
    image = prediction.plot(task)
    assert image.mode == "RGB"
    assert image.width / image.height == pytest.approx(8 / 6, rel=0.05)


def test_an_unknown_task_is_refused_by_name(prediction: Prediction) -> None:
    with pytest.raises(
        CMPFError, match='task "depth" is unknown; choose one of panoptic, semantic, instance'
    ):
        prediction.plot("depth")


def test_low_scores_become_void_and_semantic_stays(prediction: Prediction) -> None:
    kept = prediction.above(0.85)  # cat 0.9 stays, grass 0.8 goes
    assert [segment.category for segment in kept.segments] == ["cat"]
    assert np.array_equal(kept.panoptic, np.where(prediction.panoptic == 1, 1, 0))
    assert kept.semantic is prediction.semantic
    assert len(kept.instances) == 1
    assert len(prediction.above(0.95).instances) == len(prediction.above(0.95).segments) == 0
    assert prediction.above(0.95).summary() == {}
    assert prediction.above(0.95).plot().width > 0


@pytest.mark.parametrize(
    ("source", "stem"),
    [
        ("a/b.c.jpg", "b.c"),
        ("http://x.org/images/caf%C3%A9.png?size=9&name=a/b", "café"),
        ("http://x.org/", "image"),
        ("image_3", "image_3"),
    ],
)
def test_files_are_named_after_the_image(prediction: Prediction, source: str, stem: str) -> None:
    assert replace(prediction, source=source).stem == stem


def test_files_may_be_given_another_name(prediction: Prediction, tmp_path: Path) -> None:
    assert prediction.save(tmp_path, name="mine") == [tmp_path / "mine.png"]


def test_an_image_is_never_replaced_by_its_overlay(prediction: Prediction, tmp_path: Path) -> None:
    own = tmp_path / "garden.png"
    Image.fromarray(prediction.image).save(own)
    before = own.read_bytes()
    with pytest.raises(CMPFError, match="would replace the image itself; save into another folder"):
        replace(prediction, source=str(own)).save(tmp_path)
    assert own.read_bytes() == before


def test_a_format_whose_task_did_not_run_writes_nothing(prediction: Prediction, tmp_path: Path) -> None:
    only = replace(prediction, instances_result=None)
    with pytest.raises(CMPFError, match="but not instance"):
        only.save(tmp_path / "out", ("overlay", "coco"))
    assert not (tmp_path / "out").exists()


def test_images_of_one_name_get_files_of_their_own() -> None:
    assert unique_names(["a/x.jpg", "b/x.jpg", "X.png", "y.jpg"]) == ["x", "x_2", "X_3", "y"]
    assert unique_names(["x.jpg", "x_2.jpg", "b/x.jpg"]) == ["x", "x_2", "x_3"]
