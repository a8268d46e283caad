# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Training checkpoints: pairs of trained weights (safetensors) and training state (torch.save).

Each file is replaced atomically, weights first. The state stores the SHA-256 of its weights, so a pair that a killed
process left incomplete is always detected.
"""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from cmpf.common.files import TEMPORARY, file_sha256, replacing, write_text
from cmpf.errors import TrainingError, summary

logger = logging.getLogger(__name__)

LAST_CHECKPOINT = "last_checkpoint"
DETECTRON2_SUFFIX = ".pth"  # Detectron2's trainer writes such checkpoints and the same last_checkpoint file
UNFINISHED = "unfinished_"  # prefix of weights whose training state was never written
LOCK = "training.lock"
_NUMBERED = re.compile(r"(?:model|training)_(\d{7,})\.(?:safetensors|pt)")
_UNREADABLE = (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError, ValueError, TypeError)


class Checkpointer:
    """Writes, finds and prunes the checkpoints in one folder.

    Args:
        folder: OUTPUT_DIR; created if missing.
        save_weights: writes the model's trained weights to a path (cmpf.weights.save with the model bound).
        load_weights: loads such a file into the model (cmpf.weights.load with the model bound).
        keep: number of newest checkpoints to keep, at least 1.
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
        """Writes weights, then state, then last_checkpoint; then removes checkpoints beyond `keep`.

        Args:
            iteration: completed iterations.
            state: tensors, numbers, strings, and lists and dicts of these: what weights_only=True can read.
        Returns:
            Path of the weights.
        Raises:
            TrainingError: a file cannot be written, e.g. because the disk is full; earlier checkpoints stay.
        """
        weights = self.weights_path(iteration)
        with _write_errors(weights):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_temporary_files()
            self._save_weights(weights)
        with _write_errors(self.state_path(iteration)), replacing(self.state_path(iteration)) as temporary:
            torch.save({**state, "weights_sha256": file_sha256(weights)}, temporary)
        with _write_errors(self.folder / LAST_CHECKPOINT):
            write_text(self.folder / LAST_CHECKPOINT, weights.name)
        self._prune(iteration)
        return weights

    def save_named(self, name: str) -> Path:
        """Writes only the weights, to model_NAME.safetensors; such files are never pruned."""
        path = self.folder / f"model_{name}.safetensors"
        with _write_errors(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._save_weights(path)
        return path

    def load_newest(self) -> dict[str, Any] | None:
        """Loads the weights of the newest intact checkpoint and logs which newer ones were skipped.

        Returns:
            The checkpoint's training state; None if training must start at iteration 0: the folder has no checkpoint,
            or only the weights of a first save that was killed (they are then moved aside).
        Raises:
            TrainingError: there are checkpoints but none is intact, or Detectron2's trainer wrote them.
        """
        self._check_not_detectron2()
        iterations = self.iterations()
        issues = []
        for iteration in reversed(iterations):
            try:
                state = self._read(iteration)
            except TrainingError as issue:
                logger.warning("skipped an incomplete checkpoint: %s", issue)
                issues.append(str(issue))
                continue
            self._load_weights(self.weights_path(iteration))
            return state
        if self._move_aside_first_save(iterations):
            return None
        if issues:
            raise TrainingError(
                f"no checkpoint in {self.folder} is whole: {'; '.join(issues)}. Remove them to start anew, "
                "or copy a whole one there"
            )
        return None

    def _move_aside_first_save(self, iterations: list[int]) -> bool:
        """Renames the weights of an unfinished first save; returns whether there was one.

        Only a first save can leave weights alone: a later one removes older checkpoints after it is complete.
        """
        if len(iterations) != 1 or (self.folder / LAST_CHECKPOINT).exists():
            return False
        weights, state = self.weights_path(iterations[0]), self.state_path(iterations[0])
        if state.exists() or not weights.exists():
            return False
        target = weights.with_name(f"{UNFINISHED}{weights.name}")
        weights.replace(target)
        logger.warning(
            "the first save in %s was not completed (process killed, or disk full): its weights were moved to %s, "
            "and training starts from the beginning",
            self.folder,
            target.name,
        )
        return True

    def check_unused(self) -> None:
        """Makes sure that a new run does not mix its files with those of another one.

        Raises:
            TrainingError: the folder holds checkpoints, of this trainer or Detectron2's.
        """
        self._check_not_detectron2()
        if earlier := self.iterations():
            raise TrainingError(
                f"{self.folder} holds checkpoints of an earlier run (up to iteration {earlier[-1]}). Go on with "
                "it by --resume, or choose another OUTPUT_DIR"
            )

    def _check_not_detectron2(self) -> None:
        pointer = self.folder / LAST_CHECKPOINT
        name = pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else ""
        if name.endswith(DETECTRON2_SUFFIX):
            raise TrainingError(
                f"{self.folder} holds checkpoints of Detectron2's loop ({name}), which alone can go on with them: "
                "--engine detectron2 --resume, or choose another OUTPUT_DIR"
            )

    def iterations(self) -> list[int]:
        """Iterations, ascending, for which the folder holds at least one file of a checkpoint."""
        return _iterations(self.folder)

    def weights_path(self, iteration: int) -> Path:
        """Path of the trained weights at an iteration."""
        return _weights_path(self.folder, iteration)

    def state_path(self, iteration: int) -> Path:
        """Path of the training state at an iteration."""
        return _state_path(self.folder, iteration)

    def _read(self, iteration: int) -> dict[str, Any]:
        """The training state of a checkpoint. Raises TrainingError if a file is missing or damaged."""
        weights, path = self.weights_path(iteration), self.state_path(iteration)
        for file in (weights, path):
            if not file.exists():
                raise TrainingError(f"{file} is missing")
        return _verified_state(weights, path)

    def _prune(self, newest: int) -> None:
        """Removes old checkpoints, and those after `newest`: they are damaged ones that resuming skipped."""
        kept = [iteration for iteration in self.iterations() if iteration <= newest][-self._keep :]
        for iteration in self.iterations():
            if iteration not in kept:
                self.state_path(iteration).unlink(missing_ok=True)
                self.weights_path(iteration).unlink(missing_ok=True)

    def _remove_temporary_files(self) -> None:
        """Removes the partly written files of a killed process."""
        for name in ("model_", "training_", LAST_CHECKPOINT):
            for path in self.folder.glob(f"{TEMPORARY}*-{name}*"):
                path.unlink(missing_ok=True)


def _verified_state(weights: Path, path: Path) -> dict[str, Any]:
    """The training state of a pair. Raises TrainingError if it is unreadable or the weights' SHA-256 differs."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        expected = state.pop("weights_sha256")
    except _UNREADABLE as issue:
        raise TrainingError(f"{path} is truncated or damaged ({type(issue).__name__})") from issue
    if file_sha256(weights) != expected:
        raise TrainingError(f"{weights} is truncated, damaged or of another run than {path.name}")
    return state


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """Converts the errors that libraries raise for a failed write (e.g. a full disk) to a TrainingError."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise TrainingError(
            f"{path} cannot be written ({summary(error)}). Earlier checkpoints are whole: make room or get the right "
            "to write there, and go on with --resume"
        ) from error


@contextmanager
def training_lock(folder: Path) -> Iterator[None]:
    """Locks OUTPUT_DIR for one training run; the operating system releases the lock if the process dies.

    Raises:
        TrainingError: another run holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise TrainingError(
            f"another training writes into {folder} and has {lock.lock_file} locked. Stop it or wait for its end, or "
            "choose another OUTPUT_DIR"
        ) from error
    try:
        yield
    finally:
        lock.release()


def last_weights(folder: Path) -> Path:
    """The weights in a run's folder that the file last_checkpoint names; without this file, the newest intact ones.

    Raises:
        TrainingError: there are no weights, or last_checkpoint names weights that are damaged or missing.
    """
    pointer = folder / LAST_CHECKPOINT
    if not pointer.is_file():
        return _newest_intact(folder)
    weights = folder / pointer.read_text(encoding="utf-8").strip()
    if not weights.is_file():
        raise TrainingError(
            f"{pointer} names {weights.name}, which is missing. Choose another by MODEL.WEIGHTS"
        )
    number = _NUMBERED.fullmatch(weights.name)
    state = _state_path(folder, int(number.group(1))) if number else None
    if state is not None and state.is_file():  # Detectron2's trainer writes no training state
        _verified_state(weights, state)
    return weights


def _newest_intact(folder: Path) -> Path:
    """The newest weights that match the training state beside them."""
    for iteration in reversed(_iterations(folder)):
        weights, state = _weights_path(folder, iteration), _state_path(folder, iteration)
        if weights.is_file() and state.is_file():
            with suppress(TrainingError):
                _verified_state(weights, state)
                return weights
    raise TrainingError(
        f"no checkpoint in {folder}: {folder / LAST_CHECKPOINT} is missing. Train first, or check OUTPUT_DIR"
    )


def _iterations(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    matches = (_NUMBERED.fullmatch(path.name) for path in folder.iterdir())
    return sorted({int(match.group(1)) for match in matches if match})


def _weights_path(folder: Path, iteration: int) -> Path:
    return folder / f"model_{iteration:07d}.safetensors"


def _state_path(folder: Path, iteration: int) -> Path:
    return folder / f"training_{iteration:07d}.pt"
