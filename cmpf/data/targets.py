# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Training targets from ground-truth files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cmpf.errors import DatasetError
from cmpf.formats.label_map import NO_CLASS, VOID_ID, ClassMap, LabelReader, SegmentIds, read_panoptic_ids
from cmpf.formats.masks import decode_mask
from cmpf.types import Sample, SegmentInfo, Targets

Masks = NDArray[np.bool_]


class PanopticTargets:
    """Things and stuff of a COCO panoptic PNG, one target a segment."""

    label_pad = VOID_ID

    def read(self, sample: Sample) -> SegmentIds:
        """Segment ids (H, W) of the sample's `pan_seg_file_name`."""
        return read_panoptic_ids(sample["pan_seg_file_name"])

    def build(self, labels: SegmentIds, sample: Sample) -> Targets:
        """Targets from augmented ids and the sample's `segments_info`."""
        return panoptic_targets(labels, sample["segments_info"])


class SemanticTargets:
    """Classes of a label map, one target a class that has a pixel."""

    label_pad = NO_CLASS

    def __init__(
        self, *, num_classes: int, ignore_label: int, class_of_id: Mapping[int, int] | None = None
    ) -> None:
        """See LabelReader."""
        self._reader = LabelReader(
            num_classes=num_classes, ignore_label=ignore_label, class_of_id=class_of_id
        )

    def read(self, sample: Sample) -> ClassMap:
        """Class indices (H, W) of the sample's `sem_seg_file_name`."""
        return self._reader(sample["sem_seg_file_name"])

    def build(self, labels: ClassMap, sample: Sample) -> Targets:
        """Targets from augmented class indices."""
        return semantic_targets(labels)


class InstanceTargets:
    """Objects of a sample's COCO annotations, one target an object; crowds are none."""

    label_pad = 0

    def read(self, sample: Sample) -> Masks:
        """Masks (N, H, W) of the objects, which may overlap."""
        height, width = sample["height"], sample["width"]
        objects = _objects(sample)
        masks = np.zeros((len(objects), height, width), dtype=np.bool_)
        for mask, annotation in zip(masks, objects, strict=True):
            where = f"{sample['file_name']}: the mask of annotation {annotation.get('id', '?')}"
            mask[:] = decode_mask(annotation["segmentation"], height=height, width=width, where=where)
        return masks

    def build(self, labels: Masks, sample: Sample) -> Targets:
        """Targets from augmented masks; objects that a crop has left no pixel are left out."""
        classes = np.array([annotation["category_id"] for annotation in _objects(sample)], dtype=np.int64)
        present = labels.any(axis=(1, 2))
        return {"labels": torch.from_numpy(classes[present]), "masks": torch.from_numpy(labels[present])}


def _objects(sample: Sample) -> list[dict[str, Any]]:
    if "annotations" not in sample:
        raise DatasetError(
            f"{sample['file_name']}: no annotations; its dataset lists images alone, as LVIS' test splits do, so "
            "there is nothing to learn or to draw: take another one"
        )
    return [annotation for annotation in sample["annotations"] if not annotation.get("iscrowd", 0)]


def panoptic_targets(ids: SegmentIds, segments: Sequence[SegmentInfo]) -> Targets:
    """One target for each segment that has a pixel; crowds and void are none.

    Args:
        ids: (H, W) segment ids, 0 = void. Ids that `segments` does not list count as void.
        segments: with `id`, contiguous `category_id` and `iscrowd`.
    Returns:
        labels (N,) int64 and masks (N, H, W) bool, in the order of `segments`; N may be 0.
    """
    wanted = [segment for segment in segments if not segment.get("iscrowd", 0)]
    names = np.array([segment["id"] for segment in wanted], dtype=ids.dtype)
    labels = np.array([segment["category_id"] for segment in wanted], dtype=np.int64)
    masks = ids == names[:, None, None]
    present = masks.reshape(len(wanted), ids.size).any(axis=1)
    return {"labels": torch.from_numpy(labels[present]), "masks": torch.from_numpy(masks[present])}


def semantic_targets(classes: ClassMap) -> Targets:
    """One target for each class that has a pixel.

    Args:
        classes: (H, W) class index; negative = none.
    Returns:
        labels (N,) int64, rising, and masks (N, H, W) bool; N may be 0.
    """
    labels = np.unique(classes)
    labels = labels[labels >= 0].astype(np.int64)
    return {"labels": torch.from_numpy(labels), "masks": torch.from_numpy(classes == labels[:, None, None])}
