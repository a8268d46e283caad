# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from cmpf.errors import CMPFError
from cmpf.prediction import Instances, Prediction, Segment


@pytest.fixture
def prediction() -> Prediction:
    """A 6 x 8 picture: a cat (columns 0-2 of rows 0-3) on grass."""
    ids = np.full((6, 8), 2, np.int32)
    ids[:4, :3] = 1
    cat = ids == 1
    segments = (
        Segment(id=1, category="cat", category_id=0, isthing=True, score=0.9, area=12, bbox=(0, 0, 3, 4)),
        Segment(id=2, category="grass", category_id=1, isthing=False, score=0.8, area=36, bbox=(0, 0, 8, 6)),
    )
    instances = Instances(
        masks=cat[None],
        boxes=np.array([[0, 0, 3, 4]], np.float32),
        scores=np.array([0.9], np.float32),
        labels=np.array([0]),
    )
    return Prediction(
        image=np.full((6, 8, 3), 128, np.uint8),
        names=("cat", "grass"),
        source="garden.jpg",
        panoptic_result=(ids, segments),
        semantic_result=np.where(cat, 0, 1).astype(np.uint16),
        instances_result=instances,
    )


def test_every_format_is_written_and_reads_back(prediction: Prediction, tmp_path: Path) -> None:
    written = prediction.save(tmp_path, ("overlay", "panoptic", "coco", "semantic"))
    assert sorted(path.name for path in written) == sorted(path.name for path in tmp_path.iterdir())
    rgb = np.asarray(Image.open(tmp_path / "garden_panoptic.png")).astype(int)
    assert np.array_equal(rgb @ [1, 256, 65536], prediction.panoptic)  # COCO: id = R + 256 G + 65536 B
    table = json.loads((tmp_path / "garden_panoptic.json").read_text())
    assert [s["area"] for s in table["annotations"][0]["segments_info"]] == [12, 36]
    (coco,) = json.loads((tmp_path / "garden_instances.json").read_text())
    assert np.array_equal(coco_mask.decode(coco["segmentation"]), prediction.panoptic == 1)
    assert coco["bbox"] == [0, 0, 3, 4]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "garden_semantic.png")), prediction.semantic)


def test_ids_above_one_byte_survive_the_panoptic_png(prediction: Prediction, tmp_path: Path) -> None:
    ids, segments = prediction.panoptic.copy(), prediction.segments
    ids[ids == 1] = 70000  # 70000 = 112 + 256 * 17 + 65536 * 1
    big = replace(prediction, panoptic_result=(ids, (replace(segments[0], id=70000), segments[1])))
    big.save(tmp_path, ("panoptic",))
    assert np.asarray(Image.open(tmp_path / "garden_panoptic.png"))[0, 0].tolist() == [112, 17, 1]


def test_an_unknown_format_writes_nothing(prediction: Prediction, tmp_path: Path) -> None:
    with pytest.raises(CMPFError, match="'tiff' is unknown; choose from overlay, panoptic, coco, semantic"):
        prediction.save(tmp_path / "out", ("overlay", "tiff"))
    assert not (tmp_path / "out").exists()


def test_asking_for_a_task_that_did_not_run_says_which_did(prediction: Prediction) -> None:
    only = replace(prediction, panoptic_result=None, instances_result=None)
    with pytest.raises(CMPFError, match='holds semantic but not panoptic: call predict with task="panoptic"'):
        _ = only.panoptic
    assert only.summary() == {"cat": 1, "grass": 1}


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_every_task_has_a_picture(prediction: Prediction, task: str) -> None:
    picture = prediction.plot(task)
    assert picture.mode == "RGB"
    assert picture.width / picture.height == pytest.approx(8 / 6, rel=0.05)


def test_an_unknown_task_is_refused_by_name(prediction: Prediction) -> None:
    with pytest.raises(
        CMPFError, match='task "depth" is unknown; choose one of panoptic, semantic, instance'
    ):
        prediction.plot("depth")


def test_the_hugging_face_form_names_every_segment(prediction: Prediction) -> None:
    form = prediction.to_hf()
    assert form["segments_info"] == [
        {"id": 1, "label_id": 0, "was_fused": False, "score": 0.9},
        {"id": 2, "label_id": 1, "was_fused": True, "score": 0.8},
    ]
    assert form["segmentation"] is prediction.panoptic


def test_supervision_is_asked_for_by_name_when_it_is_not_installed(
    prediction: Prediction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(CMPFError, match="pip install supervision"):
        prediction.to_supervision()
