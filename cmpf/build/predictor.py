# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Predictors from a configuration or a name."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from cmpf.build.model import build_mask_ensemble, build_model
from cmpf.build.zoo import zoo, zoo_weights
from cmpf.config import find_config, get_cfg
from cmpf.data import dataset_names, get_vocabulary
from cmpf.errors import ModelNameError
from cmpf.predictor import Predictor

FOLDER_CONFIG, FOLDER_WEIGHTS = "config.yaml", "model_final.safetensors"


def build_predictor(cfg: CfgNode) -> Predictor:
    """A predictor of the configured model, with MODEL.WEIGHTS loaded."""
    return Predictor(
        model=build_model(cfg),
        short_side=cfg.INPUT.MIN_SIZE_TEST,
        max_side=cfg.INPUT.MAX_SIZE_TEST,
        mask_ensemble=build_mask_ensemble(cfg) if cfg.TEST.ENSEMBLE.ENABLED else None,
        known=[get_vocabulary(name) for name in dataset_names()],
    )


def load_predictor(
    model: str | Path, *, device: str | None = None, weights: str | Path | None = None
) -> Predictor:
    """See cmpf.load."""
    config, overrides, own_weights = _find(str(model), need_weights=weights is None)
    if device:
        overrides += ["MODEL.DEVICE", device]
    if chosen := weights or own_weights:
        overrides += ["MODEL.WEIGHTS", str(chosen)]
    return build_predictor(get_cfg(config, overrides))


def _find(model: str, *, need_weights: bool) -> tuple[Path, list[Any], Path | None]:
    """Config, overrides and weights (None = those of the config) of a zoo name, a folder or a config's path."""
    known = zoo()
    if model in known:
        entry = known[model]
        overrides = [part for pair in entry.overrides.items() for part in pair]
        return find_config(entry.config), overrides, zoo_weights(model) if need_weights else None
    path = Path(model)
    if path.is_dir():
        missing = [name for name in (FOLDER_CONFIG, FOLDER_WEIGHTS) if not (path / name).is_file()]
        if missing:
            raise ModelNameError(
                f"folder {model} holds no {' and no '.join(missing)}; train_net.py writes both"
            )
        return path / FOLDER_CONFIG, [], path / FOLDER_WEIGHTS
    if path.suffix in (".yaml", ".yml"):
        return find_config(model), [], None
    near = difflib.get_close_matches(model, known, n=1, cutoff=0.4)
    hint = f", did you mean {near[0]}?" if near else "."
    raise ModelNameError(
        f"model {model!r} is unknown{hint} Give one of {', '.join(known)}, the path of a .yaml config, "
        f"or a folder with {FOLDER_CONFIG} and {FOLDER_WEIGHTS}"
    )
