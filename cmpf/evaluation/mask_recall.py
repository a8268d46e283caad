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
    binary_masks,
    check_size,
    describe,
    gather_by_image,
    mean_over,
    new_image,
    paired,
    percent_ratio,
    required,
    to_array,
)
from cmpf.evaluation.semantic import LabelMapEvaluator
from cmpf.formats.label_map import read_panoptic_ids
from cmpf.types import ModelResult, Sample, SegmentInfo

Ids = npt.NDArray[np.int64]
_THRESHOLDS = (0.5, 0.75, 0.9)
_PIXELS_AT_ONCE = 1 << 16  # bounds the float copy of the proposals; sums below 2^24 are exact in float32


class MaskRecallEvaluator(LabelMapEvaluator):
    """Share of true segments that some proposal covers with IoU > 0.5, 0.75, 0.9, whatever its class.

    From `outputs["proposals"]`, (Q [+ M], H, W) bool: decoder masks > 0, and SAM's with the mask ensemble on.
    A true segment is one instance of a thing class or the whole region of a stuff class in an image; crowds
    do not count. A dataset without panoptic ground truth has one segment per class and image: all pixels of the
    class. Void or ignored pixels are removed from the union, as in PQ. Segments are averaged within their
    class first, then over the classes that occur, so that frequent classes do not decide the number. Label maps
    are read where a sample has no panoptic PNG.
    """

    def process(self, inputs: Sequence[Sample], outputs: Sequence[ModelResult]) -> None:
        """Adds a batch; see Evaluator."""
        for sample, proposals in paired(inputs, outputs, "proposals"):
            places, classes, counted = self._true_segments(sample)
            image_id = required(sample, "image_id")
            new_image(image_id, self._found, describe(sample))
            masks = torch.as_tensor(proposals)
            if masks.dtype != torch.bool:
                masks = torch.from_numpy(binary_masks(to_array(masks), f"{describe(sample)}: proposals"))
            check_size(describe(sample), masks.shape[1:], places.shape)
            best = best_ious(masks, torch.from_numpy(places), len(classes)).numpy()
            self._found[image_id] = (classes[counted], best[counted])

    def _true_segments(self, sample: Sample) -> tuple[Ids, Ids, npt.NDArray[np.bool_]]:
        """Places (H, W), 0 = void and i + 1 = segment i; for each segment its class and whether it counts."""
        if "pan_seg_file_name" in sample:
            ids = read_panoptic_ids(sample["pan_seg_file_name"])
            infos: list[SegmentInfo] = required(sample, "segments_info")
            classes = np.array([info["category_id"] for info in infos], dtype=np.int64)
            counted = np.array([not info.get("iscrowd", 0) for info in infos], dtype=bool)
            places = np.zeros(ids.shape, dtype=np.int64)
            for place, info in enumerate(infos, start=1):
                places[ids == info["id"]] = place
            if ((classes < 0) | (classes >= len(self._names))).any():
                raise EvaluationError(
                    f"{sample['pan_seg_file_name']}: class indices {sorted(set(classes.tolist()))}; this "
                    f"vocabulary has 0..{len(self._names) - 1} (contiguous indices, not dataset ids)"
                )
            return places, classes, counted
        count = len(self._names)
        labels = self._read_labels(required(sample, "sem_seg_file_name")).astype(np.int64)
        present = np.unique(labels)
        place_of = np.zeros(count + 1, dtype=np.int64)
        classes = present[present < count]
        place_of[classes] = np.arange(1, len(classes) + 1)
        return place_of[labels], classes, np.ones(len(classes), dtype=bool)

    def evaluate(self) -> Results:
        """{"mask_recall": {recall_50, recall_75, recall_90, S_..., U_..., recall_50-name, ...}}, percent."""
        count = len(self._names)
        per_image = list(gather_by_image(self._found).values())
        classes = np.concatenate([c for c, _ in per_image]) if per_image else np.zeros(0, dtype=np.int64)
        ious = np.concatenate([i for _, i in per_image]) if per_image else np.zeros(0)
        segments = np.bincount(classes, minlength=count).astype(np.float64)
        metrics: Metrics = {}
        by_class: Metrics = {}
        for threshold in _THRESHOLDS:
            name = f"recall_{round(100 * threshold)}"
            hits = np.bincount(classes[ious > threshold], minlength=count).astype(np.float64)
            recall = percent_ratio(hits, segments)
            for prefix, group in self._groups:
                metrics[f"{prefix}{name}"] = mean_over(recall, group & (segments > 0))
            by_class.update({f"{name}-{n}": float(v) for n, v in zip(self._names, recall, strict=True)})
        return {"mask_recall": {**metrics, **by_class}}


def best_ious(masks: Tensor, places: Tensor, num_segments: int) -> Tensor:
    """Best IoU of any proposal with each segment, outside void.

    Args:
        masks: (Q, H, W) bool proposals, on any device.
        places: (H, W) int64, 0 = void, 1..num_segments.
        num_segments: N.
    Returns:
        (N,) float64 on the CPU; 0 where there is no proposal or the segment has no pixel.
    """
    flat_masks, flat_places = masks.flatten(1), places.flatten().to(masks.device)
    shared = torch.zeros(masks.shape[0], num_segments + 1, dtype=torch.float64, device=masks.device)
    area = torch.bincount(flat_places, minlength=num_segments + 1).double()
    for start in range(0, flat_places.numel(), _PIXELS_AT_ONCE):
        part = flat_places[start : start + _PIXELS_AT_ONCE]
        member = torch.nn.functional.one_hot(part, num_segments + 1).float()
        shared += (flat_masks[:, start : start + _PIXELS_AT_ONCE].float() @ member).double()
    outside_void = shared[:, 1:].sum(dim=1, keepdim=True)
    iou = shared[:, 1:] / (outside_void + area[None, 1:] - shared[:, 1:]).clamp(min=1)
    if masks.shape[0] == 0:
        return torch.zeros(num_segments, dtype=torch.float64)
    return iou.amax(dim=0).cpu()
