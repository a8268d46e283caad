# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What a dataset's files say of an image, and what training makes of it, as regions to draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmpf.data.datasets.spec import Dataset
from cmpf.data.mapper import DatasetMapper
from cmpf.formats.image import RGB, read_image
from cmpf.formats.label_map import LabelReader, read_panoptic_ids
from cmpf.formats.masks import decode_mask
from cmpf.types import Sample
from cmpf.visualization.ground_truth import TrueRegion

Drawable = tuple[RGB, Sequence[TrueRegion]]


def chosen_samples(dataset: Dataset, count: int, rng: np.random.Generator) -> list[Sample]:
    """So many samples at random, in the order of the dataset; all if there are fewer."""
    samples = dataset.samples
    places = rng.choice(len(samples), size=min(count, len(samples)), replace=False)
    return [samples[place] for place in sorted(places.tolist())]


def from_files(dataset: Dataset, sample: Sample) -> Drawable:
    """Image and ground truth as they are on disk, crowds among it.

    Raises:
        ImageError, DatasetError: a file cannot be read.
    """
    if dataset.spec.kind == "semantic":
        regions = _classes(dataset, sample)
    elif dataset.spec.kind == "instance":
        regions = _objects(sample)
    else:
        ids = read_panoptic_ids(sample["pan_seg_file_name"])
        regions = [
            TrueRegion(ids == segment["id"], segment["category_id"], bool(segment.get("iscrowd", 0)))
            for segment in sample["segments_info"]
        ]
    return read_image(sample["file_name"]), regions


def from_training(mapper: DatasetMapper, sample: Sample, rng: np.random.Generator) -> Drawable:
    """Image and targets as the training mapper gives them.

    Raises:
        ImageError, DatasetError: a file cannot be read.
    """
    seen = mapper(sample, rng)
    image: NDArray[Any] = seen["image"].numpy().transpose(1, 2, 0)
    masks, labels = seen["targets"]["masks"].numpy(), seen["targets"]["labels"].tolist()
    return image.astype(np.uint8), [
        TrueRegion(mask, label) for mask, label in zip(masks, labels, strict=True)
    ]


def _classes(dataset: Dataset, sample: Sample) -> list[TrueRegion]:
    read = LabelReader(
        num_classes=dataset.vocabulary.num_classes,
        ignore_label=dataset.spec.ignore_label,
        class_of_id=dataset.spec.class_of_label,
    )
    classes = read(sample["sem_seg_file_name"])
    return [TrueRegion(classes == index, index) for index in np.unique(classes).tolist() if index >= 0]


def _objects(sample: Sample) -> list[TrueRegion]:
    regions = []
    for annotation in sample["annotations"]:
        mask = decode_mask(
            annotation["segmentation"],
            height=sample["height"],
            width=sample["width"],
            where=f"{sample['file_name']}: the mask of annotation {annotation.get('id', '?')}",
        )
        regions.append(TrueRegion(mask, annotation["category_id"], bool(annotation.get("iscrowd", 0))))
    return regions
