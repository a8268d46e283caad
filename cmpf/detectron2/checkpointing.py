# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Detectron2's checkpoints, which can also start from every file that CMPF reads."""

from __future__ import annotations

from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from cmpf import weights


class Checkpointer(DetectionCheckpointer):  # type: ignore[misc]
    """Saves as Detectron2 does. Loads Detectron2's files, CMPF's .safetensors, and published weights by their names.

    Weights that do not fit are an error, not a warning: a decoder that kept half of its random numbers would train
    on without a word. The other way, CMPF's own engine reads what this saves.

    Args:
        allow_unused: whether a file may hold weights that the model does not have. options: Detectron2's.
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, allow_unused: bool = False, **options: Any
    ) -> None:
        super().__init__(model, save_dir, **options)
        self.allow_unused = allow_unused

    def _load_file(self, filename: str) -> Any:
        if filename.endswith(".safetensors"):
            # The file itself, for cmpf.weights compares the encoders that it names with the model's.
            return {"model": filename}
        return super()._load_file(filename)

    def _load_model(self, contents: dict[str, Any]) -> None:
        """Raises WeightsError where weights are missing, of another shape or of no use."""
        report = weights.load(self.model, contents.pop("model"), allow_unused=self.allow_unused)
        self.logger.info("weights: %s", report)


class WeightsKeeper(Checkpointer):
    """Saves what is no place to go on from: last_checkpoint keeps the name that it has."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Leaves last_checkpoint alone."""
