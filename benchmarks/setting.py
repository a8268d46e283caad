# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Device and size of benchmark cases, and inputs that several cases share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from cmpf.encoders.clip import CLIP
from cmpf.encoders.clip_factory import build_clip
from cmpf.encoders.sam import SAMEncoder, build_sam
from cmpf.types import ClassEmbeddings

T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """Device and size of a benchmark.

    Attributes:
        device: device of all tensors.
        quick: use small sizes, which only test that a case runs.
    """

    device: torch.device
    quick: bool

    def pick(self, full: T, quick: T) -> T:
        """Selects one of two values by `quick`."""
        return quick if self.quick else full

    def random(self, *shape: int, seed: int = 0) -> Tensor:
        """Normally distributed numbers, the same in every call."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(shape, generator=generator).to(self.device)


@lru_cache(maxsize=1)
def clip_of(setting: Setting) -> CLIP:
    """The published ConvNeXt-L CLIP with random weights; quick: the tiny CLIP."""
    torch.manual_seed(0)
    name = setting.pick("convnext_large_d_320", "cmpf_tiny")
    return build_clip(name=name, pretrained="").to(setting.device)


@lru_cache(maxsize=1)
def sam_of(setting: Setting) -> SAMEncoder:
    """ViT-B with random weights; quick: the tiny SAM."""
    torch.manual_seed(0)
    sam = build_sam(name=setting.pick("vit_b", "cmpf_tiny"), checkpoint="random")
    for name, parameter in sam.named_parameters():
        if "rel_pos" in name or name.endswith(
            "pos_embed"
        ):  # initialized to zeros, which would hide their effect
            torch.nn.init.normal_(parameter, std=0.1)
    return sam.to(setting.device)


def vocabulary_of(setting: Setting, classes: int, width: int) -> ClassEmbeddings:
    """Random unit text embeddings of classes with 1 to 4 synonyms."""
    counts = torch.tensor([1 + index % 4 for index in range(classes)])
    rows = F.normalize(setting.random(int(counts.sum()), width, seed=classes), dim=-1)
    owners = torch.arange(classes).repeat_interleave(counts)
    return ClassEmbeddings(matrix=rows, class_of_row=owners.to(setting.device), num_classes=classes)


def blobs(setting: Setting, count: int, size: Sequence[int], seed: int = 0) -> Tensor:
    """(count, h, w) realistic mask logits: one disk each, with a soft and irregular border."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    y, x = torch.rand(count, 1, 1, generator=generator), torch.rand(count, 1, 1, generator=generator)
    radius = 0.05 + 0.25 * torch.rand(count, 1, 1, generator=generator)
    rows, columns = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    distance = ((rows - y) ** 2 + (columns - x) ** 2).sqrt()
    noise = torch.randn(1, count, 12, 12, generator=generator)
    rough = F.interpolate(noise, size=(height, width), mode="bilinear", align_corners=False)[0]
    return (8 * (radius - distance) / radius + rough).clamp(-12, 12).to(setting.device)


def confident(setting: Setting, queries: int, classes: int, count: int, seed: int = 0) -> Tensor:
    """(queries, classes + 1) log class probabilities: the first `count` queries have a class, the others are void."""
    logits = setting.random(queries, classes + 1, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (queries,), generator=generator)
    labels[count:] = classes
    bonus = 12 + 2 * torch.rand(queries, generator=generator)
    logits[torch.arange(queries), labels.to(logits.device)] += bonus.to(logits.device)
    return logits.log_softmax(dim=-1)
