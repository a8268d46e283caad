# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""CLIP with a convolutional image encoder: dense features, mask embeddings and text embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from cmpf.common.tensors import without_autocast
from cmpf.encoders.clip_backbones import ConvNeXtBackbone, ResNetBackbone
from cmpf.encoders.frozen import FrozenModule
from cmpf.errors import ModelNameError
from cmpf.types import CLIPFeatures

if TYPE_CHECKING:
    from typing_extensions import Self

TEXT_BATCH = 128  # prompts per forward pass of the text encoder
MAX_LOGIT_SCALE = 100.0


class Backbone(Protocol):
    """Interface of an image encoder. channels: of res2..res5; dense_channels: of the dense feature map."""

    embeds_empty_masks: bool

    channels: dict[str, int]
    dense_channels: int

    def features(self, images_B3HW: Tensor) -> CLIPFeatures: ...

    def trunk(self) -> tuple[nn.Module, ...]: ...

    def embed_masks(self, dense_BChw: Tensor, masks_BQHW: Tensor) -> tuple[Tensor, Tensor]: ...

    def embed_maps(self, dense_BChw: Tensor, weights_BNhw: Tensor) -> Tensor: ...

    def project_map(self, dense_BChw: Tensor, *, published_layout: bool) -> Tensor: ...


class CLIP(FrozenModule):
    """An OpenCLIP model with a convolutional image encoder (paper, Sec. 3.1), frozen unless `train_trunk` is called.

    Args:
        name: OpenCLIP's name of the architecture, for messages, hashes and caches.
        model: OpenCLIP's `CLIP` or `CustomTextCLIP` with a timm ConvNeXt or a ModifiedResNet as image encoder.
        tokenizer: list of prompts -> (N, L) int64.
    Attributes:
        channels: channels of res2..res5.
        dense_channels: channels of the dense feature map.
        embed_dim: E, width of the joint space.
        embeds_empty_masks: whether the embedding of an empty mask is defined.
    Raises:
        ModelNameError: the image encoder is of another type.
    """

    def __init__(self, *, name: str, model: Any, tokenizer: Callable[[list[str]], Tensor]) -> None:
        super().__init__()
        self.trained: tuple[nn.Module, ...] = ()  # trainable submodules of the image encoder
        self.tuned = False  # whether the weights differ from the named ones, so that checkpoints store them
        self.name = f"clip/{name}"
        self.model = model
        self.tokenizer = tokenizer
        self.freeze()
        self.backbone = _backbone(name, model.visual)
        self.channels = self.backbone.channels
        self.dense_channels = self.backbone.dense_channels
        self.embeds_empty_masks = self.backbone.embeds_empty_masks
        dense = torch.zeros(1, self.dense_channels, 1, 1, device=self.device)
        embeddings, _ = self.embed_masks(dense, torch.ones(1, 1, 1, 1, device=self.device))
        self.embed_dim: int = embeddings.shape[-1]

    def train_trunk(self, *, logit_scale: bool) -> None:
        """Unfreezes the stem and the stages of the image encoder; heads and text encoder stay frozen.

        Args:
            logit_scale: whether to unfreeze the logit scale, too.
        """
        self.trained = self.backbone.trunk()
        for part in self.trained:
            part.requires_grad_(True)
        self.model.logit_scale.requires_grad_(logit_scale)

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of stochastic depth in a trained trunk; all else, including BatchNorm, stays in eval mode."""
        super().train(False)
        for part in self.trained:
            for module in part.modules():
                if isinstance(module, DropPath):
                    module.train(mode)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs `forward`, without autograd if nothing is trained."""
        if not self.trained or not torch.is_grad_enabled():
            return super().__call__(*args, **kwargs)
        with self._autocast():
            return nn.Module.__call__(self, *args, **kwargs)

    def weights(self) -> Mapping[str, Tensor]:
        """State dict with OpenCLIP's names."""
        state: Mapping[str, Tensor] = self.model.state_dict()
        return state

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        device: torch.device = self.model.logit_scale.device
        return device

    @property
    def logit_scale(self) -> Tensor:
        """CLIP's logit scale, a scalar <= 100."""
        scale: Tensor = self.model.logit_scale.exp().clamp(max=MAX_LOGIT_SCALE).reshape(())
        return scale

    def forward(self, images_B3HW: Tensor) -> CLIPFeatures:
        """Computes the feature maps.

        Args:
            images_B3HW: normalized images; H and W are multiples of 32.
        """
        return self.backbone.features(images_B3HW)

    def image_parts(self) -> tuple[nn.Module, ...]:
        """The stem and the stages of the image tower; embeddings of masks and texts stay in float32."""
        return self.backbone.trunk()

    def trial(self, image_13HW: Tensor) -> list[Tensor]:
        """See FrozenModule."""
        features = self.forward(image_13HW)
        return [*features.levels.values(), features.dense]

    def embed_masks(self, dense_BChw: Tensor, masks_BQHW: Tensor) -> tuple[Tensor, Tensor]:
        """Embeds image regions, in float32 even under autocast.

        Args:
            dense_BChw: `CLIPFeatures.dense`.
            masks_BQHW: mask logits of any size, resized bilinearly to the feature map; inside > 0.
        Returns:
            (B, Q, E) embeddings, and (B, Q) bool, whether the mask covers any cell of the feature map. Embeddings of
            masks that do not are finite but meaningless.
        """
        with without_autocast(dense_BChw.device):
            return self.backbone.embed_masks(dense_BChw.float(), masks_BQHW.detach().float())

    def embed_maps(self, dense_BChw: Tensor, weights_BNhw: Tensor) -> Tensor:
        """Embeds the dense feature map pooled with given weights, in float32 even under autocast.

        Args:
            dense_BChw: `CLIPFeatures.dense`.
            weights_BNhw: pooling weights; each map sums to 1.
        Returns:
            (B, N, E).
        Raises:
            ConfigError: this CLIP has an attention pool.
        """
        with without_autocast(dense_BChw.device):
            return self.backbone.embed_maps(dense_BChw.float(), weights_BNhw.float())

    def project_map(self, dense_BChw: Tensor, *, published_layout: bool = False) -> Tensor:
        """Projects each cell of the dense feature map to the joint space as CLIP projects its pooled features.

        Args:
            published_layout: reshape the channels-first map to cells without a transpose, as MAFT+ was trained.
        Returns:
            (B, E, h, w) float32, not normalized.
        Raises:
            ConfigError: this CLIP has an attention pool.
        """
        with without_autocast(dense_BChw.device):
            return self.backbone.project_map(dense_BChw.float(), published_layout=published_layout)

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Encodes texts, in float32 even under autocast.

        Prompts are sorted by length and batches are cut to their longest prompt. This is exact: attention is causal
        and the embedding is read at the end token, so that padding has no effect.

        Args:
            prompts: N texts, truncated to the context length.
        Returns:
            (N, E), not normalized.
        """
        device = self.device
        result = torch.empty(len(prompts), self.embed_dim, device=device)
        if not prompts:
            return result
        tokens = self.tokenizer(list(prompts))
        ends = end_positions(self.model, tokens)
        with without_autocast(device):
            order = ends.argsort(stable=True)
            for start in range(0, len(order), TEXT_BATCH):
                rows = order[start : start + TEXT_BATCH]
                batch = tokens[rows, : int(ends[rows].max()) + 1]
                result[rows.to(device)] = encode_tokens(self.model, batch.to(device)).float()
        return result


def _backbone(name: str, visual: Any) -> Backbone:
    from open_clip.modified_resnet import ModifiedResNet
    from timm.models.convnext import ConvNeXt

    if isinstance(visual, ModifiedResNet):
        return ResNetBackbone(visual)
    if isinstance(getattr(visual, "trunk", None), ConvNeXt):
        return ConvNeXtBackbone(visual)
    raise ModelNameError(
        f"CLIP {name!r} has a {type(visual).__name__} image tower; CMPF needs a ConvNeXt or a ModifiedResNet"
    )


def end_positions(model: Any, tokens_NL: Tensor) -> Tensor:
    """Position of each text's end token, at which its embedding is read.

    Args:
        model: OpenCLIP's `CLIP` or `CustomTextCLIP`.
        tokens_NL: int64, padded after the end token.
    Returns:
        (N,) int64.
    """
    _, pool_type, end_token = _text_encoder(model)
    if pool_type == "eos":
        return (tokens_NL == end_token).int().argmax(dim=-1)
    return tokens_NL.argmax(dim=-1)  # the end token has the largest id


def encode_tokens(model: Any, tokens_NL: Tensor) -> Tensor:
    """Encodes tokens of any length; equals the model's `encode_text` of tokens padded to the context length.

    Thread-safe: positions and causal mask are cut to the length of the tokens without changing the model.

    Args:
        model: OpenCLIP's `CLIP` or `CustomTextCLIP` with a causal text encoder.
        tokens_NL: int64, L <= context length, including the end token of every text.
    Returns:
        (N, E), not normalized.
    """
    encoder, _, _ = _text_encoder(model)
    length = tokens_NL.shape[1]
    dtype = encoder.transformer.get_cast_dtype()
    x = encoder.token_embedding(tokens_NL).to(dtype) + encoder.positional_embedding[:length].to(dtype)
    x = encoder.transformer(x, attn_mask=encoder.attn_mask[:length, :length])
    rows = torch.arange(len(tokens_NL), device=tokens_NL.device)
    x = encoder.ln_final(x[rows, end_positions(model, tokens_NL)])
    projection = encoder.text_projection
    if projection is None:
        embeddings: Tensor = x
    elif isinstance(projection, nn.Linear):
        embeddings = projection(x)
    else:
        embeddings = x @ projection
    return embeddings


def _text_encoder(model: Any) -> tuple[Any, str, int]:
    """The module that owns the text encoder's layers, its pooling type, and its end token."""
    if hasattr(model, "text"):
        return model.text, model.text.pool_type, model.text.eos_id
    return model, model.text_pool_type, model.text_eos_id
