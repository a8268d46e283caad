# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Converts samples and results between CMPF's and Detectron2's formats."""

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

PROPOSALS = "mask_proposals"  # Detectron2 uses "proposals" for boxes
NO_CLASS = -1


def to_samples(inputs: Sequence[Mapping[str, Any]], *, bgr: bool, classes: Vocabulary) -> list[Sample]:
    """Converts the output of a dataset mapper, Detectron2's or CMPF's, to CMPF's samples.

    Args:
        inputs: dicts with `image` (3, H, W) in 0..255; in training also with CMPF's `targets`, or Detectron2's
            `instances` and/or `sem_seg`, see `targets_of`.
        bgr: whether channels are in BGR order.
        classes: the training vocabulary, to whose class indices gt_classes and sem_seg refer.
    """
    samples = []
    for item in inputs:
        sample = {key: value for key, value in item.items() if key not in ("instances", "sem_seg")}
        if bgr:
            sample["image"] = item["image"].flip(0)
        if "targets" not in item and ("instances" in item or "sem_seg" in item):
            sample["targets"] = targets_of(item, classes)
        samples.append(cast(Sample, sample))
    return samples


def targets_of(item: Mapping[str, Any], classes: Vocabulary) -> Targets:
    """Converts Detectron2's ground truth to targets.

    Args:
        item: has `instances` with gt_classes and gt_masks (BitMasks, PolygonMasks or a tensor (N, H, W)), `sem_seg`
            (H, W) with class indices (others are ignored), or both; then sem_seg provides the stuff classes that no
            instance has.
        classes: provides the number of classes, and which are stuff.
    Raises:
        TrainingError: instances have no masks.
    """
    parts: list[Targets] = []
    if "instances" in item:
        parts.append(_instance_targets(item))
    if "sem_seg" in item:
        labels = item["sem_seg"].cpu()
        valid = (labels >= 0) & (labels < classes.num_classes)
        semantic = semantic_targets(torch.where(valid, labels, NO_CLASS).numpy())
        if parts:
            things = torch.tensor(classes.is_thing)[semantic["labels"]]
            used = ~things & ~torch.isin(semantic["labels"], parts[0]["labels"])
            semantic = {"labels": semantic["labels"][used], "masks": semantic["masks"][used]}
        parts.append(semantic)
    return {
        "labels": torch.cat([part["labels"] for part in parts]),
        "masks": torch.cat([part["masks"] for part in parts]),
    }


def _instance_targets(item: Mapping[str, Any]) -> Targets:
    instances: Any = item["instances"].to("cpu")
    height, width = instances.image_size
    # len() of Instances without fields raises an error.
    labels = instances.gt_classes if instances.has("gt_classes") else torch.zeros(0, dtype=torch.int64)
    if instances.has("gt_masks"):
        masks = _mask_tensor(instances.gt_masks, height, width)
    elif len(labels) == 0:
        masks = torch.zeros(0, height, width, dtype=torch.bool)
    else:
        raise TrainingError(
            f"{item.get('file_name', 'a sample')}: its instances have no gt_masks; Detectron2's mapper gives them "
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
    """Converts the results of one image for Detectron2's evaluators and visualizer.

    Returns:
        sem_seg unchanged; panoptic_seg (ids, segments) with copied segments, because Detectron2's evaluator modifies
        them; instances as Instances with pred_masks (N, H, W) bool, pred_boxes, scores and pred_classes;
        mask_proposals (N, H, W) bool if mask recall is measured.
    """
    output: dict[str, Any] = {key: value for key, value in result.items() if key != "proposals"}
    if "proposals" in result:
        output[PROPOSALS] = result["proposals"]
    if "panoptic_seg" in result:
        ids, segments = result["panoptic_seg"]
        output["panoptic_seg"] = (ids, [dict(segment) for segment in segments])
    if "instances" in result:
        instances = result["instances"]
        height, width = instances.pred_masks.shape[-2:]
        output["instances"] = Instances(
            (height, width),
            pred_masks=instances.pred_masks,
            pred_boxes=Boxes(instances.pred_boxes),
            scores=instances.scores,
            pred_classes=instances.pred_classes,
        )
    return output


def to_result(output: Mapping[str, Any]) -> ModelResult:
    """The inverse of `to_detectron2`."""
    result: dict[str, Any] = {key: value for key, value in output.items() if key != PROPOSALS}
    if PROPOSALS in output:
        result["proposals"] = output[PROPOSALS]
    if "instances" in output:
        instances = output["instances"]
        result["instances"] = InstanceResult(
            pred_masks=instances.pred_masks,
            pred_boxes=instances.pred_boxes.tensor,
            scores=instances.scores,
            pred_classes=instances.pred_classes,
        )
    return cast(ModelResult, result)
