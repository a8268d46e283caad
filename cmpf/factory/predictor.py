# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Builds predictors from a configuration or a model's name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cmpf.config import Config, get_cfg
from cmpf.data import known_vocabularies
from cmpf.errors import ConfigError
from cmpf.factory.model import build_mask_ensemble, build_model, evaluation_size
from cmpf.factory.provision import check_activation
from cmpf.inference import MaskEnsembleSettings
from cmpf.inference.settings import TASKS
from cmpf.model import CMPF
from cmpf.predictor import Predictor
from cmpf.weights.hub import find_model
from cmpf.weights.saving import Saver
from cmpf.weights.zoo import save_small_file

logger = logging.getLogger(__name__)


def build_predictor(cfg: Config) -> Predictor:
    """Builds a predictor with the configured model in evaluation mode; leaves the random state unchanged."""
    short_side, max_side = evaluation_size(cfg)
    with torch.random.fork_rng(devices=[]):  # the initialization of layers uses torch's generator
        model = build_model(cfg).eval()
    return Predictor(
        model=model,
        short_side=short_side,
        max_side=max_side,
        mask_ensemble=_mask_ensemble(cfg) if cfg.TEST.ENSEMBLE.ENABLED else None,
        known=list(known_vocabularies()),
        saver=_saver(cfg),
        cfg=cfg,
    )


def _mask_ensemble(cfg: Config) -> MaskEnsembleSettings:
    """The configured ensemble, applied to every task: users want the best masks, not the published arithmetic."""
    return replace(build_mask_ensemble(cfg), tasks=frozenset(TASKS) - {"all"})


def _saver(cfg: Config) -> Saver:
    def save(model: CMPF, folder: Path, **card: Any) -> list[Path]:
        from cmpf.factory.pretrained import save_pretrained  # prediction does not need it

        return save_pretrained(cfg, model, folder, **card)

    return save


def load_predictor(
    model: str | Path,
    *,
    device: str | None = None,
    weights: str | Path | None = None,
    overrides: Sequence[Any] = (),
    plugins: Sequence[str] = (),
    allow_unused_weights: bool = False,
) -> Predictor:
    """See cmpf.load."""
    for name, values in (("overrides", overrides), ("plugins", plugins)):
        if isinstance(values, str):  # a string is a sequence, too
            raise ConfigError(f"{name} must be a list, got {values!r}")
    config, settings, _ = find_model(str(model), need_weights=False, plugins=plugins)
    if device:
        settings += ["MODEL.DEVICE", device]
    if allow_unused_weights:
        settings += ["MODEL.ALLOW_UNUSED_WEIGHTS", True]
    cfg = get_cfg(config, [*settings, *overrides], plugins=plugins)  # reports issues before a download
    own_weights = None
    if weights is None:
        if Path(model).suffix not in (".yaml", ".yml"):  # a YAML file does not say how weights were trained
            check_activation(cfg, get_cfg(config, settings), model=str(model))
        _, _, own_weights = find_model(str(model), need_weights=True, plugins=plugins)
    if chosen := weights or own_weights:
        settings += ["MODEL.WEIGHTS", str(chosen)]
        cfg = get_cfg(config, [*settings, *overrides], plugins=plugins)
    if not cfg.MODEL.WEIGHTS:
        logger.warning(
            "%s names no weights, so the decoder is untrained and its masks mean nothing; give weights=FILE or "
            "MODEL.WEIGHTS FILE",
            config,
        )
    predictor = build_predictor(cfg)
    if own_weights is not None and not plugins and not allow_unused_weights and _keeps_weights(overrides):
        save_small_file(str(model), predictor.model, own_weights)
    return predictor


def _keeps_weights(overrides: Sequence[Any]) -> bool:
    """Whether overrides leave the network unchanged, so that the model holds exactly the weights of the zoo's file."""
    return all(
        not str(key).startswith("MODEL.") or str(key).startswith(("MODEL.MASK_FORMER.TEST.", "MODEL.DEVICE"))
        for key in overrides[::2]
    )
