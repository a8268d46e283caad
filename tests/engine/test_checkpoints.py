# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cmpf.engine.checkpoints import Checkpointer, last_weights, training_lock
from cmpf.errors import TrainingError


class Weights:
    """A model of one text."""

    def __init__(self, value: str = "") -> None:
        self.value = value

    def save(self, path: Path) -> None:
        path.write_text(self.value)

    def load(self, path: Path) -> None:
        self.value = path.read_text()


def checkpointer(folder: Path, weights: Weights, keep: int = 3) -> Checkpointer:
    return Checkpointer(folder, save_weights=weights.save, load_weights=weights.load, keep=keep)


def saved(folder: Path, *iterations: int, keep: int = 3) -> Checkpointer:
    weights = Weights()
    made = checkpointer(folder, weights, keep)
    for iteration in iterations:
        weights.value = f"weights {iteration}"
        made.save(iteration, {"iteration": iteration, "tensor": torch.full((3,), float(iteration))})
    return made


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    saved(tmp_path / "new", 1, 2)
    weights = Weights()
    state = checkpointer(tmp_path / "new", weights).load_newest()
    assert state is not None
    assert state["iteration"] == 2
    assert state["tensor"].tolist() == [2.0, 2.0, 2.0]
    assert weights.value == "weights 2"
    assert (tmp_path / "new" / "last_checkpoint").read_text() == "model_0000002.safetensors"


def test_an_empty_or_absent_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert checkpointer(tmp_path, Weights()).load_newest() is None
    assert checkpointer(tmp_path / "absent", Weights()).load_newest() is None


def test_only_the_last_ones_are_kept(tmp_path: Path) -> None:
    made = saved(tmp_path, 5, 10, 15, keep=2)
    assert made.iterations() == [10, 15]
    assert len(list(tmp_path.glob("*.pt"))) == len(list(tmp_path.glob("*.safetensors"))) == 2


def test_named_weights_are_never_pruned(tmp_path: Path) -> None:
    made = saved(tmp_path, 1, keep=1)
    best = made.save_named("best")
    saved(tmp_path, 2, keep=1)
    assert best.read_text() == "weights 1"
    assert made.iterations() == [2]


@pytest.mark.parametrize(
    ("name", "length", "message"),
    [
        ("training_0000002.pt", 50, "training_0000002.pt is truncated or damaged"),
        ("training_0000002.pt", 0, "training_0000002.pt is truncated or damaged"),
        ("model_0000002.safetensors", 3, "model_0000002.safetensors is truncated, damaged or of another run"),
        ("training_0000002.pt", None, "training_0000002.pt is missing"),
        ("model_0000002.safetensors", None, "model_0000002.safetensors is missing"),
    ],
)
def test_a_newest_checkpoint_that_is_not_whole_is_passed_over_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, length: int | None, message: str
) -> None:
    saved(tmp_path, 1, 2)
    path = tmp_path / name
    if length is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:length])
    weights = Weights()
    made = checkpointer(tmp_path, weights)
    with caplog.at_level(logging.WARNING):
        state = made.load_newest()
    assert state is not None
    assert (state["iteration"], weights.value) == (1, "weights 1")
    assert message in caplog.text
    made.save(1, state)  # the broken one above is gone after the next save
    assert made.iterations() == [1]


def test_a_state_that_would_run_code_is_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tmp_path, 1, 2)
    torch.save({"weights_sha256": Weights()}, tmp_path / "training_0000002.pt")
    with caplog.at_level(logging.WARNING):
        state = checkpointer(tmp_path, Weights()).load_newest()
    assert state is not None
    assert state["iteration"] == 1
    assert "training_0000002.pt is truncated or damaged (UnpicklingError)" in caplog.text


def test_no_whole_checkpoint_at_all_is_an_error_that_names_each(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    for path in tmp_path.glob("*.pt"):
        path.write_bytes(b"")
    with pytest.raises(
        TrainingError, match=r"no checkpoint in .* is whole.*training_0000002.*training_0000001"
    ):
        checkpointer(tmp_path, Weights()).load_newest()


def test_checkpoints_of_detectron2s_loop_are_neither_resumed_nor_mixed_with(tmp_path: Path) -> None:
    made = checkpointer(tmp_path, Weights())
    (tmp_path / "last_checkpoint").write_text("model_0000099.pth")
    for begin in (made.load_newest, made.check_unused):
        with pytest.raises(
            TrainingError, match=r"Detectron2's loop \(model_0000099\.pth\).*--engine detectron2 --res"
        ):
            begin()
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000099.pth"


def test_at_least_one_checkpoint_must_be_kept(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="at least 1 checkpoint must be kept, got 0"):
        checkpointer(tmp_path, Weights(), keep=0)


# Each child saves iteration 2 and is killed in the middle of one of the three files.
KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from cmpf.engine import checkpoints
from cmpf.common.files import replacing

def die_halfway(path, content):
    Path(path).write_bytes(content[: len(content) // 2])
    os.kill(os.getpid(), signal.SIGKILL)

def run(folder, stage):
    text = "weights 1"
    def save_weights(path):
        with replacing(path) as temporary:
            if stage == "weights" and text == "weights 2":
                die_halfway(temporary, text.encode())
            temporary.write_text(text)
    made = checkpoints.Checkpointer(folder, save_weights=save_weights, load_weights=print, keep=3)
    made.save(1, {"iteration": 1})
    text = "weights 2"
    if stage == "state":
        checkpoints.torch.save = lambda state, path: die_halfway(path, b"x" * 100)
    if stage == "last_checkpoint":
        checkpoints.write_text = lambda path, text: os.kill(os.getpid(), signal.SIGKILL)
    made.save(2, {"iteration": 2})

for stage in ("weights", "state", "last_checkpoint"):
    child = os.fork()
    if child == 0:
        run(Path(sys.argv[2]) / stage, stage)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, stage
"""


def test_a_process_killed_in_the_middle_of_saving_leaves_a_usable_checkpoint(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", KILLED, str(root), str(tmp_path)], check=True, timeout=120)
    for stage, expected in (("weights", 1), ("state", 1), ("last_checkpoint", 2)):
        folder, weights = tmp_path / stage, Weights()
        made = checkpointer(folder, weights)
        state = made.load_newest()
        assert state is not None
        assert (state["iteration"], weights.value) == (expected, f"weights {expected}"), stage
        made.save(3, state)
        assert not list(folder.glob(".tmp*")), stage


def test_the_last_weights_are_found(tmp_path: Path) -> None:
    made = saved(tmp_path, 1, 2)
    assert last_weights(tmp_path) == made.weights_path(2)


def test_a_folder_without_the_last_weights_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no checkpoint in .*last_checkpoint is missing"):
        last_weights(tmp_path)
    saved(tmp_path, 1).weights_path(1).unlink()
    with pytest.raises(TrainingError, match=r"names model_0000001\.safetensors, which is missing"):
        last_weights(tmp_path)


def test_without_the_pointer_the_newest_whole_weights_are_found(tmp_path: Path) -> None:
    made = saved(tmp_path, 1, 2)
    (tmp_path / "last_checkpoint").unlink()
    assert last_weights(tmp_path) == made.weights_path(2)
    made.state_path(2).unlink()
    assert last_weights(tmp_path) == made.weights_path(1)


def test_the_last_weights_are_those_that_their_state_names(tmp_path: Path) -> None:
    made = saved(tmp_path, 1)
    made.weights_path(1).write_text("other weights")
    with pytest.raises(
        TrainingError, match=r"model_0000001\.safetensors is truncated, damaged or of another run"
    ):
        last_weights(tmp_path)


# What can go wrong while files are written: each operation of a save in its turn ends the process, or fails as on a
# full disk.


class Operations:
    """Calls of the operating system that change files, counted; the chosen one raises."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, fail_at: int, error: BaseException) -> None:
        self.count = 0
        self._fail_at, self._error = fail_at, error
        for owner, name in (
            (os, "replace"),
            (os, "fsync"),
            (os, "unlink"),
            (Path, "replace"),
            (Path, "unlink"),
            (Path, "write_text"),
            (torch, "save"),
        ):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count >= self._fail_at:  # a dead process does nothing afterwards either
                raise self._error
            return call(*arguments, **options)

        return counted


class Dead(BaseException):
    """In place of kill -9."""


@pytest.mark.parametrize(
    "error", [Dead(), OSError(errno.ENOSPC, "No space left on device")], ids=["kill", "full"]
)
@pytest.mark.parametrize("earlier", [[], [1], [1, 2, 3]])
def test_whatever_operation_of_a_save_is_the_last_training_can_go_on(
    tmp_path: Path, error: BaseException, earlier: list[int]
) -> None:
    ends: list[int] = []
    for operation in range(1, 60):
        folder = tmp_path / str(operation)
        saved(folder, *earlier)
        new = max(earlier, default=0) + 1
        with pytest.MonkeyPatch.context() as patch:
            operations = Operations(patch, fail_at=operation, error=error)
            try:
                saved(folder, new)
            except (Dead, TrainingError, OSError):
                assert operations.count >= operation
        if operations.count < operation:
            break  # the save had no further operation
        weights = Weights()
        made = checkpointer(folder, weights)
        state = made.load_newest()  # raised for ever after a first save that had written weights only
        reached = 0 if state is None else state["iteration"]
        ends.append(reached)
        assert reached in (new, max(earlier, default=0))
        assert weights.value == (f"weights {reached}" if reached else "")
        made.check_unused() if reached == 0 else None
        made.save(reached + 1, {"iteration": reached + 1})
        assert last_weights(folder) == made.weights_path(reached + 1)
        assert not list(folder.glob(".tmp*"))
    assert len(ends) >= 8
    assert ends == sorted(ends)
    assert set(ends) == {new, max(earlier, default=0)}


def test_a_first_save_that_did_not_end_is_moved_aside_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = saved(tmp_path, 5)
    made.state_path(5).unlink()
    (tmp_path / "last_checkpoint").unlink()
    with caplog.at_level(logging.WARNING):
        assert made.load_newest() is None
    assert "the first save in" in caplog.text
    assert (tmp_path / "unfinished_model_0000005.safetensors").read_text() == "weights 5"
    made.check_unused()


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match=r"training_0000001\.pt cannot be written .*make room .*--resume"):
        saved(tmp_path, 1)


def test_a_folder_that_cannot_be_made_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        TrainingError, match=r"model_0000001\.safetensors cannot be written .*Not a directory"
    ):
        saved(tmp_path / "file" / "run", 1)


# One training a folder.


def test_a_second_training_in_the_same_folder_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from cmpf.engine.checkpoints import training_lock\n"
        "with training_lock(pathlib.Path(sys.argv[1])):\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "locked\n"
    message = f"another training writes into {tmp_path} .*another OUTPUT_DIR"
    with pytest.raises(TrainingError, match=message), training_lock(tmp_path):
        pass
    first.kill()  # the lock goes with its process
    first.wait()
    with training_lock(tmp_path):
        pass
