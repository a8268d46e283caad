# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The composition root: the only library code that sees both the configuration and the parts, and wires them."""

from __future__ import annotations

from cmpf.factory.evaluation import build_evaluation, build_test_loader
from cmpf.factory.model import build_criterion, build_model, build_settings
from cmpf.factory.predictor import build_predictor, load_predictor
from cmpf.factory.training import build_train_loader, build_trainer

__all__ = [
    "build_criterion",
    "build_evaluation",
    "build_model",
    "build_predictor",
    "build_settings",
    "build_test_loader",
    "build_train_loader",
    "build_trainer",
    "load_predictor",
]
