# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints of a training run: pairs of trained weights (safetensors) and training state (torch.save).

Each file is replaced atomically, weights first; the state holds the weights' SHA-256, so a pair is whole or
is recognized as broken, whatever moment the process was killed in.
"""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cmpf.common.files import TEMPORARY, replacing, write_text
from cmpf.errors import TrainingError
from cmpf.weights.download import file_sha256

logger = logging.getLogger(__name__)

LAST_CHECKPOINT = "last_checkpoint"
DETECTRON2_ENDING = ".pth"  # of the checkpoints of Detectron2's loop, whose last_checkpoint has the same form
_NUMBERED = re.compile(r"(?:model|training)_(\d{7,})\.(?:safetensors|pt)")
_UNREADABLE = (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError, ValueError, TypeError)


class Checkpointer:
    """Writes, finds and prunes the checkpoints of one folder.

    Args:
        folder: OUTPUT_DIR; made if it is not there.
        save_weights: writes the model's trained weights to a path (cmpf.weights.save, bound).
        load_weights: reads such a file into the model (cmpf.weights.load, bound).
        keep: how many numbered checkpoints stay; the older ones are removed. At least 1.
    """

    def __init__(
        self,
        folder: Path,
        *,
        save_weights: Callable[[Path], object],
        load_weights: Callable[[Path], object],
        keep: int,
    ) -> None:
        if keep < 1:
            raise TrainingError(f"at least 1 checkpoint must be kept, got {keep}")
        self.folder = folder
        self._save_weights = save_weights
        self._load_weights = load_weights
        self._keep = keep

    def save(self, iteration: int, state: dict[str, Any]) -> Path:
        """Writes weights, then state, then last_checkpoint; then removes what is too old.

        Args:
            iteration: iterations done.
            state: tensors, numbers, strings, lists and dicts of them: what weights_only=True can read.
        Returns:
            Path of the weights.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_unfinished()
        weights = self.weights_path(iteration)
        self._save_weights(weights)
        with replacing(self.state_path(iteration)) as temporary:
            torch.save({**state, "weights_sha256": file_sha256(weights)}, temporary)
        write_text(self.folder / LAST_CHECKPOINT, weights.name)
        self._prune(iteration)
        return weights

    def save_named(self, name: str) -> Path:
        """Writes the weights alone, as model_NAME.safetensors; such files are never pruned."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"model_{name}.safetensors"
        self._save_weights(path)
        return path

    def load_newest(self) -> dict[str, Any] | None:
        """Loads the weights of the newest whole checkpoint, and logs which newer ones were not whole.

        Returns:
            Its training state; None where the folder has no checkpoint at all.
        Raises:
            TrainingError: there are checkpoints, but none is whole, or they are those of Detectron2's loop.
        """
        self._check_loop()
        iterations = self.iterations()
        issues = []
        for iteration in reversed(iterations):
            try:
                state = self._read(iteration)
            except TrainingError as issue:
                logger.warning("skipped a checkpoint that is not whole: %s", issue)
                issues.append(str(issue))
                continue
            self._load_weights(self.weights_path(iteration))
            return state
        if issues:
            raise TrainingError(
                f"no checkpoint in {self.folder} is whole: {'; '.join(issues)}. Remove them to start anew, "
                "or copy a whole one there"
            )
        return None

    def check_unused(self) -> None:
        """Makes sure that a new training mixes with no other one.

        Raises:
            TrainingError: the folder holds checkpoints, of either loop.
        """
        self._check_loop()
        if earlier := self.iterations():
            raise TrainingError(
                f"{self.folder} holds checkpoints of an earlier run (up to iteration {earlier[-1]}). Go on with "
                "it by --resume, or choose another OUTPUT_DIR"
            )

    def _check_loop(self) -> None:
        pointer = self.folder / LAST_CHECKPOINT
        name = pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else ""
        if name.endswith(DETECTRON2_ENDING):
            raise TrainingError(
                f"{self.folder} holds checkpoints of Detectron2's loop ({name}), which alone can go on with them: "
                "--engine detectron2 --resume, or choose another OUTPUT_DIR"
            )

    def iterations(self) -> list[int]:
        """Iterations of which the folder holds a checkpoint or a part of one, ascending."""
        if not self.folder.is_dir():
            return []
        matches = (_NUMBERED.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted({int(match.group(1)) for match in matches if match})

    def weights_path(self, iteration: int) -> Path:
        """Where the trained weights after so many iterations lie."""
        return self.folder / f"model_{iteration:07d}.safetensors"

    def state_path(self, iteration: int) -> Path:
        """Where the training state after so many iterations lies."""
        return self.folder / f"training_{iteration:07d}.pt"

    def _read(self, iteration: int) -> dict[str, Any]:
        """The state of a checkpoint; TrainingError says what is wrong with the pair."""
        weights, path = self.weights_path(iteration), self.state_path(iteration)
        for file in (weights, path):
            if not file.exists():
                raise TrainingError(f"{file} is missing")
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            expected = state.pop("weights_sha256")
        except _UNREADABLE as issue:
            raise TrainingError(f"{path} is truncated or damaged ({type(issue).__name__})") from issue
        if file_sha256(weights) != expected:
            raise TrainingError(f"{weights} is truncated, damaged or of another run than {path.name}")
        return state

    def _prune(self, newest: int) -> None:
        """Keeps the last few; a number above the newest is a broken one that resuming passed over."""
        kept = [iteration for iteration in self.iterations() if iteration <= newest][-self._keep :]
        for iteration in self.iterations():
            if iteration not in kept:
                self.state_path(iteration).unlink(missing_ok=True)
                self.weights_path(iteration).unlink(missing_ok=True)

    def _remove_unfinished(self) -> None:
        """What a killed process left half written."""
        for name in ("model_", "training_", LAST_CHECKPOINT):
            for path in self.folder.glob(f"{TEMPORARY}*-{name}*"):
                path.unlink(missing_ok=True)


def last_weights(folder: Path) -> Path:
    """Weights that the file last_checkpoint of a run's folder names.

    Raises:
        TrainingError: there is no such file, or it names none that exists.
    """
    pointer = folder / LAST_CHECKPOINT
    if not pointer.is_file():
        raise TrainingError(
            f"no checkpoint in {folder}: {pointer} is missing. Train first, or check OUTPUT_DIR"
        )
    weights = folder / pointer.read_text(encoding="utf-8").strip()
    if not weights.is_file():
        raise TrainingError(
            f"{pointer} names {weights.name}, which is missing. Choose another by MODEL.WEIGHTS"
        )
    return weights
