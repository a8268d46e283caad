# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Wires training: loader, optimizer, schedule, checkpoints, trainer."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cmpf import weights
from cmpf.common import distributed
from cmpf.config import Config
from cmpf.data import (
    Dataset,
    DatasetMapper,
    InstanceTargets,
    LargeScaleJitter,
    PadToMultiple,
    PanopticTargets,
    RandomCrop,
    RandomHorizontalFlip,
    RandomShortestEdge,
    SemanticTargets,
    SSDColorJitter,
    get_dataset,
)
from cmpf.data.loader import TrainLoader
from cmpf.data.loader import build_train_loader as data_train_loader
from cmpf.data.mapper import TargetSource
from cmpf.data.transforms.geometric import Augmentation
from cmpf.engine.checkpoints import Checkpointer
from cmpf.engine.forward import CMPFForward
from cmpf.engine.optimizer import build_optimizer
from cmpf.engine.schedule import Schedule, build_schedule
from cmpf.engine.trainer import Trainer
from cmpf.engine.weight_average import WeightAverage
from cmpf.engine.writers import Writer
from cmpf.factory.encoders import build_device
from cmpf.factory.evaluation import build_evaluation
from cmpf.factory.training_images import image_drawer
from cmpf.factory.workers import loader_workers
from cmpf.model import CMPF

logger = logging.getLogger(__name__)

IMAGE_PAD = 128  # gray of the area that jitter leaves free


def build_train_loader(cfg: Config) -> TrainLoader:
    """Endless batches, this process's share, of the first dataset of DATASETS.TRAIN, augmented as its kind asks for.

    Raises:
        DatasetError: the dataset is unknown, not on disk or damaged.
    """
    dataset = get_dataset(cfg.DATASETS.TRAIN[0])
    return data_train_loader(
        dataset.samples,
        mapper=build_train_mapper(cfg, dataset),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        seed=cfg.SEED,
        num_workers=loader_workers(cfg),
        pin_memory=build_device(cfg).type == "cuda",
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )


def build_train_mapper(cfg: Config, dataset: Dataset) -> DatasetMapper:
    """What training sees of a dataset: large-scale jitter for segments and objects, the crop rule for classes."""
    semantic = dataset.spec.kind == "semantic"
    return DatasetMapper(
        augmentations=_semantic_augmentations(cfg) if semantic else _jitter_augmentations(cfg),
        target=_target_source(dataset),
        image_pad=IMAGE_PAD,
    )


def _target_source(dataset: Dataset) -> TargetSource:
    spec = dataset.spec
    if spec.kind == "semantic":
        return SemanticTargets(
            num_classes=dataset.vocabulary.num_classes,
            ignore_label=spec.ignore_label,
            class_of_id=spec.class_of_label,
        )
    return InstanceTargets() if spec.kind == "instance" else PanopticTargets()


def _flips(cfg: Config) -> list[Augmentation]:
    return [RandomHorizontalFlip()] if cfg.INPUT.RANDOM_FLIP == "horizontal" else []


def _jitter_augmentations(cfg: Config) -> list[Augmentation]:
    given = cfg.INPUT
    jitter = LargeScaleJitter(size=given.IMAGE_SIZE, min_scale=given.MIN_SCALE, max_scale=given.MAX_SCALE)
    return [*_flips(cfg), jitter]


def _semantic_augmentations(cfg: Config) -> list[Augmentation]:
    """Short side, crop, colors, flip, padding: in this order, as published."""
    given = cfg.INPUT
    augmentations: list[Augmentation] = [
        RandomShortestEdge(
            short_sides=given.MIN_SIZE_TRAIN,
            max_side=given.MAX_SIZE_TRAIN,
            sampling=given.MIN_SIZE_TRAIN_SAMPLING,
        )
    ]
    at_least = (0, 0)
    if given.CROP.ENABLED:
        cut = RandomCrop(
            kind=given.CROP.TYPE,
            size=given.CROP.SIZE,
            max_class_share=given.CROP.SINGLE_CATEGORY_MAX_AREA,
        )
        augmentations.append(cut)
        at_least = cut.largest_window
    if given.COLOR_AUG_SSD:
        augmentations.append(SSDColorJitter())
    # The model pads to its own multiple too, where masks would no longer fit.
    divisor = math.lcm(given.SIZE_DIVISIBILITY, cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY)
    return [*augmentations, *_flips(cfg), PadToMultiple(divisor=divisor, at_least=at_least)]


def build_checkpointer(cfg: Config, model: CMPF) -> Checkpointer:
    """Checkpoints of the trained weights in OUTPUT_DIR, with configuration and training vocabulary in them."""
    metadata = {"config": cfg.dump(), "train_classes": [list(c) for c in model.train_vocabulary.classes]}
    return Checkpointer(
        Path(cfg.OUTPUT_DIR),
        save_weights=lambda path: weights.save(model, path, metadata=metadata),
        load_weights=lambda path: weights.load(model, path),
        keep=cfg.SOLVER.CHECKPOINTS_KEPT,
    )


def build_trainer(cfg: Config, model: CMPF, *, writers: Sequence[Writer]) -> Trainer:
    """The training run of a configuration, at iteration 0.

    Raises:
        DatasetError: a training or test dataset is unknown or not on disk.
    """
    solver = cfg.SOLVER
    optimizer = build_configured_optimizer(cfg, model)
    schedule = build_configured_schedule(cfg, optimizer)
    return Trainer(
        model=model,
        loader=build_train_loader(cfg),
        optimizer=optimizer,
        schedule=schedule,
        max_iter=solver.MAX_ITER,
        checkpointer=build_checkpointer(cfg, model),
        checkpoint_period=solver.CHECKPOINT_PERIOD,
        writers=writers,
        log_period=cfg.LOG.PERIOD,
        evaluate=build_evaluation(cfg, model) if cfg.DATASETS.TEST else None,
        eval_period=cfg.TEST.EVAL_PERIOD,
        best_metric=cfg.TEST.BEST_METRIC,
        amp=solver.AMP.ENABLED,
        amp_dtype=solver.AMP.DTYPE,
        clip_norm=solver.CLIP_GRADIENTS.CLIP_VALUE if solver.CLIP_GRADIENTS.ENABLED else math.inf,
        accumulation_steps=solver.ACCUMULATION_STEPS,
        forward=CMPFForward(model),
        average=WeightAverage(model, decay=solver.EMA.DECAY) if solver.EMA.ENABLED else None,
        draw=image_drawer(model, count=cfg.LOG.PICTURES) if cfg.LOG.PICTURES else None,
    )


def build_configured_optimizer(cfg: Config, model: nn.Module) -> torch.optim.AdamW:
    """The optimizer that SOLVER asks for."""
    solver = cfg.SOLVER
    return build_optimizer(
        model,
        lr=build_learning_rate(cfg),
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_embed=solver.WEIGHT_DECAY_EMBED,
    )


def build_configured_schedule(cfg: Config, optimizer: torch.optim.Optimizer) -> Schedule:
    """The learning rate schedule that SOLVER asks for; steps after its end are named in the log."""
    solver = cfg.SOLVER
    late = [step for step in solver.STEPS if step >= solver.MAX_ITER]
    if late and solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        logger.warning(
            "SOLVER.STEPS %s are never reached, because SOLVER.MAX_ITER is %d: the learning rate is not lowered there; "
            "set SOLVER.STEPS to earlier iterations, or to ()",
            late,
            solver.MAX_ITER,
        )
    return build_schedule(
        solver.LR_SCHEDULER_NAME,
        optimizer,
        max_iter=solver.MAX_ITER,
        steps=solver.STEPS,
        gamma=solver.GAMMA,
        warmup_iters=solver.WARMUP_ITERS,
        warmup_factor=solver.WARMUP_FACTOR,
    )


def build_learning_rate(cfg: Config) -> float:
    """SOLVER.BASE_LR, scaled linearly with the batch where SOLVER.REFERENCE_BATCH_SIZE says what it is meant for."""
    solver = cfg.SOLVER
    base, batch, reference = solver.BASE_LR, solver.IMS_PER_BATCH, solver.REFERENCE_BATCH_SIZE
    if reference in (0, batch):
        return base
    scaled = base * batch / reference
    logger.info(
        "learning rate %g = SOLVER.BASE_LR %g * batch %d / SOLVER.REFERENCE_BATCH_SIZE %d",
        scaled,
        base,
        batch,
        reference,
    )
    return scaled


def profiled_parts(model: CMPF) -> dict[str, tuple[Any, str]]:
    """What --profile measures apart inside the forward pass: an object and the name of what is called."""
    return {
        "frozen encoders": (model.encoders, "forward"),
        "losses": (model.criterion, "forward"),
        "matching": (model.criterion, "matcher"),
    }
