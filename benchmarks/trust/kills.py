# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Kills a process, or simulates a full disk, at every file operation of the first and later checkpoint saves."""

from __future__ import annotations

import errno
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.trust.trials import Trial, timed
from cmpf import weights
from cmpf.engine.checkpoints import Checkpointer
from cmpf.errors import CMPFError

OPERATIONS = ("open", "replace", "rename", "fsync", "unlink", "close", "chmod", "mkdir")
SAVES = {
    0: "first save",
    1: "second",
    3: "fourth",
}  # number of earlier saves -> name of the save with the fault


class ToyModel(nn.Module):
    """A small model whose weights all have one value."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        nn.init.constant_(self.layer.weight, value)

    def trained_state_dict(self) -> dict[str, Tensor]:
        return dict(self.state_dict())

    def encoder_hashes(self) -> dict[str, str]:
        return {}


def _checkpointer(folder: Path, model: ToyModel) -> Checkpointer:
    return Checkpointer(
        folder,
        save_weights=lambda path: weights.save(model, path, metadata={}),
        load_weights=lambda path: weights.load(model, path),
        keep=2,
    )


def _save(folder: Path, iteration: int) -> None:
    _checkpointer(folder, ToyModel(float(iteration))).save(iteration, {"iteration": iteration})


def _fault_at(number: int, fault: Callable[[], None]) -> list[int]:
    """Injects a fault into this process's file operations from the n-th one on; returns the counter of operations."""
    count = [0]

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            count[0] += 1
            if count[0] >= number:
                fault()
            return call(*arguments, **options)

        return operation

    for name in OPERATIONS:
        setattr(os, name, counted(getattr(os, name)))
    torch.save = counted(torch.save)
    return count


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _disk_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def kills() -> Trial:
    """Kills or fills the disk at every file operation of a first save, a second one, and one that prunes."""
    trial = Trial("kill -9 and full disk at every file operation of a save")
    operations = dict.fromkeys(SAVES, 0)
    with timed(trial), tempfile.TemporaryDirectory() as root:
        for earlier in SAVES:
            for name, fault in (("killed", _kill), ("full", _disk_full)):
                for number in range(1, 200):
                    folder = Path(root, f"{earlier}_{name}_{number}")
                    for iteration in range(1, earlier + 1):
                        _save(folder, iteration)
                    if not _save_with_fault(folder, earlier + 1, number, fault):
                        break
                    trial.tried += 1
                    operations[earlier] = number
                    _check(trial, folder, earlier, f"after {earlier} saves, {name} at operation {number}")
    counts = [f"of the {SAVES[earlier]} {count}" for earlier, count in operations.items()]
    trial.figures = [f"file operations {', '.join(counts)}"]
    return trial


def _save_with_fault(folder: Path, iteration: int, number: int, fault: Callable[[], None]) -> bool:
    """Saves in a child process with a fault at the n-th file operation; returns whether the save reached it."""
    child = os.fork()
    if child == 0:
        count = [0]
        try:
            count = _fault_at(number, fault)
            _save(folder, iteration)
        except (OSError, CMPFError):
            pass
        finally:
            os._exit(7 if count[0] >= number else 0)
    status = os.waitpid(child, 0)[1]
    return os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 7


def _check(trial: Trial, folder: Path, earlier: int, what: str) -> None:
    model = ToyModel(-1.0)
    checkpointer = _checkpointer(folder, model)
    try:
        state = checkpointer.load_newest()
        reached = 0 if state is None else int(state["iteration"])
        if reached not in (earlier, earlier + 1):
            trial.findings.append(f"{what}: resumes from {reached}")
        if reached and float(model.layer.weight[0, 0]) != reached:
            trial.findings.append(f"{what}: weights of another iteration")
        checkpointer.save(reached + 1, {"iteration": reached + 1})
    except CMPFError as error:
        trial.findings.append(f"{what}: cannot resume: {error}")
