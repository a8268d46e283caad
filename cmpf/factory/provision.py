# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What is looked at before anything is downloaded: the weights on this machine, and whether they fit the model."""

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
    """The configuration, with the frozen encoders that MODEL.WEIGHTS holds in place of published ones.

    QuickGELU follows from the name and the tag that the configuration has.
    """
    inside = weights.encoders_inside(cfg.MODEL.WEIGHTS) if cfg.MODEL.WEIGHTS else {}
    clip, sam = cfg.MODEL.CMPF.CLIP, cfg.MODEL.CMPF.SAM
    changes: dict[str, Any] = {}
    if "clip" in inside and tag_record(clip.NAME, clip.PRETRAINED):
        changes[CLIP_NAME] = variant_for(clip.NAME, clip.PRETRAINED)
        changes[CLIP_WEIGHTS] = str(inside["clip"])
    if "sam" in inside and sam.NAME in PUBLISHED and not sam.CHECKPOINT:
        changes[SAM_WEIGHTS] = str(inside["sam"])  # also of the masks, if it is the same SAM
    return with_overrides(cfg, changes) if changes else cfg


def check_activation(cfg: Config, own: Config, *, model: str) -> None:
    """Refuses another activation than the one that a model was trained with; no file of weights tells it.

    Args:
        own: the configuration of the model without the user's changes, whose names and tags tell it.
        model: its name, for the message.
    Raises:
        ModelNameError, WeightsError: CLIP's name or tag is none. WeightsError: another activation.
    """
    (name, ours), (wanted, theirs) = _activation(cfg), _activation(own)
    if ours and theirs and ours != theirs:
        raise WeightsError(
            f"{model} was trained with a CLIP that computes {theirs}, and {CLIP_NAME} {name} with {CLIP_WEIGHTS} "
            f"{cfg.MODEL.CMPF.CLIP.PRETRAINED!r} computes {ours}, which would give wrong embeddings: leave both out, "
            f"or set {CLIP_NAME} {wanted}"
        )


def _activation(cfg: Config) -> tuple[str, str]:
    """The variant of CLIP that would be built, and what it computes; "" where a plug-in may build it, or it is tiny."""
    clip = cfg.MODEL.CMPF.CLIP
    if clip.NAME == tiny.CLIP_NAME or cfg.MODEL.CMPF.PLUGINS:
        return clip.NAME, ""
    check_clip(clip.NAME, clip.PRETRAINED)
    variant = variant_for(clip.NAME, clip.PRETRAINED)
    return variant, "QuickGELU" if is_quick_gelu(variant) else "GELU"


def check_before_download(cfg: Config, *, build: Callable[[Config], CMPF]) -> None:
    """Refuses what cannot be right, as long as nothing has been downloaded for it.

    Args:
        build: the network of a configuration, on torch's default device.
    Raises:
        ModelNameError, WeightsError: CLIP's name or tag is none, or MODEL.WEIGHTS does not fit the model.
    """
    if not _downloads(cfg):
        return
    clip = cfg.MODEL.CMPF.CLIP
    if not registered("clip"):  # else a name may be one of those
        check_clip(clip.NAME, clip.PRETRAINED)
    if cfg.MODEL.WEIGHTS and not cfg.MODEL.CMPF.PLUGINS:  # whose parts need not work without memory
        with torch.random.fork_rng(devices=[]), torch.device("meta"):  # shapes without memory
            skeleton = build(with_overrides(cfg, WITHOUT_WEIGHTS))
        weights.check(skeleton, cfg.MODEL.WEIGHTS, allow_unused=cfg.MODEL.ALLOW_UNUSED_WEIGHTS)


def _downloads(cfg: Config) -> bool:
    """Whether an encoder would have to be downloaded."""
    clip, masks = cfg.MODEL.CMPF.CLIP, cfg.TEST.ENSEMBLE
    online = masks.ENABLED and masks.SOURCE == "online"
    sams = [(cfg.MODEL.CMPF.SAM.NAME, cfg.MODEL.CMPF.SAM.CHECKPOINT)]
    sams += [mask_sam(cfg)] if online else []
    published = clip.NAME != tiny.CLIP_NAME and tag_record(clip.NAME, clip.PRETRAINED)
    if published and cached_file(clip.NAME, clip.PRETRAINED) is None:
        return True
    return any(name in PUBLISHED and not file and not published_path(name).is_file() for name, file in sams)
