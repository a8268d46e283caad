# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Hooks for Detectron2's trainer: CMPF's schedule, and the files that a run of CMPF's own trainer writes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import hooks
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from cmpf import weights
from cmpf.common.files import write_text
from cmpf.config import Config, with_overrides
from cmpf.data.datasets.catalog import locate_dataset
from cmpf.detectron2.config import native_config
from cmpf.detectron2.datasets import is_ours
from cmpf.detectron2.lazy import GRADIENT_NORM
from cmpf.engine.evaluations import Results, flatten_results, plain_results
from cmpf.engine.step import Record, max_memory
from cmpf.engine.writers import MetricsFile, Reporter
from cmpf.evaluation import save_results
from cmpf.factory.training import trained_metadata
from cmpf.weights.hub import FOLDER_CONFIG, FOLDER_WEIGHTS


class ScheduleHook(hooks.LRScheduler):  # type: ignore[misc]
    """An LRScheduler hook that saves the state of CMPF's schedule; Detectron2's only saves that of torch's."""

    def state_dict(self) -> dict[str, Any]:
        """The state of the schedule."""
        state: dict[str, Any] = self.scheduler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        self.scheduler.load_state_dict(state_dict)


class RunFiles(hooks.HookBase):  # type: ignore[misc]
    """Writes metrics.json during training, and model_final.safetensors, config.yaml and results.json at the end.

    The files have the format of CMPF's own trainer, so that `cmpf.load`, `cmpf predict` and `cmpf eval` accept the
    folder. Must be the last hook, because it uses results of the others, and only run in the main process.

    Args:
        cfg: Detectron2's configuration with CMPF's keys.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self._cfg = cfg
        self._folder = Path(cfg.OUTPUT_DIR)
        self._reporter = Reporter([MetricsFile(self._folder / "metrics.json")], log_period=cfg.LOG.PERIOD)
        self._results: Any = None
        self._started = 0.0

    def before_train(self) -> None:
        """Removes lines of iterations that will run again from metrics.json."""
        self._reporter.start(self.trainer.start_iter, self.trainer.max_iter)

    def before_step(self) -> None:
        """Starts the timer of the iteration."""
        self._started = time.perf_counter()

    def after_step(self) -> None:
        """Records the iteration."""
        latest = {name: value for name, (value, _) in self.trainer.storage.latest().items()}
        data_time = latest.get("data_time", 0.0)
        losses = {n: v for n, v in latest.items() if n.startswith("loss")}
        self._reporter.iteration(
            Record(
                iteration=self.trainer.iter + 1,
                max_iter=self.trainer.max_iter,
                total_loss=latest.get("total_loss", sum(losses.values())),
                losses=losses,
                lr=latest["lr"],
                grad_norm=latest.get(GRADIENT_NORM, float("nan")),
                data_time=data_time,
                step_time=time.perf_counter() - self._started - data_time,
                max_memory=max_memory(torch.device(self._cfg.MODEL.DEVICE)),
            )
        )
        self._record_results(self.trainer.iter + 1)

    def after_train(self) -> None:
        """Writes weights, configuration and results of a finished run, but not after an error."""
        self._record_results(self.trainer.iter)
        self._reporter.close()
        if self.trainer.iter < self.trainer.max_iter:
            return
        model, cfg = self.trainer.model, folder_config(self._cfg)
        model = model.module if isinstance(model, DistributedDataParallel) else model
        weights.save(model, self._folder / FOLDER_WEIGHTS, metadata=trained_metadata(cfg, model))
        write_text(self._folder / FOLDER_CONFIG, cfg.dump())
        if self._results:
            save_results(by_dataset(self._cfg, self._results) or {}, self._folder)

    def _record_results(self, iteration: int) -> None:
        results = getattr(self.trainer, "_last_eval_results", None)
        if results is not self._results:
            self._results = results
            self._reporter.results(iteration, flatten_results(by_dataset(self._cfg, results) or {}))


def run_files(cfg: CfgNode) -> list[RunFiles]:
    """The RunFiles hook in the main process; no hook in others."""
    return [RunFiles(cfg)] if comm.is_main_process() else []


def folder_config(cfg: CfgNode) -> Config:
    """The configuration to write to a run's folder, as CMPF's own trainer would: semantic results as class indices."""
    return with_overrides(native_config(cfg), {"MODEL.MASK_FORMER.TEST.SEMANTIC_OUTPUT": "labels"})


def by_dataset(cfg: CfgNode, results: Mapping[str, Any] | None) -> Results | None:
    """Results as {dataset: {task: {metric: percent}}}; Detectron2 omits the name of a single dataset."""
    names = cfg.DATASETS.TEST
    if not names or not results:
        return None
    named = {names[0]: results} if len(names) == 1 else results
    return plain_results({own_name(name): value for name, value in named.items()})


def own_name(name: str) -> str:
    """The name of a dataset in results; for "file:PATH" the name in the YAML file."""
    return locate_dataset(name).name if is_ours(name) else name
