# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What users get: what is left out of it, attributes, files, and the forms of other libraries."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.predictions import garden
from PIL import Image
from pycocotools import mask as coco_mask

import cmpf
from cmpf.errors import CMPFError
from cmpf.inference import (
    MaskRows,
    Prediction,
    Selection,
    instance_inference,
    panoptic_inference,
    semantic_labels,
)
from cmpf.predictor import Predictor
from cmpf.shapeworld.scene import generate_scene


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


@pytest.mark.parametrize("name", ["a" * 251, "\u00e4" * 125, "http://x.org/" + "b" * 400])
def test_results_of_images_with_the_longest_names_can_be_written(
    prediction: Prediction, tmp_path: Path, name: str
) -> None:
    formats = ("overlay", "panoptic", "coco", "semantic", "instances")
    saved = replace(prediction, source=f"{name}.jpg").save(tmp_path, formats)
    assert {path.name[:90] for path in saved} == {Path(name).name[:90]}
    assert all(path.is_file() for path in saved)


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


WORDS = ["red circle", "blue square", "brick", "sky"]


@pytest.fixture(scope="module")
def seg() -> Predictor:
    return cmpf.load("cmpf_tiny", device="cpu", overrides=["TEST.ENSEMBLE.ENABLED", False])


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return np.asarray(generate_scene(3, size=128, seen_only=False, hard=True).image)


def three_masks() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of two classes and void, and three masks of a 4 x 4 image: left half, left half again, right half."""
    probs = torch.tensor([[0.6, 0.35, 0.05], [0.5, 0.4, 0.1], [0.2, 0.7, 0.1]])
    masks = torch.full((3, 4, 4), -9.0)
    masks[:2, :, :2], masks[2, :, 2:] = 9.0, 9.0
    return probs.log(), masks


def instances(selection: Selection | None, is_thing: tuple[bool, bool] = (True, True)) -> Any:
    mask_cls, masks = three_masks()
    return instance_inference(mask_cls, masks, topk=10, is_thing=torch.tensor(is_thing), selection=selection)


def test_a_mask_has_its_best_class_only_unless_several_are_wanted() -> None:
    # sigmoid(9) = 0.9999: scores are those of the classes.
    one = instances(Selection())
    assert one.pred_classes.tolist() == [1, 0, 0]
    assert one.scores.tolist() == pytest.approx([0.7, 0.6, 0.5], abs=1e-3)
    several = instances(Selection(multi_label=True, min_score=0))
    assert several.scores.tolist() == pytest.approx([0.7, 0.6, 0.5, 0.4, 0.35, 0.2], abs=1e-3)
    assert several.scores.tolist() == instances(None).scores.tolist()


def test_a_mask_whose_best_class_is_stuff_is_no_instance() -> None:
    found = instances(Selection(), is_thing=(False, True))
    assert (found.pred_classes.tolist(), len(found)) == ([1], 1)


def test_masks_below_the_score_are_not_even_made() -> None:
    made: list[int] = []

    class Watched(MaskRows):
        def rows(self, rows: range) -> torch.Tensor:
            made.append(self.shape[0])
            return super().rows(rows)

    mask_cls, masks = three_masks()
    watched = Watched(masks, padded=(16, 16), unpadded=(16, 16), output=(4, 4))
    things = torch.tensor([True, True])
    instance_inference(mask_cls, watched, topk=10, is_thing=things, selection=Selection(min_score=0.65))
    assert set(made) == {1}


def test_weak_segments_leave_their_pixels_to_others() -> None:
    mask_cls, masks = three_masks()
    masks[2] = 8.0  # everywhere, but the score of 0.7 is that of a class
    options = {"is_thing": torch.tensor([True, True]), "overlap_threshold": 0.0}
    threshold = Selection(min_score=0.65).raise_threshold(0.0)
    ids, segments = panoptic_inference(mask_cls, masks, object_mask_threshold=threshold, **options)
    assert [round(segment["score"], 3) for segment in segments] == [0.7]
    assert ids.unique().tolist() == [1]
    assert Selection(min_score=0.65).raise_threshold(0.9) == 0.9
    assert Selection(min_score=0).raise_threshold(0.0) == 0.0


def test_pixels_that_no_class_is_sure_of_are_background() -> None:
    weights = torch.tensor([[0.5, 0.1], [0.1, 0.2]])
    masks = torch.full((2, 4, 4), -99.0)
    masks[0, :, :2], masks[1, :, 2:] = (
        99.0,
        99.0,
    )  # scores 0.5, which is enough, on the left, and 0.2 on the right
    rows = MaskRows(masks, padded=(16, 16), unpadded=(16, 16), output=(4, 4))
    plain = semantic_labels(weights, rows, output=(4, 4), selection=Selection())
    sure = semantic_labels(
        weights, rows, output=(4, 4), selection=Selection(background=True, min_semantic_score=0.5)
    )
    assert plain[0].tolist() == [0, 0, 1, 1]
    assert sure[0].tolist() == [0, 0, -1, -1]


def test_the_second_guess_at_an_object_goes_and_the_best_are_kept() -> None:
    one = garden().instances
    twice = type(one)(
        masks=np.concatenate([one.masks, one.masks, ~one.masks]),
        boxes=np.repeat(one.boxes, 3, axis=0),
        scores=np.array([0.9, 0.8, 0.7], np.float32),
        labels=np.array([0, 1, 1]),
        sources=np.repeat(one.sources, 3),
    )
    assert Selection().filter_instances(twice).scores.tolist() == pytest.approx([0.9, 0.7])
    assert len(Selection(nms=1).filter_instances(twice)) == 3
    assert Selection(nms=1, max_instances=2).filter_instances(twice).scores.tolist() == pytest.approx(
        [0.9, 0.8]
    )
    assert Selection(min_score=0.75).filter_instances(twice).scores.tolist() == pytest.approx([0.9])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_score": 1.5}, "min_score must be a number from 0 to 1, got 1.5"),
        ({"nms": "high"}, "nms must be a number from 0 to 1, got 'high'"),
        ({"max_instances": 0}, "max_instances must be a whole number from 1"),
        ({"min_semantic_score": True}, "min_semantic_score must be a number"),
    ],
)
def test_values_out_of_range_are_refused(seg: Predictor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CMPFError, match=message):
        seg.predict(np.zeros((8, 8, 3), np.uint8), WORDS, **options)


def test_the_selected_are_among_all_guesses_of_the_model(seg: Predictor, scene: np.ndarray) -> None:
    every = seg.predict(scene, WORDS, min_score=0, nms=1, multi_label=True)
    some = seg.predict(scene, WORDS)
    strong = every.instances.scores >= 0.3
    assert 0 < len(some.instances) <= strong.sum() < len(every.instances)
    assert set(some.instances.scores.tolist()) <= set(every.instances.scores.tolist())
    assert min(segment.score for segment in some.segments) >= 0.3
    assert len({mask.tobytes() for mask in some.instances.masks}) == len(some.instances)
    assert some.plot("instance").size == (640, 640)


def test_only_what_is_asked_for_is_computed(seg: Predictor, scene: np.ndarray) -> None:
    assert seg.predict(scene, WORDS, task=("panoptic", "instance")).tasks == ("panoptic", "instance")
    with pytest.raises(CMPFError, match="task 'depth' is unknown"):
        seg.predict(scene, WORDS, task=["panoptic", "depth"])
    with pytest.raises(CMPFError, match=r"task \[\] is unknown"):
        seg.predict(scene, WORDS, task=[])


def test_an_instance_run_returns_no_stuff(seg: Predictor, scene: np.ndarray) -> None:
    found = seg.predict(scene, WORDS, task="instance", stuff=["brick", "sky"], min_score=0, multi_label=True)
    assert set(found.instances.labels.tolist()) == {0, 1}


def test_a_background_is_drawn_as_the_image_is(seg: Predictor, scene: np.ndarray) -> None:
    plain = seg.predict(scene, WORDS, task="semantic").semantic
    found = seg.predict(scene, WORDS, task="semantic", background=True, min_semantic_score=0.9).semantic
    sure = found != 65535
    assert 0 < sure.sum() < sure.size
    assert np.array_equal(found[sure], plain[sure])
    nothing = replace(garden(), semantic_result=np.full((6, 8), 65535, np.uint16))
    assert nothing.summary() != {}  # of its segments
    drawn = [np.asarray(nothing.plot("semantic", opacity=opacity)) for opacity in (0, 1)]
    assert np.array_equal(*drawn)
    assert replace(nothing, panoptic_result=None, instances_result=None).summary() == {}
