# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cmpf.engine.logs import logging_to
from cmpf.engine.records import Record
from cmpf.engine.writers import (
    LogLines,
    MetricsFile,
    ProgressBar,
    TensorBoardWriter,
    build_writers,
    curves,
    format_record,
)

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
