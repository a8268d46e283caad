# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Detectron2's trainer and checkpointer with CMPF's data, optimizer, schedule, evaluators and weights."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import JSONWriter, TensorboardXWriter
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cmpf import weights
from cmpf.detectron2.config import native_config
from cmpf.detectron2.datasets import is_ours, naming_itself
from cmpf.detectron2.evaluation import Evaluators, SemanticSegmentorWithTTA
from cmpf.detectron2.hooks import ScheduleHook, folder_config, run_files
from cmpf.detectron2.lazy import clip_before_steps
from cmpf.engine.schedule import Schedule
from cmpf.engine.step import MixedPrecision
from cmpf.factory.evaluation import build_evaluators, build_test_loader
from cmpf.factory.training import (
    build_configured_optimizer,
    build_configured_schedule,
    build_train_loader,
    log_changed_settings,
)
from cmpf.factory.vocabularies import build_dataset

logger = logging.getLogger(__name__)


class Checkpointer(DetectionCheckpointer):  # type: ignore[misc]
    """Saves Detectron2's checkpoints; loads them, CMPF's .safetensors files, and published weights.

    Weights that do not fit raise an error, not a warning, so that no part of the decoder silently keeps its random
    initialization. CMPF's own engine can load the saved checkpoints.

    Args:
        model: the model.
        save_dir: folder of the checkpoints.
        allow_unused: whether a file may contain weights that the model does not have.
        options: arguments of DetectionCheckpointer.
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, allow_unused: bool = False, **options: Any
    ) -> None:
        super().__init__(model, save_dir, **options)
        self.allow_unused = allow_unused

    def _load_file(self, filename: str) -> Any:
        if filename.endswith(".safetensors"):
            # The path, so that cmpf.weights can compare the encoders in the file's metadata with the model's.
            return {"model": filename}
        return super()._load_file(filename)

    def _load_model(self, contents: dict[str, Any]) -> None:
        """Raises WeightsError if weights are missing, unused or of another shape."""
        report = weights.load(self.model, contents.pop("model"), allow_unused=self.allow_unused)
        self.logger.info("weights: %s", report)


class WeightsKeeper(Checkpointer):
    """Saves weights without changing last_checkpoint, for files from which no run resumes."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Does nothing."""


class Trainer(DefaultTrainer):  # type: ignore[misc]
    """Trains and evaluates a configuration with parts of CMPF's own engine.

    Augmentations, order of images, optimizer, clipping, schedule and evaluators are CMPF's; the loop, mixed precision,
    logs and checkpoints are Detectron2's. Datasets that only Detectron2 knows use its own loaders.
    SOLVER.ACCUMULATION_STEPS and SOLVER.EMA are not supported, see cmpf.detectron2.obstacle.

    Args:
        cfg: Detectron2's configuration with CMPF's keys.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(_without_amp_on_cpu(cfg))
        if self.cfg.SOLVER.AMP.ENABLED:
            amp, device = self.cfg.SOLVER.AMP, torch.device(self.cfg.MODEL.DEVICE)
            self._trainer.precision = MixedPrecision(enabled=True, device=device, dtype=amp.DTYPE).dtype
            scaled = self._trainer.precision is torch.float16
            self._trainer.grad_scaler = torch.amp.GradScaler("cuda", enabled=scaled)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW with CMPF's parameter groups; clips the norm of all gradients together before each step."""
        solver = cfg.SOLVER
        optimizer = build_configured_optimizer(native_config(cfg), model)
        if solver.CLIP_GRADIENTS.ENABLED:
            clip_before_steps(optimizer, solver.CLIP_GRADIENTS.CLIP_VALUE)
        return optimizer

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Schedule:
        """CMPF's schedule; Detectron2's schedules of the same names have another warmup."""
        return build_configured_schedule(native_config(cfg), optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """This process's share of endless batches from the first dataset of DATASETS.TRAIN."""
        if not is_ours(cfg.DATASETS.TRAIN[0]):
            return super().build_train_loader(cfg)
        return build_train_loader(native_config(cfg))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """Images of a dataset at their test size; samples name the dataset whose classes are used."""
        if not is_ours(dataset_name):
            return super().build_test_loader(cfg, dataset_name)
        native = native_config(cfg)
        return build_test_loader(native, naming_itself(build_dataset(native, dataset_name), dataset_name))

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, evaluators: Sequence[DatasetEvaluator] | None = None
    ) -> Mapping[str, Any]:
        """Evaluates on every dataset of DATASETS.TEST, with TEST.AUG if it is enabled.

        Args:
            cfg: Detectron2's configuration with CMPF's keys.
            model: the model.
            evaluators: one per dataset; None = CMPF's.
        Returns:
            {task: {metric: percent}}, or {dataset: {task: {metric: percent}}} if there are several datasets.
        """
        network: Any = model.module if isinstance(model, DistributedDataParallel) else model
        segmentor = SemanticSegmentorWithTTA(cfg, network) if cfg.TEST.AUG.ENABLED else model
        if evaluators is not None:
            return cast(Mapping[str, Any], super().test(cfg, segmentor, evaluators))
        evaluators = [cls._evaluator(cfg, network, name) for name in cfg.DATASETS.TEST]
        with _label_outputs(network, cfg):
            return cast(Mapping[str, Any], super().test(cfg, segmentor, evaluators))

    @classmethod
    def _evaluator(cls, cfg: CfgNode, network: Any, name: str) -> DatasetEvaluator:
        if not is_ours(name):
            return cls.build_evaluator(cfg, name)
        native = native_config(cfg)
        return Evaluators(build_evaluators(native, network, build_dataset(native, name)))

    def build_hooks(self) -> list[Any]:
        """Detectron2's hooks, with a resumable schedule, SOLVER.CHECKPOINTS_KEPT, TEST.BEST_METRIC and RunFiles."""
        cfg = self.cfg
        # Replaced here, because DefaultTrainer's constructor creates its checkpointer just before it builds hooks.
        self.checkpointer = Checkpointer(
            self.model,
            cfg.OUTPUT_DIR,
            allow_unused=cfg.MODEL.ALLOW_UNUSED_WEIGHTS,
            trainer=weakref.proxy(self),
        )
        period = cfg.SOLVER.CHECKPOINT_PERIOD
        replaced = {
            hooks.LRScheduler: ScheduleHook(),
            hooks.PeriodicCheckpointer: hooks.PeriodicCheckpointer(
                self.checkpointer, period, max_to_keep=cfg.SOLVER.CHECKPOINTS_KEPT
            ),
        }
        all_hooks = [replaced.get(type(hook), hook) for hook in super().build_hooks()]
        if cfg.TEST.BEST_METRIC and cfg.DATASETS.TEST and comm.is_main_process():
            several = len(cfg.DATASETS.TEST) > 1
            metric = f"{cfg.DATASETS.TEST[0]}/{cfg.TEST.BEST_METRIC}" if several else cfg.TEST.BEST_METRIC
            keeper = WeightsKeeper(self.model, cfg.OUTPUT_DIR)
            all_hooks.append(hooks.BestCheckpointer(cfg.TEST.EVAL_PERIOD, keeper, metric))
        return [*all_hooks, *run_files(cfg)]

    def build_writers(self) -> list[Any]:
        """Detectron2's writers without the one of metrics.json, whose format differs from CMPF's."""
        removed = (JSONWriter,) if self.cfg.LOG.TENSORBOARD else (JSONWriter, TensorboardXWriter)
        return [writer for writer in super().build_writers() if not isinstance(writer, removed)]

    def state_dict(self) -> dict[str, Any]:
        """Detectron2's state with the position in the training data and the configuration."""
        state: dict[str, Any] = super().state_dict()
        state["config"] = folder_config(self.cfg).dump()
        if hasattr(self.data_loader, "state_dict"):
            state["loader"] = self.data_loader.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores `state_dict`; warns of changed SOLVER settings."""
        super().load_state_dict(state_dict)
        log_changed_settings(folder_config(self.cfg), state_dict.get("config", ""))
        if "loader" in state_dict and hasattr(self.data_loader, "load_state_dict"):
            self.data_loader.load_state_dict(state_dict["loader"])


@contextmanager
def _label_outputs(network: Any, cfg: CfgNode) -> Iterator[None]:
    """Within the block, the model returns class indices if only CMPF's evaluators are used: score maps are large."""
    settings = network.settings
    if all(map(is_ours, cfg.DATASETS.TEST)):
        network.settings = replace(settings, semantic_output="labels")
    try:
        yield
    finally:
        network.settings = settings


def _without_amp_on_cpu(cfg: CfgNode) -> CfgNode:
    """Disables mixed precision on a CPU, as CMPF's own engine does; Detectron2 would refuse to run."""
    if not cfg.SOLVER.AMP.ENABLED or torch.device(cfg.MODEL.DEVICE).type == "cuda":
        return cfg
    logger.info("SOLVER.AMP.ENABLED has no effect on %s", cfg.MODEL.DEVICE)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.AMP.ENABLED = False
    cfg.freeze()
    return cfg
