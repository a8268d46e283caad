# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Builds models, losses, loaders, evaluators and trainers from a configuration.

Submodules are imported on first use, so that prediction does not load what only training and evaluation need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmpf.factory.evaluation import build_evaluation as build_evaluation
    from cmpf.factory.evaluation import build_test_loader as build_test_loader
    from cmpf.factory.losses import build_criterion as build_criterion
    from cmpf.factory.model import build_model as build_model
    from cmpf.factory.model import build_settings as build_settings
    from cmpf.factory.model import use_threads as use_threads
    from cmpf.factory.predictor import build_predictor as build_predictor
    from cmpf.factory.predictor import load_predictor as load_predictor
    from cmpf.factory.protocol import protocol_settings as protocol_settings
    from cmpf.factory.protocol import protocols_of as protocols_of
    from cmpf.factory.training import build_train_loader as build_train_loader
    from cmpf.factory.training import build_trainer as build_trainer

_NAMES = {
    "evaluation": ("build_evaluation", "build_test_loader"),
    "losses": ("build_criterion",),
    "model": ("build_model", "build_settings", "use_threads"),
    "predictor": ("build_predictor", "load_predictor"),
    "protocol": ("protocol_settings", "protocols_of"),
    "training": ("build_train_loader", "build_trainer"),
}
_MODULE_OF = {name: f"{__name__}.{module}" for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
