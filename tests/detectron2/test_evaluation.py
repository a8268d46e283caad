# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.detectron2_host import host_config, needs
from torch import nn

from cmpf.data import Dataset, get_dataset
from cmpf.evaluation import InstanceEvaluator, PanopticEvaluator, SemanticEvaluator
from cmpf.formats.label_map import read_panoptic_ids
from cmpf.formats.masks import decode_mask
from cmpf.types import InstanceResult, ModelResult, Sample

d2 = needs("cmpf.detectron2")
conversion = needs("cmpf.detectron2.conversion")
Evaluators = needs("cmpf.detectron2.evaluation").Evaluators
theirs = needs("detectron2.evaluation")
NAME = "shapes_val"


class Displaced(nn.Module):
    """The ground truth of ShapeWorld moved by some pixels, with some classes wrong: every metric is in between."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__()
        self._samples = {sample["image_id"]: sample for sample in dataset.samples_for("instance")}
        self._classes = dataset.vocabulary.num_classes
        self._things = dataset.vocabulary.things

    def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [conversion.to_detectron2(self._result(self._samples[s["image_id"]])) for s in batch]

    def _result(self, sample: Sample) -> ModelResult:
        shift = 1 + int(str(sample["image_id"])[-1]) % 3
        ids = np.roll(read_panoptic_ids(sample["pan_seg_file_name"]), shift, axis=1)
        segments = [dict(segment) for segment in sample["segments_info"]]
        for segment in segments[::5]:  # one of five is taken for the next class of its kind
            last = self._things[-1] if segment["isthing"] else self._classes - 1
            segment["category_id"] = min(segment["category_id"] + 1, last)
        labels = np.zeros(ids.shape, dtype=np.int64)
        for segment in segments:
            labels[ids == segment["id"]] = segment["category_id"]
        scores = torch.nn.functional.one_hot(torch.from_numpy(labels), self._classes).permute(2, 0, 1)
        return {
            "panoptic_seg": (torch.from_numpy(ids), segments),
            "sem_seg": scores.float(),
            "instances": self._instances(sample, shift),
        }  # type: ignore[typeddict-item]

    def _instances(self, sample: Sample, shift: int) -> InstanceResult:
        size = {"height": sample["height"], "width": sample["width"]}
        objects = sample["annotations"]
        masks = np.stack(
            [
                np.roll(decode_mask(entry["segmentation"], **size, where=""), shift, axis=1)
                for entry in objects
            ]
        )
        boxes = []
        for mask in masks:
            ys, xs = np.nonzero(mask)
            boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        return InstanceResult(
            pred_masks=torch.from_numpy(masks).bool(),
            pred_boxes=torch.tensor(np.array(boxes), dtype=torch.float32),
            scores=torch.linspace(0.9, 0.3, len(objects)),
            pred_classes=torch.tensor([entry["category_id"] for entry in objects]),
        )


@pytest.fixture
def dataset(shapeworld: Path) -> Dataset:
    return get_dataset(NAME)


def both(dataset: Dataset, own: object, other: object) -> tuple[Any, Any]:
    """Results of our evaluator and of Detectron2's, both in Detectron2's loop."""
    loader = d2.Trainer.build_test_loader(host_config(), NAME)
    model = Displaced(dataset)
    return tuple(theirs.inference_on_dataset(model, loader, e) for e in (Evaluators([own]), other))  # type: ignore[return-value]


def test_panoptic_quality_is_that_of_the_panoptic_api(dataset: Dataset, tmp_path: Path) -> None:
    needs("panopticapi.evaluation")
    words = dataset.vocabulary
    own = PanopticEvaluator(class_names=words.names, is_thing=words.is_thing)
    ours, other = both(dataset, own, theirs.COCOPanopticEvaluator(NAME, str(tmp_path)))
    assert 20 < ours["panoptic"]["PQ"] < 95
    for metric, value in other["panoptic_seg"].items():
        assert ours["panoptic"][metric] == pytest.approx(value, abs=1e-9), metric
    assert len(other["panoptic_seg"]) == 9  # PQ, SQ and RQ of all, things and stuff


def test_semantic_metrics_are_those_of_detectron2(dataset: Dataset) -> None:
    own = SemanticEvaluator(class_names=dataset.vocabulary.names, ignore_label=255)
    ours, other = both(dataset, own, theirs.SemSegEvaluator(NAME))
    assert 20 < ours["sem_seg"]["mIoU"] < 95
    for metric in ("mIoU", "fwIoU", "mACC", "pACC"):
        assert ours["sem_seg"][metric] == pytest.approx(other["sem_seg"][metric], abs=1e-9), metric
    for name in dataset.vocabulary.names:
        expected = other["sem_seg"][f"IoU-{name}"]
        # Of classes that no image has, Detectron2 says NaN; we do so too unless they were predicted.
        if not np.isnan(expected):
            assert ours["sem_seg"][f"IoU-{name}"] == pytest.approx(expected, abs=1e-9)


def test_instances_of_stuff_are_left_out_and_things_renumbered(dataset: Dataset, tmp_path: Path) -> None:
    evaluator = d2.ThingEvaluator(NAME, output_dir=str(tmp_path))
    things = dataset.vocabulary.things
    stuff = next(index for index, thing in enumerate(dataset.vocabulary.is_thing) if not thing)
    masks = torch.ones(2, 64, 64, dtype=torch.bool)
    found = InstanceResult(
        pred_masks=masks,
        pred_boxes=torch.tensor([[0.0, 0, 64, 64]] * 2),
        scores=torch.tensor([0.9, 0.8]),
        pred_classes=torch.tensor([stuff, things[1]]),
    )
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [conversion.to_detectron2({"instances": found})])
    (prediction,) = evaluator._predictions[0]["instances"]
    assert (prediction["category_id"], prediction["score"]) == (1, pytest.approx(0.8))  # the second thing


def test_average_precision_is_that_of_detectron2(dataset: Dataset, tmp_path: Path) -> None:
    own = InstanceEvaluator(class_names=dataset.vocabulary.names)
    ours, other = both(dataset, own, d2.ThingEvaluator(NAME, output_dir=str(tmp_path)))
    assert 20 < ours["segm"]["AP"] < 95
    for task in ("segm", "bbox"):
        for metric in ("AP", "AP50", "AP75", "APs", "APm", "APl"):
            expected = other[task][metric]
            assert ours[task][metric] == pytest.approx(expected, abs=1e-6, nan_ok=True), (task, metric)
    words = dataset.vocabulary
    for index in words.things:
        name = words.names[index]
        expected = other["segm"][f"AP-{name}"]
        assert ours["segm"].get(f"AP-{name}", float("nan")) == pytest.approx(expected, abs=1e-6, nan_ok=True)
