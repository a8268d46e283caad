# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Checks before a download: encoders that the weights already contain, names, and whether the weights fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from cmpf import weights
from cmpf.config import Config, with_overrides
from cmpf.encoders import tiny
from cmpf.encoders.clip_factory import (
    cached_file,
    check_clip,
    is_quick_gelu,
    tag_record,
    variant_for,
)
from cmpf.encoders.sam import PUBLISHED, RANDOM, published_path
from cmpf.errors import WeightsError
from cmpf.factory.encoders import mask_sam
from cmpf.model import CMPF
from cmpf.registry import registered

CLIP_NAME, CLIP_WEIGHTS = "MODEL.CMPF.CLIP.NAME", "MODEL.CMPF.CLIP.PRETRAINED"
SAM_WEIGHTS = "MODEL.CMPF.SAM.CHECKPOINT"
WITHOUT_WEIGHTS = {
    CLIP_WEIGHTS: "",
    SAM_WEIGHTS: RANDOM,
    "TEST.ENSEMBLE.ENABLED": False,
    "MODEL.CMPF.COMPILE": False,
    "MODEL.CMPF.DEFORMABLE_ATTENTION": "torch",
}


def with_encoders_inside(cfg: Config) -> Config:
    """Replaces the published encoders of a configuration by those that the file MODEL.WEIGHTS contains.

    The configured CLIP name and tag decide whether the CLIP uses QuickGELU.
    """
    inside = weights.encoders_inside(cfg.MODEL.WEIGHTS) if cfg.MODEL.WEIGHTS else {}
    clip, sam = cfg.MODEL.CMPF.CLIP, cfg.MODEL.CMPF.SAM
    changes: dict[str, Any] = {}
    if "clip" in inside and tag_record(clip.NAME, clip.PRETRAINED):
        changes[CLIP_NAME] = variant_for(clip.NAME, clip.PRETRAINED)
        changes[CLIP_WEIGHTS] = str(inside["clip"])
    if "sam" in inside and sam.NAME in PUBLISHED and not sam.CHECKPOINT:
        changes[SAM_WEIGHTS] = str(inside["sam"])  # also used for the masks if they come from the same SAM
    return with_overrides(cfg, changes) if changes else cfg


def check_activation(cfg: Config, own: Config, *, model: str) -> None:
    """Checks that CLIP's activation is the one that a model was trained with, which no file of weights records.

    Args:
        cfg: the configuration with the user's overrides.
        own: the model's own configuration, without them.
        model: the model's name, for the message.
    Raises:
        ModelNameError: CLIP's name is unknown.
        WeightsError: CLIP's tag is unknown, or the activations differ.
    """
    (name, activation), (own_name, own_activation) = _activation(cfg), _activation(own)
    if activation and own_activation and activation != own_activation:
        raise WeightsError(
            f"{model} was trained with a CLIP that computes {own_activation}, and {CLIP_NAME} {name} with "
            f"{CLIP_WEIGHTS} {cfg.MODEL.CMPF.CLIP.PRETRAINED!r} computes {activation}, which would give wrong "
            f"embeddings: leave both out, or set {CLIP_NAME} {own_name}"
        )


def _activation(cfg: Config) -> tuple[str, str]:
    """The name of the CLIP variant to build and its activation; "" for the tiny CLIP, or if plug-ins may build it."""
    clip = cfg.MODEL.CMPF.CLIP
    if clip.NAME == tiny.CLIP_NAME or cfg.MODEL.CMPF.PLUGINS:
        return clip.NAME, ""
    check_clip(clip.NAME, clip.PRETRAINED)
    variant = variant_for(clip.NAME, clip.PRETRAINED)
    return variant, "QuickGELU" if is_quick_gelu(variant) else "GELU"


def check_before_download(cfg: Config, *, build: Callable[[Config], CMPF]) -> None:
    """Checks names and weights before the encoders of a configuration are downloaded.

    Args:
        cfg: the configuration.
        build: builds the network of a configuration on torch's default device.
    Raises:
        ModelNameError: CLIP's name is unknown.
        WeightsError: CLIP's tag is unknown, or MODEL.WEIGHTS does not fit the model.
    """
    if not _downloads(cfg):
        return
    clip = cfg.MODEL.CMPF.CLIP
    if not registered("clip"):  # the name may be that of a plug-in's CLIP
        check_clip(clip.NAME, clip.PRETRAINED)
    if cfg.MODEL.WEIGHTS and not cfg.MODEL.CMPF.PLUGINS:  # parts of plug-ins may not support the meta device
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            skeleton = build(with_overrides(cfg, WITHOUT_WEIGHTS))
        weights.check(skeleton, cfg.MODEL.WEIGHTS, allow_unused=cfg.MODEL.ALLOW_UNUSED_WEIGHTS)


def _downloads(cfg: Config) -> bool:
    """Whether an encoder must be downloaded."""
    clip, ensemble = cfg.MODEL.CMPF.CLIP, cfg.TEST.ENSEMBLE
    online = ensemble.ENABLED and ensemble.SOURCE == "online"
    sams = [(cfg.MODEL.CMPF.SAM.NAME, cfg.MODEL.CMPF.SAM.CHECKPOINT)]
    sams += [mask_sam(cfg)] if online else []
    published = clip.NAME != tiny.CLIP_NAME and tag_record(clip.NAME, clip.PRETRAINED)
    if published and cached_file(clip.NAME, clip.PRETRAINED) is None:
        return True
    return any(name in PUBLISHED and not file and not published_path(name).is_file() for name, file in sams)
