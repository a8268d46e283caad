# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""From a sample of a dataset to what the model takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from cmpf.data.transforms.geometric import Augmentation, LabeledImage, ResizeShortestEdge
from cmpf.errors import DatasetError
from cmpf.formats.image import RGB, read_image, read_small_image
from cmpf.types import Sample, Targets

# What training needs of a sample beside image and targets: its name, for error messages and logs.
_KEPT_IN_TRAINING = ("file_name", "image_id", "height", "width")


class TargetSource(Protocol):
    """Ground truth of one kind: read as label maps, augmented with the image, turned into targets.

    label_pad: value of pixels without a label.
    """

    label_pad: int

    def read(self, sample: Sample) -> NDArray[Any]:
        """Label maps (..., H, W) of a sample."""

    def build(self, labels: NDArray[Any], sample: Sample) -> Targets:
        """Targets from the augmented maps."""


class DatasetMapper:
    """Reads and augments one sample, in training and in testing.

    Training samples come out with `image` and `targets`; without a target source the sample keeps all of its
    keys, `height` and `width` of the original image among them, which are the size of the results.
    """

    def __init__(
        self, *, augmentations: Sequence[Augmentation], target: TargetSource | None, image_pad: int
    ) -> None:
        """
        Args:
            augmentations: applied in order to image and label maps.
            target: what to learn; None in testing.
            image_pad: gray value 0..255 around images that an augmentation pads.
        """
        self.augmentations = tuple(augmentations)
        self.target = target
        self.image_pad = image_pad

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """
        Args:
            sample: as a reader gives it; it is left as it is.
            rng: the only source of randomness.
        Returns:
            A new sample with `image` (3, H, W) uint8 RGB, and `targets` with a target source.
        Raises:
            ImageError: the image cannot be read.
            DatasetError: ground truth cannot be read, or its size is not that of the image.
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
        kept = sample if self.target is None else {k: v for k, v in sample.items() if k in _KEPT_IN_TRAINING}
        result = cast(Sample, {**kept, "height": size[0], "width": size[1]})
        if self.target is not None and labeled.labels is not None:
            result["targets"] = self.target.build(labeled.labels, sample)
        result["image"] = torch.from_numpy(np.array(labeled.image.transpose(2, 0, 1), order="C"))
        return result

    def _read(self, path: str) -> tuple[RGB, tuple[int, int]]:
        """An image, and the size (H, W) that it has in its file."""
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
