# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Errors that end a training run, with the images of the batch that caused them."""

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

ImageNames = Sequence[Mapping[str, Any]]  # "file_name" and "image_id" of each image, as far as it has them


def gather_image_names(batch: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Gathers the file names and image ids of all processes' batches. All processes must call it.

    Args:
        batch: this process's samples.
    """
    own = [{key: sample[key] for key in ("file_name", "image_id") if key in sample} for sample in batch]
    return [image for images in distributed.gather(own) for image in images]


def failure(issue: str, *, iteration: int, images: ImageNames, folder: Path, weights: Path) -> TrainingError:
    """An error for a batch that cannot be trained on; the main process writes FOLDER/failed_batch.json.

    Args:
        issue: what happened.
        iteration: completed iterations.
        images: names of the batch's images, see gather_image_names.
        folder: receives the JSON file with iteration, issue and images.
        weights: weights of the checkpoint to resume from.
    """
    if distributed.is_main():
        content = {"iteration": iteration, "issue": issue, "images": list(images)}
        write_text(folder / FAILED_BATCH, json.dumps(content, indent=1))
    names = _format_names(images) or "unnamed"
    return TrainingError(
        f"{issue}. Images of the batch (also in {folder / FAILED_BATCH}): {names}. Checkpoint: {weights}. "
        "Look at these images or lower the learning rate; --resume goes on with the next batch"
    )


def unreadable_image(error: CMPFError | None, weights: Path) -> TrainingError:
    """An error for an image that cannot be read. All processes must call it.

    Args:
        error: this process's error; None if another process failed.
        weights: weights of the checkpoint to resume from.
    """
    messages = [text for text in distributed.gather(None if error is None else str(error)) if text]
    return TrainingError(
        f"{messages[0]}. Checkpoint: {weights}. Repair the image and go on with --resume, or leave out what cannot be "
        "read: DATALOADER.ON_ERROR skip"
    )


class IssueCounter:
    """Counts consecutive skipped steps.

    Args:
        allowed: the count at which training must end.
    """

    def __init__(self, *, allowed: int) -> None:
        self.in_a_row = 0
        self._allowed = allowed

    def add(self, issue: str, *, iteration: int, images: ImageNames) -> bool:
        """Counts one step and logs it if it was skipped.

        Args:
            issue: why the step was skipped; "" = it was not, which resets the count.
            iteration: completed iterations.
            images: names of the batch's images.
        Returns:
            Whether training must end.
        """
        self.in_a_row = self.in_a_row + 1 if issue else 0
        if not issue:
            return False
        logger.warning(
            "iteration %d: %s; step skipped (%d of %d in a row). Images: %s",
            iteration,
            issue,
            self.in_a_row,
            self._allowed,
            _format_names(images),
        )
        return self.in_a_row >= self._allowed


def _format_names(images: ImageNames) -> str:
    """The file name of each image, or its id if it has none."""
    return ", ".join(str(image.get("file_name", image.get("image_id", "(no name)"))) for image in images)
