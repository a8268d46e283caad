# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Signals, batches that fail, and evaluations in the middle of a training."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from cmpf.engine.evaluations import BestMetric, flatten_results, plain_results
from cmpf.engine.failures import IssueCounter, failure, gather_image_names
from cmpf.engine.interrupts import SIGNALS, Interrupted, StopRequest


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_a_request_and_tells_what_happens(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.signal_name == number.name
    assert f"{number.name}: saving and stopping" in capfd.readouterr().err


def test_the_second_ctrl_c_is_not_held_back() -> None:
    with StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_earlier_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopRequest():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_inside_at_once_a_signal_interrupts() -> None:
    reached = []
    with StopRequest() as stop:
        with pytest.raises(Interrupted), stop.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
        reached.append(stop.requested)
        with pytest.raises(Interrupted), stop.at_once():  # a request made before counts too
            reached.append("not reached")
    assert reached == [True]


def test_after_a_request_a_dying_loader_worker_raises_nothing() -> None:
    def worker_died(number: int, frame: object) -> None:
        raise RuntimeError("DataLoader worker is killed by signal: Terminated")

    before = signal.signal(signal.SIGCHLD, worker_died)
    try:
        with StopRequest():
            os.kill(os.getpid(), signal.SIGTERM)
            subprocess.run(["true"], check=True)
        assert signal.getsignal(signal.SIGCHLD) is worker_died
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_another_thread_than_the_main_one_installs_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    inside = []

    def run() -> None:
        with StopRequest():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert inside == [before]


IMAGES = [{"file_name": "a.jpg", "image_id": 4}, {"image_id": 7}, {}]


def test_a_failure_is_written_down_with_names_and_ids(tmp_path: Path) -> None:
    failure("loss = nan", iteration=12, images=IMAGES, folder=tmp_path, weights=tmp_path / "a")
    assert json.loads((tmp_path / "failed_batch.json").read_text()) == {
        "iteration": 12,
        "issue": "loss = nan",
        "images": IMAGES,
    }


def test_the_error_names_images_files_and_the_way_on(tmp_path: Path) -> None:
    weights = tmp_path / "model_0000012.safetensors"
    message = str(failure("loss = nan", iteration=12, images=IMAGES, folder=tmp_path, weights=weights))
    assert message.startswith(f"loss = nan. Images of the batch (also in {tmp_path / 'failed_batch.json'}): ")
    assert "a.jpg, 7, (no name)" in message
    assert f"Checkpoint: {weights}." in message
    assert message.endswith("--resume goes on with the next batch")


def test_a_batch_of_an_unknown_kind_is_called_unnamed(tmp_path: Path) -> None:
    assert "failed_batch.json): unnamed. " in str(
        failure("x", iteration=1, images=[], folder=tmp_path, weights=tmp_path)
    )


def test_only_what_names_an_image_is_collected() -> None:
    batch = [{**IMAGES[0], "height": 3}, {**IMAGES[1], "image": None}, {"image": None}]
    assert gather_image_names(batch) == IMAGES


def test_only_issues_in_a_row_count(caplog: pytest.LogCaptureFixture) -> None:
    counter = IssueCounter(allowed=3)
    with caplog.at_level(logging.WARNING):
        answers = [
            counter.add(issue, iteration=i, images=IMAGES)
            for i, issue in enumerate(("a", "b", "", "c", "d", "e"))
        ]
    assert answers == [False, False, False, False, False, True]
    assert "iteration 4: d; step skipped (2 of 3 in a row). Images: a.jpg, 7, (no name)" in caplog.text
    assert len(caplog.records) == 5


METRICS = {"a_val/sem_seg/mIoU": 20.0, "a_val/panoptic/PQ": 10.0, "b_val/panoptic/PQ": 90.0}


def test_results_become_flat_without_those_of_single_classes() -> None:
    results = {"a_val": {"panoptic": {"PQ": 1.0, "PQ-red circle": 2.0}, "segm": {"AP": 3.0}}}
    assert flatten_results(results) == {"a_val/panoptic/PQ": 1.0, "a_val/segm/AP": 3.0}


def test_plain_results_are_python_floats() -> None:
    plain = plain_results({"a": {"t": {"m": np.float64(1.5)}}})
    assert plain == {"a": {"t": {"m": 1.5}}}
    assert type(plain["a"]["t"]["m"]) is float


@pytest.mark.parametrize(
    ("name", "value"),
    [("PQ", 10.0), ("panoptic/PQ", 10.0), ("b_val/panoptic/PQ", 90.0), ("mIoU", 20.0)],
)
def test_a_metric_is_found_by_any_end_of_its_name_in_the_first_dataset(name: str, value: float) -> None:
    best = BestMetric(name)
    assert best.update(5, METRICS)
    assert (best.value, best.iteration) == (value, 5)


def test_only_a_larger_value_is_better() -> None:
    best = BestMetric("PQ")
    values = [10.0, 10.0, 9.0, math.nan, 11.0]
    assert [best.update(i, {"a/t/PQ": v}) for i, v in enumerate(values)] == [True, False, False, False, True]
    assert (best.value, best.iteration) == (11.0, 4)


def test_a_lacking_metric_is_a_warning_that_lists_what_there_is(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert not BestMetric("Q").update(1, METRICS)  # PQ ends with Q, but is another metric
        assert not BestMetric("PQ").update(1, {})
        assert not BestMetric("Q").update(1, {f"a_val/t/{name}": 0.0 for name in "abcdefg"})
    assert "no metric 'Q', but sem_seg/mIoU, panoptic/PQ. Set TEST.BEST_METRIC" in caplog.text
    assert "t/e and 2 more" in caplog.text
    assert "none at all" in caplog.text


def test_the_best_so_far_survives_saving() -> None:
    best, again = BestMetric("PQ"), BestMetric("PQ")
    best.update(3, METRICS)
    again.load_state_dict(json.loads(json.dumps(best.state_dict())))
    assert not again.update(4, METRICS)
    assert (again.value, again.iteration) == (10.0, 3)
