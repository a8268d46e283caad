# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Training targets from ground-truth files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cmpf.data.images import DAMAGED
from cmpf.errors import DatasetError
from cmpf.types import Sample, SegmentInfo, Targets

Ids = NDArray[np.int32]
VOID_ID = 0


class PanopticTargets:
    """Things and stuff of a COCO panoptic PNG, one target a segment."""

    label_pad = VOID_ID

    def read(self, sample: Sample) -> Ids:
        """Segment ids (H, W) of the sample's `pan_seg_file_name`."""
        return read_panoptic_ids(sample["pan_seg_file_name"])

    def build(self, labels: Ids, sample: Sample) -> Targets:
        """Targets from augmented ids and the sample's `segments_info`."""
        return panoptic_targets(labels, sample["segments_info"])


def read_panoptic_ids(path: str | Path) -> Ids:
    """Segment ids (H, W) of a COCO panoptic PNG: R + 256 G + 65536 B, 0 = void; a grey file holds plain ids.

    Raises:
        DatasetError: the file is missing or damaged; names it.
    """
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture).astype(np.int32)
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such panoptic PNG; prepare the dataset again") from error
    except DAMAGED as error:
        raise DatasetError(f"{path}: damaged panoptic PNG ({error}); prepare the dataset again") from error
    if pixels.ndim == 2:
        return pixels
    ids: Ids = pixels[..., 0] | pixels[..., 1] << 8 | pixels[..., 2] << 16
    return ids


def panoptic_targets(ids: Ids, segments: Sequence[SegmentInfo]) -> Targets:
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
