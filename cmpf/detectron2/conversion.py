# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Samples and results in Detectron2's form, and in CMPF's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import Tensor

from cmpf.data import Vocabulary
from cmpf.data.mapper import semantic_targets
from cmpf.errors import TrainingError
from cmpf.types import InstanceResult, ModelResult, Sample, Targets

PROPOSALS = "mask_proposals"  # Detectron2 takes "proposals" for boxes
NO_CLASS = -1


def to_samples(inputs: Sequence[Mapping[str, Any]], *, bgr: bool, classes: Vocabulary) -> list[Sample]:
    """What a mapper made, Detectron2's or CMPF's, as samples of CMPF.

    Args:
        inputs: with `image` (3, H, W) 0..255; in training with `targets` of CMPF, or with `instances`
            and/or `sem_seg` of Detectron2, see `targets_of`.
        bgr: channels come in the order blue, green, red.
        classes: the training vocabulary, to whose class indices gt_classes and sem_seg refer.
    """
    samples = []
    for given in inputs:
        sample = {key: value for key, value in given.items() if key not in ("instances", "sem_seg")}
        if bgr:
            sample["image"] = given["image"].flip(0)
        if "targets" not in given and ("instances" in given or "sem_seg" in given):
            sample["targets"] = targets_of(given, classes)
        samples.append(cast(Sample, sample))
    return samples


def targets_of(given: Mapping[str, Any], classes: Vocabulary) -> Targets:
    """Targets from ground truth of Detectron2.

    Args:
        given: `instances` with gt_classes and gt_masks (BitMasks, PolygonMasks or a tensor (N, H, W));
            `sem_seg` (H, W) class indices, others than the vocabulary's are ignored. Where both are there,
            sem_seg gives the stuff classes that no instance has.
        classes: gives the number of classes, and which are stuff.
    Raises:
        TrainingError: instances without masks.
    """
    parts: list[Targets] = []
    if "instances" in given:
        parts.append(_instance_targets(given))
    if "sem_seg" in given:
        labels = given["sem_seg"].cpu()
        known = (labels >= 0) & (labels < classes.num_classes)
        found = semantic_targets(torch.where(known, labels, NO_CLASS).numpy())
        if parts:
            things = torch.tensor(classes.is_thing)[found["labels"]]
            wanted = ~things & ~torch.isin(found["labels"], parts[0]["labels"])
            found = {"labels": found["labels"][wanted], "masks": found["masks"][wanted]}
        parts.append(found)
    return {
        "labels": torch.cat([part["labels"] for part in parts]),
        "masks": torch.cat([part["masks"] for part in parts]),
    }


def _instance_targets(given: Mapping[str, Any]) -> Targets:
    instances: Any = given["instances"].to("cpu")
    height, width = instances.image_size
    # Instances without any field have no length.
    labels = instances.gt_classes if instances.has("gt_classes") else torch.zeros(0, dtype=torch.int64)
    if instances.has("gt_masks"):
        masks = _mask_tensor(instances.gt_masks, height, width)
    elif len(labels) == 0:
        masks = torch.zeros(0, height, width, dtype=torch.bool)
    else:
        raise TrainingError(
            f"{given.get('file_name', 'a sample')}: its instances have no gt_masks; Detectron2's mapper gives them "
            "with MODEL.MASK_ON True, where annotations have a segmentation"
        )
    return {"labels": labels.to(torch.int64), "masks": masks}


def _mask_tensor(masks: Any, height: int, width: int) -> Tensor:
    """(N, H, W) bool."""
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks.polygons, height, width)
    tensor = masks.tensor if isinstance(masks, BitMasks) else masks
    return cast(Tensor, tensor).to(torch.bool)


def to_detectron2(result: ModelResult) -> dict[str, Any]:
    """One image's results as Detectron2's evaluators and visualizer take them.

    Returns:
        sem_seg as it is; panoptic_seg (ids, segments) with segments of its own, because Detectron2's evaluator
        changes them; instances as Instances with pred_masks (N, H, W) bool, pred_boxes, scores, pred_classes;
        mask_proposals (N, H, W) bool, when mask recall is measured.
    """
    output: dict[str, Any] = {key: value for key, value in result.items() if key != "proposals"}
    if "proposals" in result:
        output[PROPOSALS] = result["proposals"]
    if "panoptic_seg" in result:
        ids, segments = result["panoptic_seg"]
        output["panoptic_seg"] = (ids, [dict(segment) for segment in segments])
    if "instances" in result:
        found = result["instances"]
        height, width = found.pred_masks.shape[-2:]
        output["instances"] = Instances(
            (height, width),
            pred_masks=found.pred_masks,
            pred_boxes=Boxes(found.pred_boxes),
            scores=found.scores,
            pred_classes=found.pred_classes,
        )
    return output


def to_result(output: Mapping[str, Any]) -> ModelResult:
    """The inverse of `to_detectron2`."""
    result: dict[str, Any] = {key: value for key, value in output.items() if key != PROPOSALS}
    if PROPOSALS in output:
        result["proposals"] = output[PROPOSALS]
    if "instances" in output:
        found = output["instances"]
        result["instances"] = InstanceResult(
            pred_masks=found.pred_masks,
            pred_boxes=found.pred_boxes.tensor,
            scores=found.scores,
            pred_classes=found.pred_classes,
        )
    return cast(ModelResult, result)
