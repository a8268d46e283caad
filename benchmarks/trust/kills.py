# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""A process is killed, or finds the disk full, at every file operation of the first and of a later save."""

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


class _Toy(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        nn.init.constant_(self.layer.weight, value)

    def trained_state_dict(self) -> dict[str, Tensor]:
        return dict(self.state_dict())

    def encoder_hashes(self) -> dict[str, str]:
        return {}


def _checkpointer(folder: Path, model: _Toy) -> Checkpointer:
    return Checkpointer(
        folder,
        save_weights=lambda path: weights.save(model, path, metadata={}),
        load_weights=lambda path: weights.load(model, path),
        keep=2,
    )


def _save(folder: Path, iteration: int) -> None:
    _checkpointer(folder, _Toy(float(iteration))).save(iteration, {"iteration": iteration})


def _fault_at(number: int, fault: Callable[[], None]) -> list[int]:
    """From now on the n-th file operation of this process, and every later one, meets the fault."""
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


def _full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def kills() -> Trial:
    """Every operation of a first save, of a second, and of one that prunes; killed, and on a full disk."""
    trial = Trial("kill -9 and full disk at every file operation of a save")
    operations: dict[str, int] = {}
    with timed(trial), tempfile.TemporaryDirectory() as root:
        for earlier in (0, 1, 3):
            for name, fault in (("killed", _kill), ("full", _full)):
                for number in range(1, 200):
                    folder = Path(root, f"{earlier}_{name}_{number}")
                    for iteration in range(1, earlier + 1):
                        _save(folder, iteration)
                    if not _child(folder, earlier + 1, number, fault):
                        break
                    trial.tried += 1
                    operations[f"after {earlier} saves"] = number
                    _check(trial, folder, earlier, f"after {earlier} saves, {name} at operation {number}")
    trial.figures = {f"operations {name}": str(count) for name, count in operations.items()}
    return trial


def _child(folder: Path, iteration: int, number: int, fault: Callable[[], None]) -> bool:
    """Whether a save met the fault, in a process of its own."""
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
    model = _Toy(-1.0)
    made = _checkpointer(folder, model)
    try:
        state = made.load_newest()
        reached = 0 if state is None else int(state["iteration"])
        if reached not in (earlier, earlier + 1):
            trial.findings.append(f"{what}: goes on from {reached}")
        if reached and float(model.layer.weight[0, 0]) != reached:
            trial.findings.append(f"{what}: weights of another iteration")
        made.save(reached + 1, {"iteration": reached + 1})
    except CMPFError as error:
        trial.findings.append(f"{what}: cannot go on: {error}")
