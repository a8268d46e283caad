# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Frozen encoders: text, SAM, CLIP."""

from __future__ import annotations

import torch

from benchmarks.harness import Pair
from benchmarks.published.attention import with_published_attention
from benchmarks.published.linear import plain_linear
from benchmarks.published.text import encode_text
from benchmarks.setting import Setting, clip_of, sam_of
from cmpf.encoders.text import TEMPLATES

NAMES = ("cat", "traffic light", "dining table", "stop sign", "wine glass", "teddy bear", "road", "wall")


def text(setting: Setting) -> Pair:
    """112 prompts: 8 names in the 14 templates."""
    clip = clip_of(setting)
    prompts = [template.format(name) for name in NAMES for template in TEMPLATES]
    return Pair(
        ours=lambda: clip.encode_text(prompts),
        published=plain_linear()(lambda: encode_text(clip.model, clip.tokenizer, prompts, setting.device)),
        tolerance=1e-4,
    )


def sam_encoder(setting: Setting) -> Pair:
    """SAM's image encoder on one square image."""
    sam = sam_of(setting)
    plain = with_published_attention(sam)
    image = setting.random(1, 3, sam.input_size, sam.input_size)
    return Pair(ours=lambda: sam(image), published=plain_linear()(lambda: plain(image)), tolerance=1e-4)


def clip_trunk(setting: Setting) -> Pair:
    """CLIP's image tower on one image of 800 x 1024 pixels; published: timm's trunk, stage by stage."""
    clip = clip_of(setting)
    trunk = clip.model.visual.trunk
    image = setting.random(1, 3, *setting.pick((800, 1024), (256, 320)))

    @plain_linear()
    def plain() -> list[torch.Tensor]:
        with torch.no_grad():
            levels = [trunk.stem(image)]
            for stage in trunk.stages:
                levels.append(stage(levels[-1]))
            return [*levels[1:], trunk.norm_pre(levels[-1])]

    def ours() -> list[torch.Tensor]:
        features = clip(image)
        return [*features.levels.values(), features.dense]

    return Pair(ours=ours, published=plain, tolerance=1e-4)
