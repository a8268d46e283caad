# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What users get: attributes, files, and the forms of other libraries."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from cmpf.errors import CMPFError
from cmpf.inference import Prediction


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


def test_coco_results_hold_box_score_and_class(prediction: Prediction) -> None:
    (found,) = prediction.to_coco()
    assert found["image_id"] == "garden"
    assert found["category_id"] == 0
    assert found["bbox"] == [0, 0, 3, 4]  # x, y, width, height of columns 0-2 and rows 0-3
    assert found["score"] == pytest.approx(0.9)
    assert found["segmentation"]["size"] == [6, 8]


def test_the_hugging_face_form_names_every_segment(prediction: Prediction) -> None:
    form = prediction.to_hf()
    assert form["segments_info"] == [
        {"id": 1, "label_id": 0, "was_fused": False, "score": 0.9},
        {"id": 2, "label_id": 1, "was_fused": True, "score": 0.8},
    ]
    assert form["segmentation"].dtype == torch.int32
    assert np.array_equal(form["segmentation"].numpy(), prediction.panoptic)


def test_supervision_is_asked_for_by_name_when_it_is_not_installed(
    prediction: Prediction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(CMPFError, match="pip install supervision"):
        prediction.to_supervision()


def test_supervision_gets_every_field(prediction: Prediction, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=SimpleNamespace))
    detections = prediction.to_supervision()
    assert np.array_equal(detections.xyxy, [[0, 0, 3, 4]])
    assert detections.mask.shape == (1, 6, 8)
    assert detections.confidence == pytest.approx([0.9])
    assert detections.class_id.tolist() == [0]
    assert detections.data["class_name"].tolist() == ["cat"]


def test_nothing_found_is_no_trouble_for_any_form(
    prediction: Prediction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=SimpleNamespace))
    void = replace(prediction, panoptic_result=(np.zeros((6, 8), np.int32), ())).above(1)
    assert void.to_coco() == []
    assert void.to_hf()["segments_info"] == []
    assert void.to_supervision().data["class_name"].shape == (0,)


def test_every_format_is_written_and_reads_back(prediction: Prediction, tmp_path: Path) -> None:
    written = prediction.save(tmp_path, ("overlay", "panoptic", "coco", "semantic", "instances"))
    assert sorted(path.name for path in written) == sorted(path.name for path in tmp_path.iterdir())
    rgb = np.asarray(Image.open(tmp_path / "garden_panoptic.png")).astype(int)
    assert np.array_equal(rgb @ [1, 256, 65536], prediction.panoptic)  # COCO: id = R + 256 G + 65536 B
    table = json.loads((tmp_path / "garden_panoptic.json").read_text())
    assert [s["area"] for s in table["annotations"][0]["segments_info"]] == [12, 36]
    (coco,) = json.loads((tmp_path / "garden_instances.json").read_text())
    assert np.array_equal(coco_mask.decode(coco["segmentation"]), prediction.panoptic == 1)
    assert coco["bbox"] == [0, 0, 3, 4]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "garden_semantic.png")), prediction.semantic)
    arrays = np.load(tmp_path / "garden_instances.npz", allow_pickle=False)
    assert np.array_equal(arrays["masks"], prediction.instances.masks)
    assert arrays["boxes"].tolist() == [[0, 0, 3, 4]]
    assert arrays["scores"] == pytest.approx([0.9])
    assert arrays["names"][arrays["labels"]].tolist() == ["cat"]


def test_ids_above_one_byte_survive_the_panoptic_png(prediction: Prediction, tmp_path: Path) -> None:
    ids, segments = prediction.panoptic.copy(), prediction.segments
    ids[ids == 1] = 70000  # 70000 = 112 + 256 * 17 + 65536 * 1
    big = replace(prediction, panoptic_result=(ids, (replace(segments[0], id=70000), segments[1])))
    big.save(tmp_path, ("panoptic",))
    assert np.asarray(Image.open(tmp_path / "garden_panoptic.png"))[0, 0].tolist() == [112, 17, 1]


def test_an_unknown_format_writes_nothing(prediction: Prediction, tmp_path: Path) -> None:
    with pytest.raises(
        CMPFError, match="'tiff' is unknown; choose from overlay, panoptic, coco, semantic, inst"
    ):
        prediction.save(tmp_path / "out", ("overlay", "tiff"))
    assert not (tmp_path / "out").exists()


def test_one_format_may_be_given_as_a_string(prediction: Prediction, tmp_path: Path) -> None:
    assert prediction.save(tmp_path, "semantic") == [tmp_path / "garden_semantic.png"]
    with pytest.raises(CMPFError, match="'tiff' is unknown"):
        prediction.save(tmp_path, "tiff")
