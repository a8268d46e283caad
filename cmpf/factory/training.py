# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Builds the parts of a training run: loader, optimizer, schedule, checkpointer and trainer."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from cmpf import weights
from cmpf.common import distributed
from cmpf.common.tensors import find_device
from cmpf.config import Config
from cmpf.config.schema import Input
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
from cmpf.engine.evaluations import image_drawer
from cmpf.engine.forward import CMPFForward
from cmpf.engine.optimizer import WeightAverage, build_optimizer
from cmpf.engine.schedule import Schedule, build_schedule
from cmpf.engine.trainer import Trainer
from cmpf.engine.writers import Writer
from cmpf.errors import ConfigError
from cmpf.factory.encoders import loader_workers
from cmpf.factory.evaluation import build_evaluation
from cmpf.factory.model import load_weights, plugin_metadata
from cmpf.factory.parts import part
from cmpf.model import CMPF, FROZEN_PREFIX
from cmpf.registry import import_plugins, register

logger = logging.getLogger(__name__)

CONFIG = "config"  # key in the metadata of trained weights
IMAGE_PAD = 128  # gray value of padding
# Default augmentations, in the published order.
JITTER = ("random_flip", "large_scale_jitter")
CROPS = ("random_shortest_edge", "random_crop", "color", "random_flip", "pad")


def build_train_loader(cfg: Config) -> TrainLoader:
    """Endless batches from the first dataset of DATASETS.TRAIN; each process loads its share of every batch.

    Raises:
        DatasetError: the dataset is unknown, not on disk or damaged.
        ConfigError: queries start at SAM's masks, which are to be read from a cache.
    """
    if cfg.MODEL.CMPF.PROPOSAL_QUERIES.ENABLED and cfg.TEST.ENSEMBLE.SOURCE == "cache":
        raise ConfigError(
            "MODEL.CMPF.PROPOSAL_QUERIES start at SAM's masks of the augmented image, which no cache holds; train with "
            "TEST.ENSEMBLE.SOURCE online, and evaluate with cache"
        )
    if unused := cfg.DATASETS.TRAIN[1:]:
        logger.warning("DATASETS.TRAIN: only the first dataset is used, not %s", ", ".join(unused))
    dataset = get_dataset(cfg.DATASETS.TRAIN[0])
    return data_train_loader(
        dataset.samples,
        mapper=build_train_mapper(cfg, dataset),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        seed=cfg.SEED,
        num_workers=loader_workers(cfg),
        pin_memory=find_device(cfg.MODEL.DEVICE).type == "cuda",
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        skip_unreadable=cfg.DATALOADER.ON_ERROR == "skip",
    )


def build_train_mapper(cfg: Config, dataset: Dataset) -> DatasetMapper:
    """Augments samples with INPUT.AUGMENTATIONS; its default is CROPS for semantic datasets and JITTER for others."""
    import_plugins(cfg.MODEL.CMPF.PLUGINS)
    semantic = dataset.spec.kind == "semantic"
    return DatasetMapper(
        augmentations=_augmentations(cfg, cfg.INPUT.AUGMENTATIONS or (CROPS if semantic else JITTER)),
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


def _augmentations(cfg: Config, names: Sequence[str]) -> list[Augmentation]:
    """The augmentations with these names, in this order, without disabled ones."""
    # The least common multiple, because the model would pad to its own divisor, and masks would no longer match.
    divisor = math.lcm(cfg.INPUT.SIZE_DIVISIBILITY, cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY)
    augmentations: list[Augmentation] = []
    for name in names:
        make = part("augmentation", name, cfg, like=_random_flip)
        augmentation = make(settings=cfg.INPUT, size_divisibility=divisor)
        augmentations += [] if augmentation is None else [augmentation]
    return augmentations


@register("augmentation", "random_flip")
def _random_flip(*, settings: Input, size_divisibility: int) -> Augmentation | None:
    return RandomHorizontalFlip() if settings.RANDOM_FLIP == "horizontal" else None


@register("augmentation", "large_scale_jitter")
def _large_scale_jitter(*, settings: Input, size_divisibility: int) -> Augmentation:
    return LargeScaleJitter(
        size=settings.IMAGE_SIZE,
        min_scale=settings.MIN_SCALE,
        max_scale=settings.MAX_SCALE,
        shared_offset=settings.SHARED_CROP_OFFSET,
    )


@register("augmentation", "random_shortest_edge")
def _random_shortest_edge(*, settings: Input, size_divisibility: int) -> Augmentation:
    return RandomShortestEdge(
        short_sides=settings.MIN_SIZE_TRAIN,
        max_side=settings.MAX_SIZE_TRAIN,
        sampling=settings.MIN_SIZE_TRAIN_SAMPLING,
    )


@register("augmentation", "random_crop")
def _random_crop(*, settings: Input, size_divisibility: int) -> RandomCrop | None:
    crop = settings.CROP
    if not crop.ENABLED:
        return None
    return RandomCrop(kind=crop.TYPE, size=crop.SIZE, max_class_share=crop.SINGLE_CATEGORY_MAX_AREA)


@register("augmentation", "color")
def _color(*, settings: Input, size_divisibility: int) -> Augmentation | None:
    return SSDColorJitter() if settings.COLOR_AUG_SSD else None


@register("augmentation", "pad")
def _pad(*, settings: Input, size_divisibility: int) -> Augmentation:
    crop = _random_crop(settings=settings, size_divisibility=size_divisibility)
    return PadToMultiple(divisor=size_divisibility, at_least=crop.largest_window if crop else (0, 0))


def build_checkpointer(cfg: Config, model: CMPF) -> Checkpointer:
    """Checkpoints of the trained weights in OUTPUT_DIR, which contain configuration and training vocabulary."""
    metadata = trained_metadata(cfg, model)

    def load(path: Path) -> None:
        load_weights(model, path, cfg)
        log_changed_settings(cfg, str(weights.read_metadata(path).get(CONFIG, "")))

    return Checkpointer(
        Path(cfg.OUTPUT_DIR),
        save_weights=lambda path: weights.save(model, path, metadata=metadata),
        load_weights=load,
        keep=cfg.SOLVER.CHECKPOINTS_KEPT,
    )


def trained_metadata(cfg: Config, model: CMPF) -> dict[str, Any]:
    """Metadata of trained weights: configuration, training classes and plug-ins."""
    classes = [list(words) for words in model.train_vocabulary.classes]
    return {CONFIG: cfg.dump(), "train_classes": classes, **plugin_metadata(cfg)}


def log_changed_settings(cfg: Config, checkpoint_config: str) -> None:
    """Warns of SOLVER keys whose values differ from those of the checkpoint from which a training resumes.

    Args:
        cfg: the configuration of the resumed training.
        checkpoint_config: the configuration in the checkpoint, from Config.dump; "" = unknown.
    """
    old, new = (_solver_keys(text) for text in (checkpoint_config, cfg.dump()))
    changed = [f"{key} {old[key]} -> {new[key]}" for key in new if old.get(key, new[key]) != new[key]]
    if changed:
        logger.warning("resumed with different settings: %s", ", ".join(changed))


def _solver_keys(text: str) -> dict[str, Any]:
    """The keys below SOLVER in a YAML text, {"SOLVER.AMP.ENABLED": True, ...}."""

    def flatten(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        if not isinstance(node, dict):
            yield prefix, node
            return
        for name, value in node.items():
            yield from flatten(value, f"{prefix}.{name}")

    return dict(flatten((yaml.safe_load(text) or {}).get("SOLVER", {}), "SOLVER"))


def build_trainer(cfg: Config, model: CMPF, *, writers: Sequence[Writer]) -> Trainer:
    """Builds the trainer of a configuration, at iteration 0.

    Raises:
        DatasetError: a training or test dataset is unknown or not on disk.
    """
    solver = cfg.SOLVER
    if base := cfg.MODEL.CMPF.MASK_ADAPTER.BASE_WEIGHTS:
        logger.info("weights of %s: %s", base, weights.load(model, base, may_lack="naming.mask_adapter."))
    optimizer = build_configured_optimizer(cfg, model)
    schedule = build_configured_schedule(cfg, optimizer)
    return Trainer(
        model=model,
        forward=CMPFForward(model),
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
        average=WeightAverage(model, decay=solver.EMA.DECAY) if solver.EMA.ENABLED else None,
        draw=image_drawer(model, count=cfg.LOG.PICTURES) if cfg.LOG.PICTURES else None,
    )


def build_configured_optimizer(cfg: Config, model: torch.nn.Module) -> torch.optim.AdamW:
    """The optimizer that SOLVER configures."""
    solver = cfg.SOLVER
    return build_optimizer(
        model,
        lr=build_learning_rate(cfg),
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_embed=solver.WEIGHT_DECAY_EMBED,
        scaled_prefix=FROZEN_PREFIX,  # CLIP's image trunk is the only part of the encoders that is ever trained
        lr_factor=cfg.MODEL.CMPF.CLIP.LR_FACTOR,
    )


def build_configured_schedule(cfg: Config, optimizer: torch.optim.Optimizer) -> Schedule:
    """The learning rate schedule that SOLVER configures; warns of steps after the last iteration."""
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
        power=solver.POLY_POWER,
    )


def build_learning_rate(cfg: Config) -> float:
    """SOLVER.BASE_LR, scaled linearly by batch size / SOLVER.REFERENCE_BATCH_SIZE unless the latter is 0."""
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
