# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The writer against a module that stands in for wandb."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cmpf.engine.records import Record
from cmpf.engine.wandb_writer import WandbWriter
from cmpf.errors import ConfigError

RECORD = Record(
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
    writer.summary(RECORD)
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
