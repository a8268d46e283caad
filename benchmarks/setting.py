# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Where and how large: what every case is given, and inputs that several cases share."""

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
    """device: where tensors lie. quick: small sizes that show that a case runs, not how fast CMPF is."""

    device: torch.device
    quick: bool

    def pick(self, full: T, quick: T) -> T:
        """The size of this setting."""
        return quick if self.quick else full

    def random(self, *shape: int, seed: int = 0) -> Tensor:
        """Normal numbers, the same in every call."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(shape, generator=generator).to(self.device)


@lru_cache(maxsize=1)
def clip_of(setting: Setting) -> CLIP:
    """ConvNeXt-L of the published system with random weights; quick: the tiny CLIP."""
    torch.manual_seed(0)
    name = setting.pick("convnext_large_d_320", "cmpf_tiny")
    return build_clip(name=name, pretrained="").to(setting.device)


@lru_cache(maxsize=1)
def sam_of(setting: Setting) -> SAMEncoder:
    """ViT-B with random weights; quick: the tiny SAM."""
    torch.manual_seed(0)
    sam = build_sam(name=setting.pick("vit_b", "cmpf_tiny"), checkpoint="random")
    for name, parameter in sam.named_parameters():
        if "rel_pos" in name or name.endswith("pos_embed"):  # zeros at first, which would hide the bias
            torch.nn.init.normal_(parameter, std=0.1)
    return sam.to(setting.device)


def vocabulary_of(setting: Setting, classes: int, width: int) -> ClassEmbeddings:
    """Random unit rows of a vocabulary whose classes have 1, 2, 3 or 4 synonyms in turn."""
    counts = torch.tensor([1 + index % 4 for index in range(classes)])
    rows = F.normalize(setting.random(int(counts.sum()), width, seed=classes), dim=-1)
    owners = torch.arange(classes).repeat_interleave(counts)
    return ClassEmbeddings(matrix=rows, class_of_row=owners.to(setting.device), num_classes=classes)


def blobs(setting: Setting, count: int, size: Sequence[int], seed: int = 0) -> Tensor:
    """(count, h, w) mask logits that look like masks: one round thing each, with a soft and uneven border."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    y, x = torch.rand(count, 1, 1, generator=generator), torch.rand(count, 1, 1, generator=generator)
    radius = 0.05 + 0.25 * torch.rand(count, 1, 1, generator=generator)
    rows, columns = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    distance = ((rows - y) ** 2 + (columns - x) ** 2).sqrt()
    noise = torch.randn(1, count, 12, 12, generator=generator)
    rough = F.interpolate(noise, size=(height, width), mode="bilinear", align_corners=False)[0]
    return (8 * (radius - distance) / radius + rough).clamp(-12, 12).to(setting.device)


def confident(setting: Setting, queries: int, classes: int, sure: int, seed: int = 0) -> Tensor:
    """(queries, classes + 1) log class distribution: the first `sure` queries have a class, the others are void."""
    logits = setting.random(queries, classes + 1, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(0, classes, (queries,), generator=generator)
    chosen[sure:] = classes
    bonus = 12 + 2 * torch.rand(queries, generator=generator)
    logits[torch.arange(queries), chosen.to(logits.device)] += bonus.to(logits.device)
    return logits.log_softmax(dim=-1)
