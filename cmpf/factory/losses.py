# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Builds the losses of the decoder and of CLIP's mask classification."""

from __future__ import annotations

from functools import partial

from cmpf.clip_tuning import ClipTuning
from cmpf.config import Config
from cmpf.encoders.clip import CLIP
from cmpf.errors import ConfigError
from cmpf.factory.encoders import build_clip_encoder
from cmpf.factory.parts import part
from cmpf.losses import AdapterCriterion, HungarianMatcher, SetCriterion
from cmpf.registry import import_plugins


def build_tuning(cfg: Config) -> ClipTuning:
    """Losses of CLIP's mask classification, which are added to those of the decoder."""
    own, losses = cfg.MODEL.CMPF.CLIP, cfg.MODEL.CMPF.CLIP_LOSSES
    return ClipTuning(
        detached=own.DETACHED,
        names=losses.CLASS_WEIGHT > 0,
        mask_aware=losses.MASK_AWARE_WEIGHT,
        representation=losses.REPRESENTATION_WEIGHT,
        teacher=partial(_build_teacher, cfg),
    )


def _build_teacher(cfg: Config) -> CLIP:
    """The CLIP that training starts from."""
    own = cfg.MODEL.CMPF.CLIP
    if not own.PRETRAINED:
        raise ConfigError(
            "MODEL.CMPF.CLIP_LOSSES.REPRESENTATION_WEIGHT compares the trunk with the CLIP that training starts "
            f'from, and MODEL.CMPF.CLIP.PRETRAINED "" names none; give the tag or file of CLIP {own.NAME}, or set '
            "the weight to 0"
        )
    return build_clip_encoder(cfg)


def build_criterion(cfg: Config, num_classes: int) -> SetCriterion | AdapterCriterion:
    """Builds the matcher and losses (see SetCriterion for outputs and targets), or the losses of Mask-Adapter.

    Args:
        cfg: the configuration.
        num_classes: number of training classes.
    """
    import_plugins(cfg.MODEL.CMPF.PLUGINS)
    if cfg.MODEL.CMPF.MASK_EMBEDDING == "mask_adapter":
        own = cfg.MODEL.CMPF.MASK_ADAPTER
        return AdapterCriterion(
            mixed=own.TRAINING == "mixed",
            class_weight=own.CLASS_WEIGHT,
            consistency_weight=own.CONSISTENCY_WEIGHT,
            detach_truth=own.DETACH_TRUTH,
        )
    former = cfg.MODEL.MASK_FORMER
    make = part("criterion", cfg.MODEL.CMPF.CRITERION_NAME, cfg, like=SetCriterion)
    matcher = HungarianMatcher(
        class_weight=former.CLASS_WEIGHT,
        mask_weight=former.MASK_WEIGHT,
        dice_weight=former.DICE_WEIGHT,
        num_points=former.TRAIN_NUM_POINTS,
    )
    return make(
        num_classes=num_classes,
        matcher=matcher,
        class_weight=former.CLASS_WEIGHT,
        mask_weight=former.MASK_WEIGHT,
        dice_weight=former.DICE_WEIGHT,
        no_object_weight=former.NO_OBJECT_WEIGHT,
        num_points=former.TRAIN_NUM_POINTS,
        oversample_ratio=former.OVERSAMPLE_RATIO,
        importance_sample_ratio=former.IMPORTANCE_SAMPLE_RATIO,
        deep_supervision=former.DEEP_SUPERVISION,
        clip_class_weight=cfg.MODEL.CMPF.CLIP_LOSSES.CLASS_WEIGHT,
        double_softmax=cfg.MODEL.CMPF.CLIP_LOSSES.DOUBLE_SOFTMAX,
    )
