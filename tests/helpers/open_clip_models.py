# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Small models that OpenCLIP knows by name during a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
from helpers.encoders import CONVNEXT, RESNET, TEXT
from open_clip import factory, pretrained

CONVNEXT_CONFIG = {"embed_dim": 24, "vision_cfg": CONVNEXT, "text_cfg": TEXT}
RESNET_CONFIG = {"embed_dim": 24, "vision_cfg": RESNET, "text_cfg": TEXT}


def register_convnext(monkeypatch: pytest.MonkeyPatch, folder: Path) -> str:
    """A small ConvNeXt; returns its name."""
    _register(monkeypatch, folder, {"convnext_small_test": CONVNEXT_CONFIG})
    return "convnext_small_test"


def register_resnet(monkeypatch: pytest.MonkeyPatch, folder: Path) -> str:
    """A small ResNet and its QuickGELU variant, of which only weights with QuickGELU are published."""
    quick = {**RESNET_CONFIG, "quick_gelu": True}
    _register(monkeypatch, folder, {"RNsmall": RESNET_CONFIG, "RNsmall-quickgelu": quick})
    record = {"hf_hub": "someone/rn/", "quick_gelu": True}
    monkeypatch.setitem(pretrained._PRETRAINED, "RNsmall", {"openai": record})
    return "RNsmall"


def new_model(config: dict[str, Any]) -> Any:
    """OpenCLIP's own model with other random weights at each call."""
    return open_clip.CLIP(**config)


def activation(model: Any) -> type:
    """What the text tower's first MLP computes between its two layers."""
    text = model.text if hasattr(model, "text") else model
    return type(text.transformer.resblocks[0].mlp.gelu)


def _register(monkeypatch: pytest.MonkeyPatch, folder: Path, configs: dict[str, Any]) -> None:
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    for name, config in configs.items():
        path = folder / f"{name}.json"
        path.write_text(json.dumps(config))
        open_clip.add_model_config(path)
