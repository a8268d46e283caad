# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import itertools
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.toy_training import ToyLoader, ToyModel, toy_trainer
from safetensors.torch import load_file

from cmpf.engine.interrupts import StopRequest
from cmpf.engine.step import Record
from cmpf.engine.trainer import Trainer
from cmpf.engine.writers import MetricsFile, Writer
from cmpf.errors import ImageError, TrainingError

ROOT = Path(__file__).resolve().parents[2]


def fingerprint(trainer: Trainer) -> dict[str, Any]:
    """Everything that must be equal, as comparable values."""
    optimizer = trainer.optimizer.state_dict()
    return {
        "iteration": trainer.iteration,
        "weights": {k: v.tolist() for k, v in trainer.model.state_dict().items()},
        "moments": {
            f"{i}.{k}": v.tolist() for i, state in optimizer["state"].items() for k, v in state.items()
        },
        "groups": optimizer["param_groups"],
        "loader": trainer.loader.state_dict(),
        "draws": (torch.rand(3).tolist(), np.random.rand(3).tolist(), [random.random() for _ in range(3)]),
    }


class Stopper(Writer):
    """Sends this process a signal in a chosen iteration."""

    def __init__(self, iteration: int, number: int = signal.SIGTERM) -> None:
        self._iteration, self._number = iteration, number

    def iteration(self, record: Record) -> None:
        if record.iteration == self._iteration:
            os.kill(os.getpid(), self._number)


class Listener(Writer):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.summaries: list[Record] = []
        self.evaluations: list[tuple[int, dict[str, float]]] = []

    def iteration(self, record: Record) -> None:
        self.records.append(record)

    def summary(self, record: Record) -> None:
        self.summaries.append(record)

    def results(self, iteration: int, metrics: Mapping[str, float]) -> None:
        self.evaluations.append((iteration, dict(metrics)))


def results(value: float) -> dict[str, dict[str, dict[str, float]]]:
    return {"toy_val": {"panoptic": {"PQ": value, "PQ-red circle": 1.0}}}


@pytest.mark.parametrize("stop_at", range(1, 6))
def test_a_run_stopped_after_any_iteration_and_resumed_ends_bit_for_bit_like_an_uninterrupted_one(
    tmp_path: Path, stop_at: int
) -> None:
    whole = toy_trainer(tmp_path / "whole", writers=[MetricsFile(tmp_path / "whole.json")])
    assert whole.train().finished
    expected = fingerprint(whole)

    metrics = tmp_path / "parts.json"
    first = toy_trainer(tmp_path / "parts", writers=[MetricsFile(metrics), Stopper(stop_at)])
    outcome = first.train()
    assert (outcome.finished, outcome.iteration, outcome.stopped_by) == (False, stop_at, "SIGTERM")

    second = toy_trainer(tmp_path / "parts", writers=[MetricsFile(metrics)])
    with torch.no_grad():
        second.model.get_parameter("first.weight").zero_()
    assert second.resume()
    assert second.train().finished
    assert fingerprint(second) == expected
    assert losses_in(metrics) == losses_in(tmp_path / "whole.json")


def losses_in(path: Path) -> list[tuple[float, ...]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        tuple(line[key] for key in ("iteration", "total_loss", "loss_ce", "lr", "grad_norm"))
        for line in lines
    ]


def test_frozen_weights_stay_and_trained_ones_move(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    after = trainer.model.state_dict()
    assert torch.equal(before["frozen.weight"], after["frozen.weight"])
    assert not torch.equal(before["first.weight"], after["first.weight"])


def test_resuming_without_any_checkpoint_starts_at_the_beginning(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, max_iter=1)
    assert not trainer.resume()
    assert trainer.train().iteration == 1


def test_resuming_a_finished_run_trains_no_further_and_has_its_results(tmp_path: Path) -> None:
    toy_trainer(tmp_path, max_iter=2, evaluate=lambda: results(50.0)).train()

    def evaluate_again() -> Any:
        raise AssertionError("evaluated twice")

    again = toy_trainer(tmp_path, max_iter=2, evaluate=evaluate_again)
    assert again.resume()
    outcome = again.train()
    assert (outcome.finished, outcome.iteration, outcome.results) == (True, 2, results(50.0))


def test_a_folder_with_another_runs_checkpoints_is_refused(tmp_path: Path) -> None:
    toy_trainer(tmp_path, max_iter=2).train()
    with pytest.raises(
        TrainingError, match=r"holds checkpoints of an earlier run \(up to iteration 2\).*--resume"
    ):
        toy_trainer(tmp_path, max_iter=4).train()


def test_checkpoints_come_at_the_period_and_at_the_end_and_the_last_ones_stay(tmp_path: Path) -> None:
    toy_trainer(tmp_path, max_iter=7, checkpoint_period=2, keep=2).train()
    assert {path.name for path in tmp_path.iterdir()} == {
        "model_0000006.safetensors",
        "training_0000006.pt",
        "model_0000007.safetensors",
        "training_0000007.pt",
        "model_final.safetensors",
        "last_checkpoint",
    }
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000007.safetensors"


def test_a_truncated_newest_checkpoint_is_passed_over_with_a_message_that_names_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    toy_trainer(tmp_path, max_iter=6, checkpoint_period=2).train()
    damaged = tmp_path / "training_0000006.pt"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    trainer = toy_trainer(tmp_path, max_iter=6, checkpoint_period=2)
    with caplog.at_level(logging.WARNING):
        assert trainer.resume()
    assert trainer.iteration == 4
    assert "training_0000006.pt is truncated or damaged" in caplog.text
    assert trainer.train().iteration == 6


def test_evaluation_comes_at_its_period_and_at_the_end(tmp_path: Path) -> None:
    listener = Listener()
    values = iter([10.0, 30.0, 20.0])
    trainer = toy_trainer(
        tmp_path,
        max_iter=5,
        eval_period=2,
        evaluate=lambda: results(next(values)),
        best_metric="panoptic/PQ",
        writers=[listener],
    )
    outcome = trainer.train()
    assert listener.evaluations == [
        (i, {"toy_val/panoptic/PQ": v}) for i, v in ((2, 10.0), (4, 30.0), (5, 20.0))
    ]
    assert outcome.results == results(20.0)
    best = trainer.evaluations.best
    assert best is not None
    assert (best.value, best.iteration) == (30.0, 4)
    kept, fourth = (tmp_path / name for name in ("model_best.safetensors", "model_0000004.safetensors"))
    assert kept.read_bytes() == fourth.read_bytes()


def test_evaluating_changes_no_weight_and_runs_in_evaluation_mode(tmp_path: Path) -> None:
    plain = toy_trainer(tmp_path / "plain")
    plain.train()
    expected = fingerprint(plain)
    modes = []

    def evaluate() -> Any:
        torch.rand(5), np.random.rand(5), random.random()
        modes.append(trainer.model.training)
        return results(1.0)

    trainer = toy_trainer(tmp_path / "evaluated", eval_period=1, evaluate=evaluate)
    trainer.train()
    assert modes == [False] * 6
    assert fingerprint(trainer) == expected


def test_a_part_that_stays_in_evaluation_mode_does_so_after_an_evaluation(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, eval_period=1, evaluate=lambda: results(1.0))
    trainer.model.train()
    frozen, *_ = trainer.model.children()
    frozen.eval()
    trainer.evaluations.run(1, StopRequest())
    assert trainer.model.training
    assert not frozen.training


def test_a_signal_during_evaluation_stops_at_once_and_resuming_evaluates_again(tmp_path: Path) -> None:
    def interrupted() -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
        raise AssertionError("the signal came too late")

    arguments: dict[str, Any] = {"max_iter": 4, "eval_period": 2}
    outcome = toy_trainer(tmp_path, evaluate=interrupted, **arguments).train()
    assert (outcome.finished, outcome.iteration, outcome.stopped_by) == (False, 2, "SIGINT")
    evaluated: list[int] = []

    def evaluate() -> Any:
        evaluated.append(trainer.iteration)
        return results(1.0)

    trainer = toy_trainer(tmp_path, evaluate=evaluate, **arguments)
    assert trainer.resume()
    assert trainer.train().finished
    assert evaluated == [2, 4]


def spoil(*positions: int) -> ToyLoader:
    def change(position: int, batch: list[dict[str, Any]]) -> None:
        if position in positions:
            batch[1]["scale"] = float("nan")

    return ToyLoader(change)


def test_a_step_with_a_loss_that_is_not_finite_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = toy_trainer(tmp_path, max_iter=3, loader=spoil(1))
    with caplog.at_level(logging.WARNING):
        assert trainer.train().finished
    assert (
        "iteration 2: loss_ce = nan; step skipped (1 of 10 in a row). Images: 1_0.jpg, 1_1.jpg" in caplog.text
    )
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())
    steps = [state["step"].item() for state in trainer.optimizer.state_dict()["state"].values()]
    assert set(steps) == {2.0}  # 3 iterations less the one left out


def test_ten_bad_losses_in_a_row_end_the_training_and_leave_a_checkpoint_and_the_images_names(
    tmp_path: Path,
) -> None:
    trainer = toy_trainer(tmp_path, max_iter=30, loader=spoil(1, *range(3, 13)))
    with pytest.raises(TrainingError, match="not finite 10 times in a row") as caught:
        trainer.train()
    # Position 12, the tenth of 3..12, is iteration 13.
    assert "in iteration 13 (loss_ce = nan)" in str(caught.value)
    assert "12_0.jpg, 12_1.jpg" in str(caught.value)
    failed = json.loads((tmp_path / "failed_batch.json").read_text())
    assert failed["images"] == [{"file_name": "12_0.jpg"}, {"file_name": "12_1.jpg"}]
    again = toy_trainer(tmp_path, max_iter=30)
    assert again.resume()
    assert again.iteration == 13
    assert again.train().finished


def test_nine_bad_losses_in_a_row_are_survived(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, max_iter=25, loader=spoil(*range(9), *range(10, 19)))
    assert trainer.train().finished


def test_a_fault_that_the_model_reports_names_iteration_and_images(tmp_path: Path) -> None:
    class Issuey(ToyModel):
        def forward(self, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            if batch[0]["file_name"].startswith("2_"):
                raise TrainingError("matching cost mask is not finite")
            return super().forward(batch)

    trainer = toy_trainer(tmp_path, model=Issuey())
    with pytest.raises(
        TrainingError, match=r"iteration 3: matching cost mask is not finite.*2_0.jpg, 2_1.jpg"
    ):
        trainer.train()
    assert (tmp_path / "failed_batch.json").exists()
    again = toy_trainer(tmp_path, model=Issuey())
    assert again.resume()
    assert again.iteration == 2
    assert again.train().finished  # resuming goes on with the batch after the bad one


def test_summaries_are_means_over_the_log_period(tmp_path: Path) -> None:
    listener = Listener()
    toy_trainer(tmp_path, max_iter=3, writers=[listener]).train()
    first, second, third = listener.records
    assert [summary.iteration for summary in listener.summaries] == [2, 3]
    assert listener.summaries[0].total_loss == pytest.approx((first.total_loss + second.total_loss) / 2)
    assert listener.summaries[1].losses == third.losses
    assert first.total_loss == pytest.approx(first.losses["loss_ce"] + first.losses["loss_ce_0"])
    # Warm-up 0.1 at iteration 0, 0.55 at 1, times half a cosine of 3 iterations: 1, 0.75; base rate 0.01.
    assert [r.lr for r in listener.records[:2]] == pytest.approx([0.001, 0.01 * 0.55 * 0.75])


def test_workers_killed_by_the_same_signal_do_not_spoil_the_stop(tmp_path: Path) -> None:
    def change(position: int, batch: list[dict[str, Any]]) -> None:
        if position == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError("DataLoader worker is killed by signal: Terminated")

    outcome = toy_trainer(tmp_path, loader=ToyLoader(change)).train()
    assert (outcome.iteration, outcome.stopped_by) == (2, "SIGTERM")
    again = toy_trainer(tmp_path)
    assert again.resume()
    again.train()
    whole = toy_trainer(tmp_path / "whole")
    whole.train()
    assert fingerprint(again)["weights"] == fingerprint(whole)["weights"]


def test_a_loaders_own_error_is_not_hidden(tmp_path: Path) -> None:
    def change(position: int, batch: list[dict[str, Any]]) -> None:
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        toy_trainer(tmp_path, loader=ToyLoader(change)).train()


def test_a_run_with_averaged_weights_resumes_bit_for_bit(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"average_decay": 0.5}
    whole = toy_trainer(tmp_path / "whole", **arguments)
    assert whole.train().finished
    expected = fingerprint(whole)
    toy_trainer(tmp_path / "parts", writers=[Stopper(2)], **arguments).train()
    again = toy_trainer(tmp_path / "parts", **arguments)
    assert again.resume()
    assert again.train().finished
    assert fingerprint(again) == expected
    finals = [(tmp_path / name / "model_final.safetensors").read_bytes() for name in ("whole", "parts")]
    assert finals[0] == finals[1]


def test_averaged_weights_are_evaluated_and_saved_as_final_and_best_ones(tmp_path: Path) -> None:
    seen = []

    def evaluate() -> Any:
        seen.append(trainer.model.get_parameter("first.weight").detach().clone())
        return results(1.0)

    trainer = toy_trainer(
        tmp_path, max_iter=3, evaluate=evaluate, best_metric="panoptic/PQ", average_decay=0.9
    )
    trainer.train()
    own = trainer.model.get_parameter("first.weight")
    assert not torch.equal(seen[0], own)
    for name, expected in (("final", seen[0]), ("best", seen[0]), ("0000003", own)):
        assert torch.equal(load_file(tmp_path / f"model_{name}.safetensors")["first.weight"], expected)


def test_averaging_changes_no_weight_of_the_training(tmp_path: Path) -> None:
    plain = toy_trainer(tmp_path / "plain")
    plain.train()
    expected = fingerprint(plain)
    averaged = toy_trainer(tmp_path / "averaged", average_decay=0.9)
    averaged.train()
    assert fingerprint(averaged) == expected


def test_images_are_drawn_in_evaluation_mode_at_each_evaluation_period_and_leave_no_trace(
    tmp_path: Path,
) -> None:
    plain = toy_trainer(tmp_path / "plain", max_iter=5)
    plain.train()
    expected = fingerprint(plain)
    heard = []

    class Eyes(Writer):
        def images(self, iteration: int, images: Any) -> None:
            heard.append((iteration, dict(images)))

    def draw(batch: Any) -> Any:
        torch.rand(3)
        return {batch[0]["file_name"]: trainer.model.training}

    trainer = toy_trainer(tmp_path / "drawn", max_iter=5, eval_period=2, draw=draw, writers=[Eyes()])
    trainer.train()
    # Iteration n has the batch at position n - 1; the last iteration is an occasion too.
    assert heard == [(2, {"1_0.jpg": False}), (4, {"3_0.jpg": False}), (5, {"4_0.jpg": False})]
    assert fingerprint(trainer) == expected


SCRIPT = """
import sys, time
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests"]
from helpers.toy_training import ToyLoader, toy_trainer
from cmpf.engine.writers import Writer

class Slow(Writer):
    def iteration(self, record):
        print(record.iteration, flush=True)
        time.sleep(0.02)

trainer = toy_trainer(Path(sys.argv[2]), max_iter=int(sys.argv[3]), checkpoint_period=1, writers=[Slow()])
trainer.resume()
outcome = trainer.train()
print("stopped by", outcome.stopped_by, "at", outcome.iteration, flush=True)
"""


def start(folder: Path, *, max_iter: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(ROOT), str(folder), str(max_iter)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_sigterm_to_a_training_process_saves_and_exits_with_0(tmp_path: Path) -> None:
    process = start(tmp_path, max_iter=100000)
    assert process.stdout is not None
    while process.stdout.readline().strip() != "3":
        pass
    process.terminate()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    last = output.strip().splitlines()[-1]
    assert last.startswith("stopped by SIGTERM at ")
    assert "SIGTERM: saving and stopping" in errors
    trainer = toy_trainer(tmp_path)
    assert trainer.resume()
    assert trainer.iteration == int(last.rsplit(" ", 1)[1])


def test_a_process_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    process = start(tmp_path, max_iter=100000)
    assert process.stdout is not None
    for _ in itertools.takewhile(lambda line: line.strip() != "5", process.stdout):
        pass
    process.kill()
    process.wait()
    trainer = toy_trainer(tmp_path, max_iter=8)
    assert trainer.resume()
    reached = trainer.iteration
    assert reached >= 4  # iteration 5 was running or being saved
    assert trainer.train().finished
    whole = toy_trainer(tmp_path / "whole", max_iter=8)
    # The killed run's schedule had another end; only what does not depend on it is compared here.
    whole.train()
    assert trainer.loader.state_dict() == whole.loader.state_dict()


def test_an_unreadable_image_ends_the_training_with_a_checkpoint(tmp_path: Path) -> None:
    def spoil(position: int, batch: list[dict[str, Any]]) -> None:
        if position == 3 and not (tmp_path / "repaired").exists():
            raise ImageError("b/c.jpg: damaged or truncated; fetch or make it again")

    trainer = toy_trainer(tmp_path, max_iter=6, loader=ToyLoader(spoil))
    message = r"b/c\.jpg: damaged .* Checkpoint: .*model_0000003\.safetensors\. .*--resume, .*ON_ERROR skip"
    with pytest.raises(TrainingError, match=message):
        trainer.train()
    (tmp_path / "repaired").touch()
    resumed = toy_trainer(tmp_path, max_iter=6, loader=ToyLoader(spoil))
    assert resumed.resume()
    assert resumed.train().finished
    undisturbed = toy_trainer(tmp_path / "other", max_iter=6, loader=ToyLoader())
    undisturbed.train()
    assert fingerprint(resumed)["weights"] == fingerprint(undisturbed)["weights"]


def test_nothing_left_to_train_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    toy_trainer(tmp_path, max_iter=6).train()
    again = toy_trainer(tmp_path, max_iter=4)
    assert again.resume()
    with caplog.at_level(logging.INFO):
        again.train()
    assert "iteration 6 of 4: training is already complete" in caplog.text
    assert "from iteration 6 to 4" not in caplog.text
