# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Small ground-truth files and made-up predictions for the tests of evaluators."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cmpf.types import InstanceResult, ModelResult, Sample, SegmentInfo

Ids = npt.NDArray[np.int64]
COCO_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def segment(identity: int, category: int, *, crowd: bool = False) -> SegmentInfo:
    """A list entry of a panoptic image."""
    return {"id": identity, "category_id": category, "iscrowd": int(crowd)}


def write_ids(path: Path, ids: Ids) -> str:
    """Writes (H, W) ids as a COCO panoptic PNG."""
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    Image.fromarray(rgb).save(path)
    return str(path)


def panoptic_sample(
    folder: Path, ids: Ids, segments: list[SegmentInfo], *, image_id: int | str = 1
) -> Sample:
    """A sample whose panoptic ground truth lies in `folder`."""
    return {
        "file_name": f"{image_id}.jpg",
        "image_id": image_id,
        "height": ids.shape[0],
        "width": ids.shape[1],
        "pan_seg_file_name": write_ids(folder / f"{image_id}.png", ids),
        "segments_info": segments,
    }


def semantic_sample(folder: Path, labels: npt.NDArray[np.generic], *, image_id: int | str = 1) -> Sample:
    """A sample whose semantic ground truth (uint8 or uint16) lies in `folder`."""
    path = folder / f"{image_id}_semantic.png"
    Image.fromarray(labels).save(path)
    return {
        "file_name": f"{image_id}.jpg",
        "image_id": image_id,
        "height": labels.shape[0],
        "width": labels.shape[1],
        "sem_seg_file_name": str(path),
    }


def panoptic_output(ids: Ids, segments: list[SegmentInfo]) -> ModelResult:
    """What the model would return."""
    return {"panoptic_seg": (torch.from_numpy(ids.astype(np.int32)), segments)}


def random_panoptic(
    generator: np.random.Generator, *, size: tuple[int, int], classes: int, crowds: bool
) -> tuple[Ids, list[SegmentInfo]]:
    """Random rectangles over void; ids are large and unordered; every listed segment has pixels.

    At most one crowd a class, as in COCO.
    """
    height, width = size
    ids = np.zeros(size, dtype=np.int64)
    names = generator.choice(np.arange(1, 1 << 20), size=8, replace=False)
    for name in names:
        y, x = generator.integers(0, height - 2), generator.integers(0, width - 2)
        h, w = generator.integers(2, height // 2 + 2), generator.integers(2, width // 2 + 2)
        ids[y : y + h, x : x + w] = name
    segments, classes_with_crowd = [], set()
    for name in generator.permutation(np.unique(ids[ids > 0])):
        category = int(generator.integers(0, classes))
        crowd = crowds and category not in classes_with_crowd and bool(generator.random() < 0.3)
        classes_with_crowd |= {category} if crowd else set()
        segments.append(segment(int(name), category, crowd=crowd))
    return ids, segments


def shaken(
    generator: np.random.Generator, ids: Ids, segments: list[SegmentInfo], *, classes: int
) -> tuple[Ids, list[SegmentInfo]]:
    """A prediction that resembles the truth: ids renumbered, holes and shifts, some wrong classes."""
    predicted = np.roll(ids, shift=int(generator.integers(0, 3)), axis=1)
    predicted[generator.random(ids.shape) < 0.1] = 0
    result = np.zeros_like(ids)
    infos = []
    for number, info in enumerate(segments, start=1):
        mask = predicted == info["id"]
        if not mask.any():
            continue
        result[mask] = number
        keep = generator.random() < 0.7
        infos.append(segment(number, info["category_id"] if keep else int(generator.integers(0, classes))))
    return result, infos


def random_instances(
    generator: np.random.Generator, truth: list[npt.NDArray[np.bool_]], labels: list[int], *, classes: int
) -> InstanceResult:
    """Detections near true masks, in arbitrary scores, plus some false ones."""
    masks, categories = [], []
    for mask, label in zip(truth, labels, strict=True):
        for _ in range(int(generator.integers(0, 3))):
            masks.append(np.roll(mask, shift=tuple(generator.integers(-4, 5, size=2)), axis=(0, 1)))
            categories.append(label if generator.random() < 0.8 else int(generator.integers(0, classes)))
    count = len(masks)
    stacked = np.stack(masks) if masks else np.zeros((0, *truth[0].shape), dtype=bool)
    boxes = np.zeros((count, 4), dtype=np.float32)
    for row, mask in zip(boxes, stacked, strict=True):
        ys, xs = np.nonzero(mask)
        row[:] = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(xs) else (0, 0, 0, 0)
    return InstanceResult(
        pred_masks=torch.from_numpy(stacked),
        pred_boxes=torch.from_numpy(boxes),
        scores=torch.from_numpy(generator.random(count)),
        pred_classes=torch.tensor(categories, dtype=torch.int64),
    )


def score_with_pycocotools(folder: Path, iou_type: str = "segm") -> dict[str, float]:
    """What the official tool says of pred.json against gt.json, in percent; -100 = undefined."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(folder / "gt.json")
        evaluation = COCOeval(truth, truth.loadRes(str(folder / "pred.json")), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: 100 * float(value) for name, value in zip(COCO_METRICS, evaluation.stats, strict=False)}
