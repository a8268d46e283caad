# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Naming the batch that a training stumbled over."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmpf.files import write_text

logger = logging.getLogger(__name__)

FAILED_BATCH = "failed_batch.json"


def batch_names(batch: Any) -> list[str]:
    """File name, else image id, of each sample of a batch, as far as it has them."""
    samples = batch if isinstance(batch, Sequence) else []
    named = [sample for sample in samples if isinstance(sample, Mapping)]
    return [str(sample.get("file_name", sample.get("image_id", "(no name)"))) for sample in named]


def record_failure(folder: Path, *, iteration: int, fault: str, batch: Any) -> str:
    """Writes FOLDER/failed_batch.json: iteration, fault, and file name and image id of each sample.

    Returns:
        A sentence for the error message, with the names.
    """
    samples = batch if isinstance(batch, Sequence) else []
    pictures = [
        {key: sample[key] for key in ("file_name", "image_id") if key in sample}
        for sample in samples
        if isinstance(sample, Mapping)
    ]
    content = {"iteration": iteration, "fault": fault, "pictures": pictures}
    write_text(folder / FAILED_BATCH, json.dumps(content, indent=1))
    names = ", ".join(batch_names(batch)) or "unnamed"
    return f"Pictures of the batch (also in {folder / FAILED_BATCH}): {names}"


class FaultCounter:
    """Counts steps in a row that had to be left out.

    Args:
        allowed: that many are too many.
    """

    def __init__(self, *, allowed: int) -> None:
        self.in_a_row = 0
        self._allowed = allowed

    def add(self, fault: str, *, iteration: int, batch: Any) -> bool:
        """Takes a step in, `fault` "" for a good one, and logs a faulty one; True when there are too many."""
        self.in_a_row = self.in_a_row + 1 if fault else 0
        if not fault:
            return False
        logger.warning(
            "iteration %d: %s; step left out (%d of %d in a row). Pictures: %s",
            iteration,
            fault,
            self.in_a_row,
            self._allowed,
            ", ".join(batch_names(batch)),
        )
        return self.in_a_row >= self._allowed
