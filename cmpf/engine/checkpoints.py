# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints of a training run: pairs of trained weights (safetensors) and training state (torch.save).

Each file is replaced atomically, weights first; the state holds the weights' SHA-256, so a pair is whole or
is recognized as broken, whatever moment the process was killed in.
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
DETECTRON2_ENDING = ".pth"  # of the checkpoints of Detectron2's loop, whose last_checkpoint has the same form
UNFINISHED = "unfinished_"  # how the name of weights begins whose training state was never written
LOCK = "training.lock"
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
        Raises:
            TrainingError: the disk is full, or the folder cannot be written to; earlier checkpoints stay.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_unfinished()
        weights = self.weights_path(iteration)
        with _written(weights):
            self._save_weights(weights)
        with _written(self.state_path(iteration)), replacing(self.state_path(iteration)) as temporary:
            torch.save({**state, "weights_sha256": file_sha256(weights)}, temporary)
        with _written(self.folder / LAST_CHECKPOINT):
            write_text(self.folder / LAST_CHECKPOINT, weights.name)
        self._prune(iteration)
        return weights

    def save_named(self, name: str) -> Path:
        """Writes the weights alone, as model_NAME.safetensors; such files are never pruned."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"model_{name}.safetensors"
        with _written(path):
            self._save_weights(path)
        return path

    def load_newest(self) -> dict[str, Any] | None:
        """Loads the weights of the newest whole checkpoint, and logs which newer ones were not whole.

        Returns:
            Its training state; None where the folder has no checkpoint at all, or only what a first save that was
            killed has left: then this is moved aside, and training starts at 0.
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
        if self._moved_aside(iterations):
            return None
        if issues:
            raise TrainingError(
                f"no checkpoint in {self.folder} is whole: {'; '.join(issues)}. Remove them to start anew, "
                "or copy a whole one there"
            )
        return None

    def _moved_aside(self, iterations: list[int]) -> bool:
        """Moves weights without a state away where the first save of all did not end; True if it was so.

        A save writes weights, state and last_checkpoint, and a later one removes nothing before it is whole.
        """
        if len(iterations) != 1 or (self.folder / LAST_CHECKPOINT).exists():
            return False
        weights, state = self.weights_path(iterations[0]), self.state_path(iterations[0])
        if state.exists() or not weights.exists():
            return False
        target = weights.with_name(f"{UNFINISHED}{weights.name}")
        weights.replace(target)
        logger.warning(
            "the first save in %s did not end (killed, or the disk was full): its weights are now %s, and training "
            "starts at the beginning",
            self.folder,
            target.name,
        )
        return True

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
        return _iterations(self.folder)

    def weights_path(self, iteration: int) -> Path:
        """Where the trained weights after so many iterations lie."""
        return _weights_path(self.folder, iteration)

    def state_path(self, iteration: int) -> Path:
        """Where the training state after so many iterations lies."""
        return _state_path(self.folder, iteration)

    def _read(self, iteration: int) -> dict[str, Any]:
        """The state of a checkpoint; TrainingError says what is wrong with the pair."""
        weights, path = self.weights_path(iteration), self.state_path(iteration)
        for file in (weights, path):
            if not file.exists():
                raise TrainingError(f"{file} is missing")
        return _checked_state(weights, path)

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


def _checked_state(weights: Path, path: Path) -> dict[str, Any]:
    """The training state of a pair; TrainingError if it cannot be read, or the weights are not those that it names."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        expected = state.pop("weights_sha256")
    except _UNREADABLE as issue:
        raise TrainingError(f"{path} is truncated or damaged ({type(issue).__name__})") from issue
    if file_sha256(weights) != expected:
        raise TrainingError(f"{weights} is truncated, damaged or of another run than {path.name}")
    return state


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """What libraries raise for a full disk as one line that names the file."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise TrainingError(
            f"{path} cannot be written ({summary(error)}). Earlier checkpoints are whole: make room or get the right "
            "to write there, and go on with --resume"
        ) from error


@contextmanager
def training_lock(folder: Path) -> Iterator[None]:
    """Holds OUTPUT_DIR for one training, as long as its process lives.

    Raises:
        TrainingError: another one holds it.
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
    """The newest weights of a run's folder, whole as their training state says: those that the file last_checkpoint
    names, else the newest that are whole.

    Raises:
        TrainingError: there are none, or last_checkpoint names some that are damaged or not there.
    """
    pointer = folder / LAST_CHECKPOINT
    if not pointer.is_file():
        return _newest_whole(folder)
    weights = folder / pointer.read_text(encoding="utf-8").strip()
    if not weights.is_file():
        raise TrainingError(
            f"{pointer} names {weights.name}, which is missing. Choose another by MODEL.WEIGHTS"
        )
    number = _NUMBERED.fullmatch(weights.name)
    state = _state_path(folder, int(number.group(1))) if number else None
    if state is not None and state.is_file():  # Detectron2's trainer writes none
        _checked_state(weights, state)
    return weights


def _newest_whole(folder: Path) -> Path:
    """The newest weights that have their training state beside them."""
    for iteration in reversed(_iterations(folder)):
        weights, state = _weights_path(folder, iteration), _state_path(folder, iteration)
        if weights.is_file() and state.is_file():
            with suppress(TrainingError):
                _checked_state(weights, state)
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
