# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Cases of the network: frozen encoders (text, SAM, CLIP), deformable attention, prediction heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import Pair
from benchmarks.published.network import encode_text, plain_linear, predict, with_published_attention
from benchmarks.setting import Setting, clip_of, sam_of, vocabulary_of
from cmpf.encoders.text import TEMPLATES
from cmpf.modeling.deformable.encoder import pixel_centers
from cmpf.modeling.deformable.module import MultiScaleDeformableAttention
from cmpf.modeling.heads import MaskFeatures, PredictionHead

NAMES = ("cat", "traffic light", "dining table", "stop sign", "wine glass", "teddy bear", "road", "wall")
EMBED_DIM = 768


def text(setting: Setting) -> Pair:
    """CLIP's text tower on 112 prompts: 8 names in 14 templates."""
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
    """CLIP's image tower on one image of 800 x 1024 pixels; published: timm's trunk, called stage by stage."""
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


def deformable_forward(setting: Setting) -> Pair:
    """One layer of the pixel decoder's attention in inference, for 1024 x 1024 pixels (21,504 queries)."""
    module, plain, inputs = _deformable(setting)

    def call(attention: nn.Module) -> Any:
        with torch.no_grad():
            return attention(*inputs)

    return Pair(ours=lambda: call(module), published=lambda: call(plain), tolerance=1e-4)


def deformable_backward(setting: Setting) -> Pair:
    """The same layer with its gradients."""
    module, plain, (query, references, value, shapes, sizes) = _deformable(setting)
    query, value = query.requires_grad_(), value.requires_grad_()
    direction = setting.random(*query.shape, seed=5)

    def call(attention: nn.Module) -> Any:
        result = attention(query, references, value, shapes, sizes)
        parameters = [p for p in attention.parameters() if p.requires_grad]
        return torch.autograd.grad((result * direction).sum(), [query, value, *parameters])

    return Pair(ours=lambda: call(module), published=lambda: call(plain), tolerance=1e-3)


def heads(setting: Setting, classes: int) -> Pair:
    """Ten prediction heads in inference, as in a decoder of nine layers: attention masks, and the last prediction.

    CMPF computes attention masks at the size of the attention, and classes only in the last head.
    """
    torch.manual_seed(0)
    dim, queries = setting.pick((256, 250), (64, 50))
    height, width = setting.pick((200, 256), (48, 64))
    head = PredictionHead(dim=dim, mask_dim=dim, embed_dim=EMBED_DIM).to(setting.device).eval()
    words = vocabulary_of(setting, classes, EMBED_DIM)
    features = setting.random(1, dim, height, width)
    contents = setting.random(10, 1, queries, dim, seed=1).unbind()
    sizes = [(height // d, width // d) for d in (8, 4, 2)]

    def ours() -> Any:
        masks = MaskFeatures(features)
        attention_masks = [
            masks.masks_at(head(content)[1], sizes[index % 3]) for index, content in enumerate(contents[:-1])
        ]
        last = head.predict(*head(contents[-1]), masks, words)
        return [last["pred_logits"], last["pred_masks"], *attention_masks]

    def published() -> Any:
        outputs = [
            predict(head, content, features, words, sizes[i % 3]) for i, content in enumerate(contents)
        ]
        last = outputs[-1][0]
        return [last["pred_logits"], last["pred_masks"], *(attend for _, attend in outputs[:-1])]

    return Pair(ours=_without_grad(ours), published=_without_grad(published), tolerance=1e-3)


def _without_grad(run: Callable[[], Any]) -> Callable[[], Any]:
    def call() -> Any:
        with torch.no_grad():
            return run()

    return call


def _deformable(setting: Setting) -> tuple[nn.Module, nn.Module, Any]:
    """CMPF's attention, the published one with the same weights, and their inputs."""
    torch.manual_seed(0)
    dim, side = setting.pick((256, 1024), (64, 256))
    module = MultiScaleDeformableAttention(dim=dim, heads=8, points=4, levels=3)
    for layer in (module.sampling_offsets, module.attention_weights):
        nn.init.normal_(layer.weight, std=0.05)
    module = module.to(setting.device)
    shapes = [(side // stride, side // stride) for stride in (32, 16, 8)]
    references = torch.cat([pixel_centers(h, w, device=setting.device) for h, w in shapes])[None]
    sizes = torch.tensor([[w, h] for h, w in shapes], dtype=torch.float32, device=setting.device)
    places = sum(h * w for h, w in shapes)
    query: Tensor = setting.random(1, places, dim, seed=2)
    value: Tensor = setting.random(1, places, dim, seed=3)
    plain = with_published_attention(nn.ModuleList([module]))[0]
    return module, plain, (query, references, value, shapes, sizes)
