# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""A gtFine folder in Cityscapes' own form, as far as the official evaluation reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from cmpf.types import InstanceResult, ModelResult, Sample

# Label id of each train id, from the table of the dataset.
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
NAMES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
    "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
CAR, PERSON, ROAD = 13, 11, 0
IGNORED = 255
InstanceMap = npt.NDArray[np.int64]


def write_truth(folder: Path, number: int, instances: InstanceMap) -> Sample:
    """Writes the three images of an image and gives its sample.

    Args:
        instances: (H, W) train id of stuff, 1000 * train id + n of things, 255 = unlabeled.
    """
    folder.mkdir(parents=True, exist_ok=True)
    classes = np.where(instances >= 1000, instances // 1000, instances)
    table = np.zeros(256, dtype=np.int64)  # label id 0: unlabeled
    table[: len(LABEL_IDS)] = LABEL_IDS
    labels = table[classes]
    ids = np.where(instances >= 1000, labels * 1000 + instances % 1000, labels)
    stem = f"aachen_000000_{number:06d}_gtFine"
    Image.fromarray(labels.astype(np.uint8)).save(folder / f"{stem}_labelIds.png")
    Image.fromarray(ids.astype(np.uint16)).save(folder / f"{stem}_instanceIds.png")
    Image.fromarray(classes.astype(np.uint8)).save(folder / f"{stem}_labelTrainIds.png")
    return {
        "file_name": f"aachen_000000_{number:06d}_leftImg8bit.png",
        "image_id": f"aachen_000000_{number:06d}",
        "height": instances.shape[0],
        "width": instances.shape[1],
        "sem_seg_file_name": str(folder / f"{stem}_labelTrainIds.png"),
    }


def prediction(labels: InstanceMap, *found: tuple[InstanceMap, int, float]) -> ModelResult:
    """What the model would return: labels (H, W), and masks with class and score."""
    masks = np.array([mask for mask, _, _ in found], dtype=bool).reshape(len(found), *labels.shape)
    return {
        "sem_seg": torch.from_numpy(labels),
        "instances": InstanceResult(
            pred_masks=torch.from_numpy(masks),
            pred_boxes=torch.zeros(len(found), 4),
            scores=torch.tensor([score for _, _, score in found], dtype=torch.float64),
            pred_classes=torch.tensor([category for _, category, _ in found], dtype=torch.int64),
        ),
    }


def random_street(folder: Path, number: int) -> tuple[Sample, ModelResult]:
    """An image and a prediction near it, both determined by the number."""
    generator = np.random.default_rng(number)
    truth = generator.integers(0, 11, (6, 8)).repeat(10, axis=0).repeat(10, axis=1)
    truth[generator.random(truth.shape) < 0.05] = IGNORED
    found = []
    for place in range(4):
        y, x, category = (
            int(generator.integers(0, 30)),
            int(generator.integers(0, 50)),
            11 + int(generator.integers(0, 4)),
        )
        truth[y : y + 20, x : x + 18] = 1000 * category + place
    for identity in np.unique(truth[truth >= 1000]).tolist():
        mask = np.roll(truth == identity, generator.integers(-3, 4, size=2), axis=(0, 1))
        category = identity // 1000 if generator.random() < 0.8 else 11 + int(generator.integers(0, 4))
        found.append((mask, category, float(generator.random())))
    labels = np.where(truth >= 1000, truth // 1000, truth)
    labels = np.roll(np.where(labels == IGNORED, 0, labels), 2, axis=1)
    labels[generator.random(labels.shape) < 0.05] = IGNORED  # no class
    return write_truth(folder, number, truth), prediction(labels, *found)
