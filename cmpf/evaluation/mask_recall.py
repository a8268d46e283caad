# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Recall of class-agnostic mask proposals on seen and unseen classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cmpf.errors import EvaluationError
from cmpf.evaluation.evaluator import (
    Metrics,
    Results,
    check_new_image,
    check_size,
    describe,
    gather_by_image,
    mean_over,
    paired,
    percent_ratio,
    required,
    to_array,
    to_masks,
)
from cmpf.evaluation.semantic import LabelMapEvaluator
from cmpf.formats.label_map import read_panoptic_ids
from cmpf.types import ModelResult, Sample, SegmentInfo

Ids = npt.NDArray[np.int64]
_THRESHOLDS = (0.5, 0.75, 0.9)
_PIXELS_AT_ONCE = 1 << 16  # limits the float copy of the proposals; sums below 2^24 are exact in float32


class MaskRecallEvaluator(LabelMapEvaluator):
    """Evaluates the share of ground-truth segments that some proposal of any class covers with IoU > 0.5, 0.75, 0.9.

    Reads `outputs["proposals"]`, (Q [+ M], H, W) bool: decoder masks > 0, and SAM's masks with the mask ensemble. A
    segment is one object of a thing class or all pixels of a stuff class in an image; crowds are ignored. Without a
    panoptic PNG, segments are read from the label map, one per class. Void and ignored pixels are removed from the
    union, as in PQ. Recall is averaged within each class first, then over the classes that occur, so that frequent
    classes do not dominate.
    """

    def process(self, inputs: Sequence[Sample], outputs: Sequence[ModelResult]) -> None:
        """Adds a batch; see Evaluator."""
        for sample, proposals in paired(inputs, outputs, "proposals"):
            segments, classes, evaluated = self._true_segments(sample)
            image_id = required(sample, "image_id")
            check_new_image(image_id, self._statistics, describe(sample))
            masks = torch.as_tensor(proposals)
            if masks.dtype != torch.bool:
                masks = torch.from_numpy(to_masks(to_array(masks), f"{describe(sample)}: proposals"))
            check_size(describe(sample), masks.shape[1:], segments.shape)
            best = best_ious(masks, torch.from_numpy(segments), len(classes)).numpy()
            self._statistics[image_id] = (classes[evaluated], best[evaluated])

    def _true_segments(self, sample: Sample) -> tuple[Ids, Ids, npt.NDArray[np.bool_]]:
        """Map (H, W) with i + 1 in segment i and 0 in void; class (N,) of each segment; (N,) False for crowds."""
        if "pan_seg_file_name" in sample:
            ids = read_panoptic_ids(sample["pan_seg_file_name"])
            infos: list[SegmentInfo] = required(sample, "segments_info")
            classes = np.array([info["category_id"] for info in infos], dtype=np.int64)
            evaluated = np.array([not info.get("iscrowd", 0) for info in infos], dtype=bool)
            segments = np.zeros(ids.shape, dtype=np.int64)
            for number, info in enumerate(infos, start=1):
                segments[ids == info["id"]] = number
            if ((classes < 0) | (classes >= len(self._names))).any():
                raise EvaluationError(
                    f"{sample['pan_seg_file_name']}: class indices {sorted(set(classes.tolist()))}; this "
                    f"vocabulary has 0..{len(self._names) - 1} (contiguous indices, not dataset ids)"
                )
            return segments, classes, evaluated
        count = len(self._names)
        labels = self._read_labels(required(sample, "sem_seg_file_name")).astype(np.int64)
        present = np.unique(labels)
        classes = present[present < count]
        number_of = np.zeros(count + 1, dtype=np.int64)
        number_of[classes] = np.arange(1, len(classes) + 1)
        return number_of[labels], classes, np.ones(len(classes), dtype=bool)

    def evaluate(self) -> Results:
        """Returns {"mask_recall": {recall_50, recall_75, recall_90, S_..., U_..., recall_50-name, ...}} in percent."""
        count = len(self._names)
        per_image = list(gather_by_image(self._statistics).values())
        classes = np.concatenate([c for c, _ in per_image]) if per_image else np.zeros(0, dtype=np.int64)
        ious = np.concatenate([i for _, i in per_image]) if per_image else np.zeros(0)
        num_segments = np.bincount(classes, minlength=count).astype(np.float64)
        metrics: Metrics = {}
        by_class: Metrics = {}
        for threshold in _THRESHOLDS:
            name = f"recall_{round(100 * threshold)}"
            hits = np.bincount(classes[ious > threshold], minlength=count).astype(np.float64)
            recall = percent_ratio(hits, num_segments)
            for prefix, group in self._groups:
                metrics[f"{prefix}{name}"] = mean_over(recall, group & (num_segments > 0))
            by_class.update({f"{name}-{n}": float(v) for n, v in zip(self._names, recall, strict=True)})
        return {"mask_recall": {**metrics, **by_class}}


def best_ious(masks: Tensor, segments: Tensor, num_segments: int) -> Tensor:
    """Best IoU of any proposal with each segment, without void pixels.

    Args:
        masks: (Q, H, W) bool proposals, on any device.
        segments: (H, W) int64, 0 = void, 1..num_segments.
        num_segments: N.
    Returns:
        (N,) float64 on the CPU; 0 if there are no proposals or the segment has no pixels.
    """
    flat_masks, flat_segments = masks.flatten(1), segments.flatten().to(masks.device)
    intersection = torch.zeros(masks.shape[0], num_segments + 1, dtype=torch.float64, device=masks.device)
    area = torch.bincount(flat_segments, minlength=num_segments + 1).double()
    for start in range(0, flat_segments.numel(), _PIXELS_AT_ONCE):
        part = flat_segments[start : start + _PIXELS_AT_ONCE]
        one_hot = torch.nn.functional.one_hot(part, num_segments + 1).float()
        intersection += (flat_masks[:, start : start + _PIXELS_AT_ONCE].float() @ one_hot).double()
    mask_area = intersection[:, 1:].sum(dim=1, keepdim=True)  # without void
    iou = intersection[:, 1:] / (mask_area + area[None, 1:] - intersection[:, 1:]).clamp(min=1)
    if masks.shape[0] == 0:
        return torch.zeros(num_segments, dtype=torch.float64)
    return iou.amax(dim=0).cpu()
