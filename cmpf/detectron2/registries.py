# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Registers CMPF's parts in Detectron2's registries, and makes parts from there available to CMPF's models.

A part in BACKBONE_REGISTRY, SEM_SEG_HEADS_REGISTRY or TRANSFORMER_DECODER_REGISTRY is added to cmpf.registry when a
configuration names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, SEM_SEG_HEADS_REGISTRY, Backbone
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from cmpf.config import Config, with_overrides
from cmpf.detectron2.config import BACKBONE_NAME, HEAD_NAME, native_config
from cmpf.encoders.clip import CLIP
from cmpf.errors import ConfigError
from cmpf.factory.encoders import build_clip_encoder
from cmpf.factory.model import build_decoder, build_pixel_decoder, build_sam_branch
from cmpf.registry import register, registered
from cmpf.types import ClassEmbeddings, DecoderOutput

TRANSFORMER_DECODER_REGISTRY = Registry("TRANSFORMER_DECODER")
TRANSFORMER_DECODER_REGISTRY.__doc__ = "Transformer decoders, called with (cfg, in_channels)."
EMBEDDING, SAM = "embedding", "sam"  # keys of a head's input_shape besides CLIP's feature maps
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
# Slot -> Detectron2's registry, and the key that selects a part.
_BRIDGED: dict[str, tuple[Any, str]] = {
    "pixel_decoder": (SEM_SEG_HEADS_REGISTRY, "PIXEL_DECODER_NAME"),
    "transformer_decoder": (TRANSFORMER_DECODER_REGISTRY, "TRANSFORMER_DECODER_NAME"),
}
_building: ContextVar[CfgNode] = ContextVar("building")  # the configuration of the model that is being built


@BACKBONE_REGISTRY.register()
class FrozenCLIP(Backbone):  # type: ignore[misc]
    """CLIP's image tower as a Detectron2 backbone, also for custom models.

    Args:
        cfg: Detectron2's configuration with CMPF's keys; MODEL.CMPF.CLIP selects the CLIP.
        input_shape: unused.
    """

    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec | None = None) -> None:
        super().__init__()
        self.clip = build_clip_encoder(native_config(cfg))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """res2..res5 (B, C, h, w) of images (B, 3, H, W) normalized by MODEL.PIXEL_MEAN and PIXEL_STD."""
        levels: dict[str, Tensor] = self.clip(images).levels
        return levels

    @property
    def size_divisibility(self) -> int:
        """Height and width of images must be multiples of it."""
        return STRIDES["res5"]

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each map, and the width of CLIP's joint space under "embedding"."""
        maps = {name: ShapeSpec(channels=c, stride=STRIDES[name]) for name, c in self.clip.channels.items()}
        return {**maps, EMBEDDING: ShapeSpec(channels=self.clip.embed_dim)}


@SEM_SEG_HEADS_REGISTRY.register()
class CMPFHead(nn.Module):
    """Pixel decoder, SAM branch and transformer decoder of a configuration.

    Args:
        cfg: Detectron2's configuration with CMPF's keys.
        input_shape: the output shape of FrozenCLIP; with injectors also "sam", the channels of SAM's embedding.
    Raises:
        ConfigError: injectors are enabled, but "sam" is missing.
    """

    def __init__(self, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> None:
        super().__init__()
        native, sam = native_config(cfg), None
        if native.MODEL.CMPF.QUERY_INJECTOR.ENABLED or native.MODEL.CMPF.FEATURE_INJECTOR.ENABLED:
            if SAM not in input_shape:
                raise ConfigError(
                    f'{HEAD_NAME}: injectors are on, and input_shape has no "{SAM}" with the channels of SAM\'s '
                    "embedding; give it, or set MODEL.CMPF.QUERY_INJECTOR.ENABLED and FEATURE_INJECTOR.ENABLED False"
                )
            sam = SimpleNamespace(embed_channels=input_shape[SAM].channels)
        clip: Any = SimpleNamespace(
            channels={name: input_shape[name].channels for name in STRIDES},
            embed_dim=input_shape[EMBEDDING].channels,
        )
        with bridged(cfg):
            self.pixel_decoder = build_pixel_decoder(native, clip)
            self.sam_branch = build_sam_branch(native, sam)  # type: ignore[arg-type]
            self.decoder = build_decoder(native, clip, sam)  # type: ignore[arg-type]

    def forward(
        self, features: dict[str, Tensor], classes: ClassEmbeddings, sam: Tensor | None = None
    ) -> DecoderOutput:
        """Masks and class logits.

        Args:
            features: res2 .. res5 of CLIP.
            classes: text embeddings, void last.
            sam: SAM's embedding (B, S, hs, ws).
        """
        pixels = self.pixel_decoder(features)
        branch = self.sam_branch(sam) if self.sam_branch is not None and sam is not None else None
        output: DecoderOutput = self.decoder(
            pixels.multi_scale, pixels.mask_features, classes, sam_embedding=sam, sam_features=branch
        )
        return output


@contextmanager
def bridged(cfg: CfgNode) -> Iterator[Config]:
    """A context in which the parts that a configuration names are also looked up in Detectron2's registries.

    Yields:
        CMPF's part of the configuration.
    Raises:
        ConfigError: MODEL.BACKBONE.NAME or MODEL.SEM_SEG_HEAD.NAME cannot be part of a CMPF model.
    """
    native = native_config(cfg)
    head = cfg.MODEL.SEM_SEG_HEAD
    if head.NAME != HEAD_NAME:
        raise ConfigError(
            f"MODEL.SEM_SEG_HEAD.NAME {head.NAME}: a CMPF model has {HEAD_NAME}, of which PIXEL_DECODER_NAME and "
            "TRANSFORMER_DECODER_NAME beside it choose the parts, from CMPF's registry or Detectron2's"
        )
    for slot, (registry, key) in _BRIDGED.items():
        _add_part(slot, registry, head[key])
    if (name := cfg.MODEL.BACKBONE.NAME) != BACKBONE_NAME:
        _add_part("clip", BACKBONE_REGISTRY, name)
        native = with_overrides(native, {"MODEL.CMPF.CLIP.NAME": name})
    token = _building.set(cfg)
    try:
        yield native
    finally:
        _building.reset(token)


def _add_part(slot: str, registry: Any, name: str) -> None:
    """Adds a part of Detectron2's registry to CMPF's, unless CMPF has one of this name."""
    if name in registered(slot) or name not in registry:
        return
    build = {"clip": _clip, "pixel_decoder": _pixel_decoder, "transformer_decoder": _transformer_decoder}[
        slot
    ]
    register(slot, name)(build(registry, name))


def _clip(registry: Any, name: str) -> Callable[..., Any]:
    def build(**_: Any) -> CLIP:
        backbone = registry.get(name)(_building.get(), ShapeSpec(channels=3))
        clip = getattr(backbone, "clip", backbone)
        if isinstance(clip, CLIP):
            return clip
        raise ConfigError(
            f"MODEL.BACKBONE.NAME {name}: gives a {type(clip).__name__}, and CMPF needs a frozen CLIP, a "
            f"cmpf.encoders.clip.CLIP; leave MODEL.BACKBONE.NAME {BACKBONE_NAME} and choose MODEL.CMPF.CLIP.NAME"
        )

    return build


def _pixel_decoder(registry: Any, name: str) -> Callable[..., Any]:
    def build(*, in_channels: dict[str, int], **_: Any) -> Any:
        shapes = {level: ShapeSpec(channels=c, stride=STRIDES[level]) for level, c in in_channels.items()}
        return registry.get(name)(_building.get(), shapes)

    return build


def _transformer_decoder(registry: Any, name: str) -> Callable[..., Any]:
    def build(*, in_channels: int, **_: Any) -> Any:
        return registry.get(name)(_building.get(), in_channels)

    return build
