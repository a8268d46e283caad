# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What a training tells: log, curves, images, records."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cmpf.engine.logs import FILE_ONLY, LOG_FILE, environment_report, git_commit, logging_to
from cmpf.engine.step import Record, Window, max_memory
from cmpf.engine.wandb_writer import WandbWriter
from cmpf.engine.writers import (
    LogLines,
    MetricsFile,
    ProgressBar,
    TensorBoardWriter,
    build_writers,
    curves,
    format_record,
)
from cmpf.errors import ConfigError

RECORD = Record(
    iteration=40,
    max_iter=1000,
    total_loss=12.3456,
    losses={"loss_ce": 3.1, "loss_mask": 1.25, "loss_ce_0": 9.0},
    lr=1e-4,
    grad_norm=2.5,
    data_time=0.003,
    step_time=0.33,
    max_memory=512.4,
)


def test_a_line_tells_the_main_things() -> None:
    # 960 iterations * 0.333 s = 319.68 s = 5 min 20 s
    assert format_record(RECORD) == (
        "iter 40/1000  eta 0:05:20  loss 12.346  ce 3.100  mask 1.250  lr 1.00e-04  data 0.003s  "
        "step 0.330s  mem 512 MB"
    )
    assert "mem" not in format_record(replace(RECORD, max_memory=None))


def test_lines_can_be_kept_off_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(tmp_path) as logger:
        LogLines(logger, file_only=True).summary(RECORD)
        assert capsys.readouterr().out == ""
        LogLines(logger, file_only=False).summary(RECORD)
    assert "iter 40/1000" in capsys.readouterr().out
    assert (tmp_path / "log.txt").read_text().count("iter 40/1000") == 2


def test_metrics_are_one_json_object_a_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    writer = MetricsFile(path)
    writer.start(0, 1000)
    writer.summary(RECORD)
    writer.results(40, {"a_val/panoptic/PQ": 12.5, "a_val/segm/AP": math.nan})
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert first["iteration"] == 40
    assert first["total_loss"] == 12.3456
    assert first["loss_ce_0"] == 9.0
    assert first["max_mem_mb"] == 512.4
    assert second == {"iteration": 40, "a_val/panoptic/PQ": 12.5, "a_val/segm/AP": None}


def test_resuming_drops_lines_of_iterations_that_will_come_again_and_torn_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 20}\n{"iteration": 40}\n{"iteration": 60}\n{"iterat')
    MetricsFile(path).start(40, 1000)
    assert path.read_text() == '{"iteration": 20}\n{"iteration": 40}\n'
    MetricsFile(path).start(0, 1000)
    assert path.read_text() == ""


def test_the_bar_shows_loss_rate_and_where_a_resumed_run_is(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar()
    bar.start(39, 1000)
    bar.iteration(RECORD)
    bar.close()
    shown = capsys.readouterr().err
    assert "40/1000" in shown
    assert "loss=12.346" in shown
    assert "lr=1.00e-04" in shown


def test_a_bar_that_never_started_closes(capsys: pytest.CaptureFixture[str]) -> None:
    ProgressBar().close()
    assert capsys.readouterr().err == ""


def test_tensorboard_files_hold_the_curves(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = TensorBoardWriter(tmp_path)
    writer.start(0, 1000)
    writer.summary(RECORD)
    writer.results(40, {"a_val/panoptic/PQ": 12.5})
    writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss/ce")] == [(40, pytest.approx(3.1))]
    assert [e.value for e in events.Scalars("a_val/panoptic/PQ")] == [12.5]


@pytest.mark.parametrize(("terminal", "tensorboard", "count"), [(False, False, 2), (True, True, 4)])
def test_the_usual_set_of_writers(tmp_path: Path, terminal: bool, tensorboard: bool, count: int) -> None:
    logger = logging.getLogger("cmpf")
    writers = build_writers(tmp_path, logger=logger, terminal=terminal, tensorboard=tensorboard)
    assert len(writers) == count
    for writer in writers:
        writer.close()


def test_images_and_memory_reach_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = TensorBoardWriter(tmp_path)
    writer.start(0, 1000)
    writer.summary(RECORD)
    writer.images(40, {"training/image_0": np.full((4, 6, 3), 200, np.uint8)})
    writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    image = events.Images("training/image_0")[0]
    assert (image.step, image.width, image.height) == (40, 6, 4)
    assert events.Scalars("memory/max_mb")[0].value == pytest.approx(512.4)


def test_memory_that_is_not_known_has_no_curve() -> None:
    assert "memory/max_mb" not in curves(replace(RECORD, max_memory=None))


SHORT_RECORD = Record(
    iteration=1,
    max_iter=10,
    total_loss=6.0,
    losses={"loss_ce": 4.0, "loss_ce_0": 2.0},
    lr=0.1,
    grad_norm=1.0,
    data_time=0.5,
    step_time=1.5,
    max_memory=100.0,
)


def test_time_left_is_the_pace_times_what_is_left() -> None:
    assert replace(SHORT_RECORD, iteration=4).eta_seconds == 12.0  # 6 iterations * (0.5 + 1.5) s


def test_main_losses_are_those_of_the_last_head() -> None:
    losses = {"loss_ce": 1.0, "loss_mask": 2.0, "loss_ce_0": 3.0, "loss_mask_8": 4.0}
    assert replace(SHORT_RECORD, losses=losses).main_losses == {"loss_ce": 1.0, "loss_mask": 2.0}


def test_a_window_gives_means_and_starts_anew() -> None:
    window = Window()
    second = replace(
        SHORT_RECORD,
        iteration=2,
        total_loss=2.0,
        losses={"loss_ce": 2.0, "loss_ce_0": 0.0},
        lr=0.2,
        step_time=0.5,
    )
    window.add(SHORT_RECORD)
    window.add(second)
    # (6 + 2) / 2, (4 + 2) / 2, (2 + 0) / 2, (1.5 + 0.5) / 2; rate and iteration are the latest
    assert window.summary(second) == replace(
        second, total_loss=4.0, losses={"loss_ce": 3.0, "loss_ce_0": 1.0}, step_time=1.0
    )
    window.add(second)
    assert window.summary(second) == second


def test_a_saved_window_goes_on() -> None:
    window, again = Window(), Window()
    window.add(SHORT_RECORD)
    again.load_state_dict(json.loads(json.dumps(window.state_dict())))
    again.add(replace(SHORT_RECORD, total_loss=2.0))
    assert again.summary(SHORT_RECORD).total_loss == 4.0


def test_memory_on_the_cpu_is_that_of_the_process() -> None:
    memory = max_memory(torch.device("cpu"))
    assert memory == pytest.approx(memory, abs=0)
    assert memory is not None
    assert 50 < memory < 100_000  # MiB: Python with torch takes at least a hundred


LOGGED = Record(
    iteration=20,
    max_iter=40,
    total_loss=3.0,
    losses={"loss_ce": 3.0},
    lr=0.1,
    grad_norm=1.0,
    data_time=0.5,
    step_time=1.5,
    max_memory=7.0,
)


class FakeWandb:
    """The part of wandb that is used."""

    def __init__(self) -> None:
        self.opened: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0

    def init(self, **arguments: Any) -> Any:
        self.opened.append(arguments)
        return SimpleNamespace(id=arguments["id"] or "run7", log=self._log, finish=self._finish)

    def Image(self, image: Any) -> Any:
        return ("image", image.shape)

    def _log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((step, values))

    def _finish(self) -> None:
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_curves_results_and_images_reach_the_run(wandb: FakeWandb, tmp_path: Path) -> None:
    folder = tmp_path / "first try"
    folder.mkdir()
    writer = WandbWriter(folder, project="masks", config={"SEED": 1})
    assert wandb.opened == []  # nothing is opened before the training begins
    writer.start(0, 40)
    writer.summary(LOGGED)
    writer.results(20, {"val/panoptic/PQ": 50.0})
    writer.images(20, {"training/image_0": np.zeros((2, 4, 3), np.uint8)})
    writer.close()
    opened = wandb.opened[0]
    assert (opened["project"], opened["name"], opened["config"]) == ("masks", "first try", {"SEED": 1})
    assert wandb.logged == [
        (
            20,
            {
                "loss/total": 3.0,
                "loss/ce": 3.0,
                "lr": 0.1,
                "grad_norm": 1.0,
                "time/data": 0.5,
                "time/step": 1.5,
                "memory/max_mb": 7.0,
            },
        ),
        (20, {"val/panoptic/PQ": 50.0}),
        (20, {"training/image_0": ("image", (2, 4, 3))}),
    ]
    assert wandb.finished == 1


def test_a_resumed_training_goes_on_with_its_run_and_a_new_one_begins_another(
    wandb: FakeWandb, tmp_path: Path
) -> None:
    for iteration in (0, 20, 0):
        WandbWriter(tmp_path, project="masks", config={}).start(iteration, 40)
    assert [opened["id"] for opened in wandb.opened] == [None, "run7", None]


def test_without_the_package_the_fix_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        ConfigError, match="WANDB_PROJECT is 'masks', but wandb is not installed: pip install"
    ):
        WandbWriter(tmp_path, project="masks", config={})


def test_closing_before_the_start_is_harmless(wandb: FakeWandb, tmp_path: Path) -> None:
    WandbWriter(tmp_path, project="masks", config={}).close()
    assert wandb.finished == 0


def test_an_evaluation_that_is_made_again_stands_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(
        '{"iteration": 4, "total_loss": 1.0}\n{"iteration": 2, "d/t/PQ": 5.0}\n', encoding="utf-8"
    )
    writer = MetricsFile(path)
    writer.results(4, {"d/t/PQ": 7.0})
    writer.results(4, {"d/t/PQ": 7.5})  # after a kill between evaluation and checkpoint
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines == [
        {"iteration": 4, "total_loss": 1.0},
        {"iteration": 2, "d/t/PQ": 5.0},
        {"iteration": 4, "d/t/PQ": 7.5},
    ]


def test_messages_go_to_terminal_and_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(tmp_path / "new" / "folder") as logger:
        logger.info("hello")
        logging.getLogger("cmpf.engine.trainer").warning("from below")
    output = capsys.readouterr().out
    written = (tmp_path / "new" / "folder" / LOG_FILE).read_text()
    for message in ("hello", "from below"):
        assert output.count(message) == written.count(message) == 1
    assert "WARNING from below" in written


def test_a_folder_that_cannot_be_made_is_named_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = rf"OUTPUT_DIR {tmp_path}/file/run: .*Not a directory.*choose another OUTPUT_DIR"
    with pytest.raises(ConfigError, match=message), logging_to(tmp_path / "file" / "run"):
        pass


def test_file_only_messages_stay_off_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(tmp_path) as logger:
        logger.info("quiet", extra=FILE_ONLY)
    assert "quiet" not in capsys.readouterr().out
    assert "quiet" in (tmp_path / LOG_FILE).read_text()


def test_warnings_of_dependencies_go_to_the_file_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with logging_to(tmp_path):
            warnings.warn("old function", FutureWarning, stacklevel=1)
    captured = capsys.readouterr()
    assert "old function" not in captured.out + captured.err
    assert "old function" in (tmp_path / LOG_FILE).read_text()


def test_a_second_run_appends_and_nothing_stays_installed(tmp_path: Path) -> None:
    logger = logging.getLogger("cmpf")
    before = list(logger.handlers), logger.level, logger.propagate
    for message in ("one", "two"):
        with logging_to(tmp_path):
            logger.info(message)
    assert (list(logger.handlers), logger.level, logger.propagate) == before
    lines = (tmp_path / LOG_FILE).read_text().splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["one", "two"]


def test_other_processes_than_the_first_write_a_file_of_their_own_and_are_silent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmpf.common.distributed.rank", lambda: 2)
    with logging_to(tmp_path) as logger:
        logger.warning("hello")
    assert capsys.readouterr().out == ""
    assert "hello" in (tmp_path / "log_rank2.txt").read_text()
    assert not (tmp_path / LOG_FILE).exists()


def test_the_report_names_versions_processor_gpus_and_commit() -> None:
    rows = dict(line.split(maxsplit=1) for line in environment_report().splitlines())
    assert rows["torch"] == torch.__version__
    assert {"python", "system", "processor", "gpus", "numpy", "open_clip_torch", "git"} <= set(rows)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_the_commit_of_a_checkout_is_told_with_its_changes(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-m", "a")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert git_commit(tmp_path) == head
    (tmp_path / "a").write_text("2")
    assert git_commit(tmp_path) == f"{head} + changes"


def test_a_folder_inside_somebody_elses_checkout_has_no_commit(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / "site-packages").mkdir()
    assert git_commit(tmp_path / "site-packages") is None


def test_a_checkout_without_commits_and_no_checkout_have_none(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None
    git(tmp_path, "init")
    assert git_commit(tmp_path) is None
