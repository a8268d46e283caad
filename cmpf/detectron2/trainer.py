# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Detectron2's loop, hooks and checkpoints around CMPF's data, optimizer, schedule, evaluators and weights."""

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
    """Saves as Detectron2 does. Loads Detectron2's files, CMPF's .safetensors, and published weights by their names.

    Weights that do not fit are an error, not a warning: a decoder that kept half of its random numbers would train
    on without a word. The other way, CMPF's own engine reads what this saves.

    Args:
        allow_unused: whether a file may hold weights that the model does not have. options: Detectron2's.
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, allow_unused: bool = False, **options: Any
    ) -> None:
        super().__init__(model, save_dir, **options)
        self.allow_unused = allow_unused

    def _load_file(self, filename: str) -> Any:
        if filename.endswith(".safetensors"):
            # The file itself, for cmpf.weights compares the encoders that it names with the model's.
            return {"model": filename}
        return super()._load_file(filename)

    def _load_model(self, contents: dict[str, Any]) -> None:
        """Raises WeightsError where weights are missing, of another shape or of no use."""
        report = weights.load(self.model, contents.pop("model"), allow_unused=self.allow_unused)
        self.logger.info("weights: %s", report)


class WeightsKeeper(Checkpointer):
    """Saves what is no place to go on from: last_checkpoint keeps the name that it has."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Leaves last_checkpoint alone."""


class Trainer(DefaultTrainer):  # type: ignore[misc]
    """Trains and evaluates a configuration with the parts of CMPF's own engine.

    Shared with it: augmentations, order of the images, optimizer, clipping, schedule, evaluators. Detectron2's:
    the loop, mixed precision, logs, checkpoints. Datasets that only Detectron2 knows are read by its own loaders. Its
    loop has no SOLVER.ACCUMULATION_STEPS and no SOLVER.EMA; `obstacle` of cmpf.detectron2.running tells.

    Args:
        cfg: of Detectron2, with add_cmpf_config.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(_possible_precision(cfg))
        if self.cfg.SOLVER.AMP.ENABLED:
            amp, device = self.cfg.SOLVER.AMP, torch.device(self.cfg.MODEL.DEVICE)
            self._trainer.precision = MixedPrecision(enabled=True, device=device, dtype=amp.DTYPE).dtype
            scaled = self._trainer.precision is torch.float16
            self._trainer.grad_scaler = torch.amp.GradScaler("cuda", enabled=scaled)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW with CMPF's groups, and the norm of all gradients together clipped before each step."""
        solver = cfg.SOLVER
        optimizer = build_configured_optimizer(native_config(cfg), model)
        if solver.CLIP_GRADIENTS.ENABLED:
            clip_before_steps(optimizer, solver.CLIP_GRADIENTS.CLIP_VALUE)
        return optimizer

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Schedule:
        """CMPF's schedule; Detectron2's of the same names warm up to another place."""
        return build_configured_schedule(native_config(cfg), optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """This process's share of endless batches of the first dataset of DATASETS.TRAIN."""
        if not is_ours(cfg.DATASETS.TRAIN[0]):
            return super().build_train_loader(cfg)
        return build_train_loader(native_config(cfg))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """Images of a dataset at their test size, each of which names the classes to look for."""
        if not is_ours(dataset_name):
            return super().build_test_loader(cfg, dataset_name)
        native = native_config(cfg)
        return build_test_loader(native, naming_itself(build_dataset(native, dataset_name), dataset_name))

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, evaluators: Sequence[DatasetEvaluator] | None = None
    ) -> Mapping[str, Any]:
        """Evaluates on every dataset of DATASETS.TEST, by default with CMPF's evaluators, with TEST.AUG if it is on.

        Returns:
            {task: {metric: percent}} of the only dataset, or this by dataset.
        """
        network: Any = model.module if isinstance(model, DistributedDataParallel) else model
        looking = SemanticSegmentorWithTTA(cfg, network) if cfg.TEST.AUG.ENABLED else model
        if evaluators is not None:
            return cast(Mapping[str, Any], super().test(cfg, looking, evaluators))
        evaluators = [cls._evaluator(cfg, network, name) for name in cfg.DATASETS.TEST]
        with _labels_for(network, cfg):
            return cast(Mapping[str, Any], super().test(cfg, looking, evaluators))

    @classmethod
    def _evaluator(cls, cfg: CfgNode, network: Any, name: str) -> DatasetEvaluator:
        if not is_ours(name):
            return cls.build_evaluator(cfg, name)
        native = native_config(cfg)
        return Evaluators(build_evaluators(native, network, build_dataset(native, name)))

    def build_hooks(self) -> list[Any]:
        """Detectron2's hooks, but a schedule that resumes, N checkpoints kept, and the best one by TEST.BEST_METRIC."""
        cfg = self.cfg
        # Here, because the constructor of DefaultTrainer makes its own just before it asks for hooks.
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
        chosen = [replaced.get(type(hook), hook) for hook in super().build_hooks()]
        if cfg.TEST.BEST_METRIC and cfg.DATASETS.TEST and comm.is_main_process():
            several = len(cfg.DATASETS.TEST) > 1
            metric = f"{cfg.DATASETS.TEST[0]}/{cfg.TEST.BEST_METRIC}" if several else cfg.TEST.BEST_METRIC
            keeper = WeightsKeeper(self.model, cfg.OUTPUT_DIR)
            chosen.append(hooks.BestCheckpointer(cfg.TEST.EVAL_PERIOD, keeper, metric))
        return [*chosen, *run_files(cfg)]

    def build_writers(self) -> list[Any]:
        """Detectron2's, without its metrics.json, which has another form than CMPF's."""
        off = (JSONWriter,) if self.cfg.LOG.TENSORBOARD else (JSONWriter, TensorboardXWriter)
        return [writer for writer in super().build_writers() if not isinstance(writer, off)]

    def state_dict(self) -> dict[str, Any]:
        """With the position in the training data, and the configuration."""
        state: dict[str, Any] = super().state_dict()
        state["config"] = folder_config(self.cfg).dump()
        if hasattr(self.data_loader, "state_dict"):
            state["loader"] = self.data_loader.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores `state_dict`; says which settings are others than before."""
        super().load_state_dict(state_dict)
        log_changed_settings(folder_config(self.cfg), state_dict.get("config", ""))
        if "loader" in state_dict and hasattr(self.data_loader, "load_state_dict"):
            self.data_loader.load_state_dict(state_dict["loader"])


@contextmanager
def _labels_for(network: Any, cfg: CfgNode) -> Iterator[None]:
    """Class indices instead of a score for each class where CMPF's evaluators alone look: 847 maps are large."""
    own = network.settings
    if all(map(is_ours, cfg.DATASETS.TEST)):
        network.settings = replace(own, semantic_output="labels")
    try:
        yield
    finally:
        network.settings = own


def _possible_precision(cfg: CfgNode) -> CfgNode:
    """Mixed precision off on a CPU, where CMPF's own engine leaves it off too and Detectron2 refuses to run."""
    if not cfg.SOLVER.AMP.ENABLED or torch.device(cfg.MODEL.DEVICE).type == "cuda":
        return cfg
    logger.info("SOLVER.AMP.ENABLED has no effect on %s", cfg.MODEL.DEVICE)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.AMP.ENABLED = False
    cfg.freeze()
    return cfg
