# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""A model that exports in seconds, and its network in the place of a file."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from helpers.tiny_model import tiny_config
from torch import Tensor

from cmpf.export.network import ExportNetwork
from cmpf.export.programs import ONNX_PACKAGES, describe
from cmpf.factory import build_predictor
from cmpf.predictor import Predictor

# Four decoder layers: the fourth is the first that the Query Injector reaches, and reads injected features.
FEW_LAYERS = (
    "MODEL.MASK_FORMER.DEC_LAYERS", 5,
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 1,
    "MODEL.CMPF.SAM_BRANCH.LAYERS", 1,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 10,
    "INPUT.MIN_SIZE_TEST", 96,
    "INPUT.MAX_SIZE_TEST", 160,
)  # fmt: skip

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in ONNX_PACKAGES),
    reason=f"needs {', '.join(ONNX_PACKAGES)}: pip install 'cmpf[export]'",
)


def small_predictor(name: str = "cmpf_tiny", *overrides: object) -> Predictor:
    """The tiny model with few layers; encoders and decoder have random weights, the same in every call."""
    torch.manual_seed(0)
    return build_predictor(tiny_config(name, [*FEW_LAYERS, *overrides]))


class NetworkRunner:
    """A Runner without a file."""

    def __init__(self, predictor: Predictor, *, size: tuple[int, int] | None = None) -> None:
        self.network = ExportNetwork(predictor.model)
        self.metadata: dict[str, Any] = describe(predictor, size=size, pretrained="")
        self.sizes: list[tuple[int, ...]] = []  # of the images that came, with padding

    def __call__(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        self.sizes.append(tuple(inputs["image"].shape[-2:]))
        with torch.no_grad():
            mask_cls, mask_pred = self.network(**inputs)
        return mask_cls, mask_pred
