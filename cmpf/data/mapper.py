# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Dataset mapper: reads and augments a sample, and builds its training targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from cmpf.data.transforms.geometric import Augmentation, LabeledImage, ResizeShortestEdge
from cmpf.errors import DatasetError
from cmpf.formats.image import RGB, read_image, read_small_image
from cmpf.formats.label_map import NO_CLASS, VOID_ID, ClassMap, LabelReader, SegmentIds, read_panoptic_ids
from cmpf.formats.masks import decode_mask
from cmpf.types import Sample, SegmentInfo, Targets

# Keys of a training sample beside `image` and `targets`, for error messages and logs.
_TRAINING_KEYS = ("file_name", "image_id", "height", "width")


class TargetSource(Protocol):
    """Reads label maps, which are augmented together with the image, and builds targets from them.

    label_pad: value of pixels without a label.
    """

    label_pad: int

    def read(self, sample: Sample) -> NDArray[Any]:
        """Reads the label maps (..., H, W) of a sample."""

    def build(self, labels: NDArray[Any], sample: Sample) -> Targets:
        """Builds targets from the augmented label maps."""


class DatasetMapper:
    """Reads and augments one sample, for training or testing.

    With a target source the result has `image`, `targets`, file name, id and size; without one, the sample keeps
    all of its keys. `height` and `width` are those of the original image, to which predictions are resized.
    """

    def __init__(
        self, *, augmentations: Sequence[Augmentation], target: TargetSource | None, image_pad: int
    ) -> None:
        """
        Args:
            augmentations: applied in order to the image and its label maps.
            target: source of the training targets; None in testing.
            image_pad: gray value 0..255 for padding images.
        """
        self.augmentations = tuple(augmentations)
        self.target = target
        self.image_pad = image_pad

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """
        Args:
            sample: a sample from a dataset reader; not modified.
            rng: the only source of randomness.
        Returns:
            A new sample with `image` (3, H, W) uint8 RGB, and `targets` with a target source.
        Raises:
            ImageError: the image cannot be read.
            DatasetError: the ground truth cannot be read, or its size differs from the image's.
        """
        image, size = self._read(sample["file_name"])
        listed = sample.get("height", size[0]), sample.get("width", size[1])
        _check_size(sample, "its entry in the annotations says", listed, size)
        labels = None if self.target is None else self.target.read(sample)
        if labels is not None:
            _check_size(sample, "its label map has", (labels.shape[-2], labels.shape[-1]), size)
        label_pad = 0 if self.target is None else self.target.label_pad
        labeled = LabeledImage(image=image, labels=labels, image_pad=self.image_pad, label_pad=label_pad)
        for augmentation in self.augmentations:
            labeled = augmentation(labeled, rng)
        kept = sample if self.target is None else {k: v for k, v in sample.items() if k in _TRAINING_KEYS}
        result = cast(Sample, {**kept, "height": size[0], "width": size[1]})
        if self.target is not None and labeled.labels is not None:
            result["targets"] = self.target.build(labeled.labels, sample)
        result["image"] = torch.from_numpy(np.array(labeled.image.transpose(2, 0, 1), order="C"))
        return result

    def _read(self, path: str) -> tuple[RGB, tuple[int, int]]:
        """The image, already resized if that is the first step in testing, and its original size (H, W)."""
        first = self.augmentations[0] if self.augmentations else None
        if self.target is None and isinstance(first, ResizeShortestEdge):
            return read_small_image(path, short_side=first.short_side, max_side=first.max_side)
        image = read_image(path)
        return image, (image.shape[0], image.shape[1])


def _check_size(sample: Sample, what: str, given: tuple[int, int], actual: tuple[int, int]) -> None:
    if given != actual:
        raise DatasetError(
            f"{sample['file_name']}: the image has {actual} pixels (H, W), {what} {given}; "
            "they are of different versions, prepare the dataset again"
        )


Masks = NDArray[np.bool_]


class PanopticTargets:
    """Targets from a COCO panoptic PNG, one per segment."""

    label_pad = VOID_ID

    def read(self, sample: Sample) -> SegmentIds:
        """Reads the segment ids (H, W) from the sample's `pan_seg_file_name`."""
        return read_panoptic_ids(sample["pan_seg_file_name"])

    def build(self, labels: SegmentIds, sample: Sample) -> Targets:
        """Builds targets from augmented segment ids and the sample's `segments_info`."""
        return panoptic_targets(labels, sample["segments_info"])


class SemanticTargets:
    """Targets from a label map, one per class that is present."""

    label_pad = NO_CLASS

    def __init__(
        self, *, num_classes: int, ignore_label: int, class_of_id: Mapping[int, int] | None = None
    ) -> None:
        """See LabelReader."""
        self._reader = LabelReader(
            num_classes=num_classes, ignore_label=ignore_label, class_of_id=class_of_id
        )

    def read(self, sample: Sample) -> ClassMap:
        """Reads the class indices (H, W) from the sample's `sem_seg_file_name`."""
        return self._reader(sample["sem_seg_file_name"])

    def build(self, labels: ClassMap, sample: Sample) -> Targets:
        """Builds targets from augmented class indices."""
        return semantic_targets(labels)


class InstanceTargets:
    """Targets from a sample's COCO annotations, one per object; crowd annotations are ignored."""

    label_pad = 0

    def read(self, sample: Sample) -> Masks:
        """Decodes the masks (N, H, W) of the objects, which may overlap."""
        height, width = sample["height"], sample["width"]
        objects = _objects(sample)
        masks = np.zeros((len(objects), height, width), dtype=np.bool_)
        for mask, annotation in zip(masks, objects, strict=True):
            where = f"{sample['file_name']}: the mask of annotation {annotation.get('id', '?')}"
            mask[:] = decode_mask(annotation["segmentation"], height=height, width=width, where=where)
        return masks

    def build(self, labels: Masks, sample: Sample) -> Targets:
        """Builds targets from augmented masks; objects outside the crop are dropped."""
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
    """One target for each segment with at least one pixel; crowd segments and void are ignored.

    Args:
        ids: (H, W) segment ids, 0 = void. Ids that are not in `segments` count as void.
        segments: with `id`, contiguous `category_id` and `iscrowd`.
    Returns:
        labels (N,) int64 and masks (N, H, W) bool, in the order of `segments`; N may be 0.
    """
    segments = [segment for segment in segments if not segment.get("iscrowd", 0)]
    segment_ids = np.array([segment["id"] for segment in segments], dtype=ids.dtype)
    labels = np.array([segment["category_id"] for segment in segments], dtype=np.int64)
    masks = ids == segment_ids[:, None, None]
    present = masks.reshape(len(segments), ids.size).any(axis=1)
    return {"labels": torch.from_numpy(labels[present]), "masks": torch.from_numpy(masks[present])}


def semantic_targets(classes: ClassMap) -> Targets:
    """One target for each class with at least one pixel.

    Args:
        classes: (H, W) class indices; negative = no class.
    Returns:
        labels (N,) int64, increasing, and masks (N, H, W) bool; N may be 0.
    """
    labels = np.unique(classes)
    labels = labels[labels >= 0].astype(np.int64)
    return {"labels": torch.from_numpy(labels), "masks": torch.from_numpy(classes == labels[:, None, None])}
