# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Functions for Detectron2's LazyConfig files in configs/lazy, in addition to CMPF's constructors."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import nn

from cmpf.config import Config
from cmpf.data.loader import InferenceLoader
from cmpf.detectron2.datasets import naming_itself
from cmpf.engine.optimizer import build_optimizer
from cmpf.factory.evaluation import build_test_loader
from cmpf.factory.vocabularies import build_dataset

GRADIENT_NORM = "grad_norm"  # name of the scalar in the event storage


def parameter_groups(
    model: nn.Module, *, lr: float, weight_decay: float, weight_decay_norm: float, weight_decay_embed: float
) -> list[dict[str, Any]]:
    """The parameter groups of CMPF's optimizer, with separate weight decays for normalization and embeddings."""
    optimizer = build_optimizer(
        model,
        lr=lr,
        weight_decay=weight_decay,
        weight_decay_norm=weight_decay_norm,
        weight_decay_embed=weight_decay_embed,
    )
    return optimizer.param_groups


def adamw(params: list[dict[str, Any]], *, lr: float, clip_norm: float) -> torch.optim.AdamW:
    """AdamW that clips the norm of all gradients together before each step.

    Args:
        params: see `parameter_groups`.
        lr: learning rate.
        clip_norm: maximum L2 norm.
    """
    optimizer = torch.optim.AdamW(params, lr=lr)
    clip_before_steps(optimizer, clip_norm)
    return optimizer


def clip_before_steps(optimizer: torch.optim.Optimizer, clip_norm: float) -> None:
    """Makes an optimizer clip the norm of all gradients together before each step, and log it to the event storage."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def clip(*_: object) -> None:
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
        if has_event_storage():
            get_event_storage().put_scalar(GRADIENT_NORM, float(norm), smoothing_hint=False)

    optimizer.register_step_pre_hook(clip)


def test_loader(cfg: Config, name: str) -> InferenceLoader:
    """Images of a dataset at their test size; samples name the dataset whose classes are used."""
    return build_test_loader(cfg, naming_itself(build_dataset(cfg, name), name))
