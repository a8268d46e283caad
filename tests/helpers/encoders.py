# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Small encoders of the real classes, with weights that depend on names only; and ones that OpenCLIP knows by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import open_clip
import pytest
import torch
from helpers.modeling import random
from open_clip import factory, pretrained
from torch import Tensor, nn

from cmpf.encoders.clip import CLIP
from cmpf.encoders.sam import SAMEncoder
from cmpf.encoders.tiny import build_tiny_sam

M = TypeVar("M", bound=nn.Module)
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2}
CONVNEXT = {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "mlp", "image_size": 64}
RESNET = {"layers": [1, 2, 1, 1], "width": 8, "image_size": 64, "head_width": 64}


def fill(module: M) -> M:
    """Weights and BatchNorm statistics of a sensible size, from their names."""
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if not value.is_floating_point() or name.endswith("logit_scale"):
                continue
            noise = random(name, *value.shape)
            if name.endswith("running_var"):
                value.copy_(1 + 0.1 * noise.abs())
            elif value.ndim == 1:
                value.copy_(1 + 0.1 * noise if name.endswith("weight") else 0.1 * noise)
            elif "embedding" in name:
                value.copy_(0.3 * noise)
            else:
                value.copy_(noise / value[0].numel() ** 0.5)
    return module


def open_clip_model(*, vision: dict[str, Any], custom_text: bool = False, **text: Any) -> Any:
    """OpenCLIP's own model, E = 24."""
    kind = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    return fill(kind(embed_dim=24, vision_cfg=dict(vision), text_cfg={**TEXT, **text})).eval()


def small_clip(*, vision: dict[str, Any] = CONVNEXT, **options: Any) -> CLIP:
    """A CLIP of the small size."""
    model = open_clip_model(vision=vision, **options)
    return CLIP(name="small", model=model, tokenizer=open_clip.tokenize)


def small_sam() -> SAMEncoder:
    """The tiny SAM, not trained: 256 x 256 input, embedding (B, 64, 16, 16)."""
    return SAMEncoder(name="small", sam=fill(build_tiny_sam()))


def random_images(*shape: int, name: str = "pictures") -> Tensor:
    """Normalized images of noise, seeded by the name."""
    return random(name, *shape)


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
