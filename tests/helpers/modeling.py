# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Small trained parts with weights that depend on parameter names only, and small inputs for them."""

from __future__ import annotations

import zlib
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from cmpf.modeling.injectors import FeatureInjector, QueryInjector
from cmpf.modeling.pixel_decoder import PixelDecoder
from cmpf.modeling.sam_branch import SAMBranch
from cmpf.modeling.transformer_decoder import TransformerDecoder
from cmpf.types import ClassEmbeddings, Targets

M = TypeVar("M", bound=nn.Module)
CHANNELS = {"res2": 8, "res3": 12, "res4": 16, "res5": 20}
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


def generator(name: str) -> torch.Generator:
    """A random generator seeded by a name."""
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def random(name: str, *shape: int) -> Tensor:
    """Standard normal numbers that depend on the name only."""
    return torch.randn(shape, generator=generator(name))


def fill_by_name(module: M) -> M:
    """Gives each parameter values that depend on its name only, of about the size that trained ones have."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            values = random(name, *parameter.shape)
            if parameter.ndim == 0:
                parameter.fill_(2.0)
            elif parameter.ndim == 1:
                parameter.copy_(1 + 0.05 * values if name.endswith("weight") else 0.1 * values)
            else:
                parameter.copy_(values / parameter[0].numel() ** 0.5)
    return module


def tiny_pixel_decoder(**changes: Any) -> PixelDecoder:
    options: dict[str, Any] = {
        "in_channels": CHANNELS,
        "dim": 16,
        "mask_dim": 16,
        "heads": 2,
        "points": 2,
        "layers": 2,
        "dim_feedforward": 24,
        "norm_groups": 4,
    }
    return fill_by_name(PixelDecoder(**{**options, **changes})).eval()


def tiny_sam_branch(**changes: Any) -> SAMBranch:
    options: dict[str, Any] = {
        "in_channels": 10,
        "dim": 16,
        "heads": 2,
        "points": 2,
        "layers": 2,
        "dim_feedforward": 24,
        "norm_groups": 4,
        "flat_levels": 0,
    }
    return fill_by_name(SAMBranch(**{**options, **changes})).eval()


def tiny_decoder(**changes: Any) -> TransformerDecoder:
    options: dict[str, Any] = {
        "in_channels": 16,
        "dim": 16,
        "mask_dim": 16,
        "embed_dim": 6,
        "queries": 5,
        "heads": 2,
        "layers": 4,
        "dim_feedforward": 24,
        "sam_channels": 10,
        "sam_feature_channels": 16,
        "query_injector": QueryInjector,
        "feature_injector": FeatureInjector,
        "keep_positions": False,
    }
    return fill_by_name(TransformerDecoder(**{**options, **changes})).eval()


def clip_levels(batch: int, height: int, width: int, *, name: str = "levels") -> dict[str, Tensor]:
    """Random maps of the four strides for padded images of height x width pixels."""
    return {
        level: random(name + level, batch, CHANNELS[level], height // stride, width // stride)
        for level, stride in STRIDES.items()
    }


def class_embeddings(*synonyms: int, width: int = 6) -> ClassEmbeddings:
    """Random unit rows: a class for each number, with that many synonyms."""
    matrix = nn.functional.normalize(random("text", sum(synonyms), width), dim=-1)
    index = torch.arange(len(synonyms)).repeat_interleave(torch.tensor(synonyms))
    return ClassEmbeddings(matrix=matrix, class_of_row=index, num_classes=len(synonyms))


def random_targets(*sizes: tuple[int, int, int], classes: int = 4) -> list[Targets]:
    """For each (N, H, W) an image's targets: N noisy masks of random classes."""
    source = generator("targets")
    return [
        {
            "labels": torch.randint(classes, (count,), generator=source),
            "masks": torch.rand(count, height, width, generator=source) > 0.5,
        }
        for count, height, width in sizes
    ]
