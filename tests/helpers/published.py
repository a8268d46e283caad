# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""State dicts in the published naming: the lists of names, and a small model's weights under those names."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
from helpers.golden import read_names, seeded
from helpers.tiny_model import tiny_config
from torch import Tensor

from cmpf import weights
from cmpf.config import Config
from cmpf.encoders.clip import CLIP
from cmpf.encoders.pair import FrozenEncoders
from cmpf.factory.encoders import build_sam_encoder
from cmpf.factory.model import (
    build_decoder,
    build_pixel_decoder,
    build_sam_branch,
    build_settings,
    build_train_vocabulary,
)
from cmpf.model import CMPF
from cmpf.types import Sample
from cmpf.weights.key_mapping import Parts, to_published

CLASS_WEIGHTS = "criterion.empty_weight"
# Random layers make all queries alike within a few layers; these parts of them speak more softly, so that queries
# go on to differ in masks and classes.
QUIET_PARTS = ("predictor.transformer_self_attention", "predictor.transformer_cross_attention_layers.")
QUIETER = 0.3


@cache
def published_shapes(model: str) -> dict[str, dict[str, tuple[int, ...]]]:
    """{"trained" or "frozen": {name: shape}} of the published "convnext_large" or "r50x64" model."""
    groups = read_names(f"published_names_{model}.json.gz")
    return {group: {name: tuple(shape) for name, shape in names.items()} for group, names in groups.items()}


def published_state(model: str) -> dict[str, Tensor]:
    """The whole published state dict without memory: tensors on the meta device."""
    groups = published_shapes(model)
    shapes = {**groups["trained"], **groups["frozen"]}
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def weights_as_published(model: CMPF, *, frozen: bool = True) -> dict[str, Tensor]:
    """Weights of a model whose widths need no projection of our own, under the published names.

    frozen: with the encoders' weights.
    """
    encoders = {name: dict(part.weights()) for name, part in model.frozen_encoders().items() if frozen}
    clip, sam = encoders.get("clip", {}), encoders.get("sam", {})
    return to_published(Parts(trained=model.trained_state_dict(), clip=clip, sam=sam, ignored=()))


def published_checkpoint(model: CMPF, *, frozen: bool = True) -> dict[str, Tensor]:
    """What the authors' training program saves of a model; see `weights_as_published`."""
    state = {name: value.clone() for name, value in weights_as_published(model, frozen=frozen).items()}
    return {**state, CLASS_WEIGHTS: torch.ones(134)}


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts have the same names and values."""
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def tiny_published_config(*overrides: object) -> Config:
    """The published arithmetic at the tiny size: nine layers, 3 flat levels of 4 points, scores as output."""
    published = (
        "MODEL.CMPF.SAM.CHECKPOINT", "",  # the weights that CMPF ships: random ones differ from run to run
        "MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS", 3,
        "MODEL.CMPF.SAM_BRANCH.LAYERS", 2,
        "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS", 4,
        "MODEL.MASK_FORMER.DEC_LAYERS", 10,
        "MODEL.MASK_FORMER.TEST.SEMANTIC_OUTPUT", "scores",
        "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", 0.0,
        "MODEL.MASK_FORMER.TEST.MASK_RECALL", False,
        "TEST.MIN_ISLAND_SHARE", 0.0,
        "TEST.ENSEMBLE.TASKS", ["semantic"],
    )  # fmt: skip
    return tiny_config("cmpf_tiny", [*published, *overrides])


def seeded_model(cfg: Config, clip: CLIP) -> CMPF:
    """A model around a CLIP, every trained weight filled from its published name, in evaluation mode."""
    sam = build_sam_encoder(cfg)
    train_vocabulary = build_train_vocabulary(cfg)
    model = CMPF(
        encoders=FrozenEncoders(
            clip=clip,
            sam=sam,
            mask_source=None,
            pixel_mean=cfg.MODEL.PIXEL_MEAN,
            pixel_std=cfg.MODEL.PIXEL_STD,
            size_divisibility=cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY,
        ),
        pixel_decoder=build_pixel_decoder(cfg, clip),
        sam_branch=build_sam_branch(cfg, sam),
        decoder=build_decoder(cfg, clip, sam),
        criterion=None,
        train_vocabulary=train_vocabulary,
        settings=build_settings(cfg),
        text_cache=None,
    )
    state = weights_as_published(model)
    own = {name: seeded(name, tuple(value.shape)) for name, value in state.items() if is_trained(name)}
    for name, value in own.items():
        if any(part in name for part in QUIET_PARTS):
            value *= QUIETER
    weights.load(model, own)
    return model.eval()


@torch.no_grad()
def center(model: CMPF, sample: Sample) -> CMPF:
    """Shifts three biases, so that on this image masks cover half of it and queries name different classes."""
    head = model.decoder.head
    for module, last, axes in (
        (model.pixel_decoder.mask_projection, model.pixel_decoder.mask_projection, (0, 2, 3)),
        (head.mask_mlp, head.mask_mlp.layers[2], (0, 1)),
        (head.class_mlp, head.class_mlp.layers[2], (0, 1)),
    ):
        outputs: list[Tensor] = []
        hook = module.register_forward_hook(lambda _m, _a, output, seen=outputs: seen.append(output))
        model.infer([sample])
        hook.remove()
        last.bias -= outputs[-1].mean(dim=axes)
    return model


def is_trained(name: str) -> bool:
    """Whether a published name is one of the trained half."""
    return not name.startswith(("backbone.", "sam."))
