# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Naming the batch that a training stumbled over."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmpf.common import distributed
from cmpf.common.files import write_text
from cmpf.errors import CMPFError, TrainingError

logger = logging.getLogger(__name__)

FAILED_BATCH = "failed_batch.json"


Names = Sequence[Mapping[str, Any]]  # of images: what there is of "file_name" and "image_id" of each


def images_of_all(batch: Any) -> list[dict[str, Any]]:
    """File name and image id of each sample of all processes' batches; all of them must call it.

    Args:
        batch: of this process; [] is said of one that is no sequence of samples.
    """
    samples = batch if isinstance(batch, Sequence) else []
    own = [
        {key: sample[key] for key in ("file_name", "image_id") if key in sample}
        for sample in samples
        if isinstance(sample, Mapping)
    ]
    return [image for images in distributed.gather(own) for image in images]


def failure(issue: str, *, iteration: int, images: Names, folder: Path, weights: Path) -> TrainingError:
    """The error that ends a training: what happened, with which images, and how to go on.

    Args:
        images: of the batch, see images_of_all. They are named, also in FOLDER/failed_batch.json, which the main
            process writes: iteration, issue and images.
        weights: of the checkpoint that is left.
    """
    if distributed.is_main():
        content = {"iteration": iteration, "issue": issue, "images": list(images)}
        write_text(folder / FAILED_BATCH, json.dumps(content, indent=1))
    names = _listed(images) or "unnamed"
    return TrainingError(
        f"{issue}. Images of the batch (also in {folder / FAILED_BATCH}): {names}. Checkpoint: {weights}. "
        "Look at these images or lower the learning rate; --resume goes on with the next batch"
    )


def unreadable_image(error: CMPFError | None, weights: Path) -> TrainingError:
    """The error that ends a training over an image; all processes must call it, each with its own error if it has one.

    Args:
        weights: of the checkpoint that was left.
    """
    messages = [text for text in distributed.gather(None if error is None else str(error)) if text]
    return TrainingError(
        f"{messages[0]}. Checkpoint: {weights}. Repair the image and go on with --resume, or leave out what cannot be "
        "read: DATALOADER.ON_ERROR skip"
    )


class IssueCounter:
    """Counts steps in a row that had to be left out.

    Args:
        allowed: that many are too many.
    """

    def __init__(self, *, allowed: int) -> None:
        self.in_a_row = 0
        self._allowed = allowed

    def add(self, issue: str, *, iteration: int, images: Names) -> bool:
        """Takes a step in, `issue` "" for a good one, and logs a bad one; True when there are too many."""
        self.in_a_row = self.in_a_row + 1 if issue else 0
        if not issue:
            return False
        logger.warning(
            "iteration %d: %s; step left out (%d of %d in a row). Images: %s",
            iteration,
            issue,
            self.in_a_row,
            self._allowed,
            _listed(images),
        )
        return self.in_a_row >= self._allowed


def _listed(images: Names) -> str:
    """File name, else image id, of each."""
    return ", ".join(str(image.get("file_name", image.get("image_id", "(no name)"))) for image in images)
