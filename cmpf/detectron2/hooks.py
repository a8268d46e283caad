# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Hooks of Detectron2's loop: CMPF's schedule, and the files that a run of CMPF's own loop leaves."""

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
    """Detectron2's hook keeps the state of torch's schedules only; this one that of CMPF's."""

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule is."""
        state: dict[str, Any] = self.scheduler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes there."""
        self.scheduler.load_state_dict(state_dict)


class RunFiles(hooks.HookBase):  # type: ignore[misc]
    """metrics.json every LOG.PERIOD iterations; at the end model_final.safetensors, config.yaml and results.json.

    Their form is that of CMPF's own loop, so that `cmpf.load`, `cmpf predict` and `cmpf eval` take the folder. This
    hook stands last: it looks at what the others have written. For the main process.

    Args:
        cfg: of Detectron2, with add_cmpf_config.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self._cfg = cfg
        self._folder = Path(cfg.OUTPUT_DIR)
        self._reporter = Reporter([MetricsFile(self._folder / "metrics.json")], log_period=cfg.LOG.PERIOD)
        self._seen: Any = None
        self._started = 0.0

    def before_train(self) -> None:
        """Keeps the lines of iterations that will not be run again."""
        self._reporter.start(self.trainer.start_iter, self.trainer.max_iter)

    def before_step(self) -> None:
        """Looks at the clock."""
        self._started = time.perf_counter()

    def after_step(self) -> None:
        """Takes the iteration in."""
        latest = {name: value for name, (value, _) in self.trainer.storage.latest().items()}
        wait = latest.get("data_time", 0.0)
        losses = {n: v for n, v in latest.items() if n.startswith("loss")}
        self._reporter.iteration(
            Record(
                iteration=self.trainer.iter + 1,
                max_iter=self.trainer.max_iter,
                total_loss=latest.get("total_loss", sum(losses.values())),
                losses=losses,
                lr=latest["lr"],
                grad_norm=latest.get(GRADIENT_NORM, float("nan")),
                data_time=wait,
                step_time=time.perf_counter() - self._started - wait,
                max_memory=max_memory(torch.device(self._cfg.MODEL.DEVICE)),
            )
        )
        self._take_results(self.trainer.iter + 1)

    def after_train(self) -> None:
        """Writes what a finished run leaves; one that ended with an error leaves its checkpoints."""
        self._take_results(self.trainer.iter)
        self._reporter.close()
        if self.trainer.iter < self.trainer.max_iter:
            return
        model, cfg = self.trainer.model, folder_config(self._cfg)
        model = model.module if isinstance(model, DistributedDataParallel) else model
        weights.save(model, self._folder / FOLDER_WEIGHTS, metadata=trained_metadata(cfg, model))
        write_text(self._folder / FOLDER_CONFIG, cfg.dump())
        if self._seen:
            save_results(by_dataset(self._cfg, self._seen) or {}, self._folder)

    def _take_results(self, iteration: int) -> None:
        results = getattr(self.trainer, "_last_eval_results", None)
        if results is not self._seen:
            self._seen = results
            self._reporter.results(iteration, flatten_results(by_dataset(self._cfg, results) or {}))


def run_files(cfg: CfgNode) -> list[RunFiles]:
    """The hook, in the process that writes."""
    return [RunFiles(cfg)] if comm.is_main_process() else []


def folder_config(cfg: CfgNode) -> Config:
    """The configuration in a run's folder, as CMPF's own loop would have it: class indices as semantic results."""
    return with_overrides(native_config(cfg), {"MODEL.MASK_FORMER.TEST.SEMANTIC_OUTPUT": "labels"})


def by_dataset(cfg: CfgNode, results: Mapping[str, Any] | None) -> Results | None:
    """{dataset: {task: {metric: percent}}}; Detectron2 leaves the name out where there is one dataset."""
    names = cfg.DATASETS.TEST
    if not names or not results:
        return None
    found = {names[0]: results} if len(names) == 1 else results
    return plain_results({own_name(name): value for name, value in found.items()})


def own_name(name: str) -> str:
    """The name that a dataset has in results; that of a YAML file stands in it."""
    return locate_dataset(name).name if is_ours(name) else name
