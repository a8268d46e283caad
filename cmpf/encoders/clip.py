# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""CLIP: dense image features, embeddings of masks and of texts, all in one joint space; frozen but for a trunk."""

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

TEXT_BATCH = 128  # prompts in one pass of the text tower
MAX_LOGIT_SCALE = 100.0


class Backbone(Protocol):
    """What CLIP needs of an image tower; `channels` counts res2..res5, `dense_channels` the dense map."""

    embeds_empty_masks: bool

    channels: dict[str, int]
    dense_channels: int

    def features(self, images_B3HW: Tensor) -> CLIPFeatures: ...

    def trunk(self) -> tuple[nn.Module, ...]: ...

    def embed_masks(self, dense_BChw: Tensor, masks_BQHW: Tensor) -> tuple[Tensor, Tensor]: ...

    def embed_maps(self, dense_BChw: Tensor, weights_BNhw: Tensor) -> Tensor: ...

    def project_map(self, dense_BChw: Tensor, *, published_layout: bool) -> Tensor: ...


class CLIP(FrozenModule):
    """An OpenCLIP model with a convolutional image tower (paper, Sec. 3.1), frozen unless `train_trunk` is called.

    Args:
        name: OpenCLIP's name of the architecture, for messages, hashes and caches.
        model: OpenCLIP's `CLIP` or `CustomTextCLIP`; its tower is a ConvNeXt of timm or a ModifiedResNet.
        tokenizer: list of prompts -> (N, L) int64.
    Attributes:
        channels: channels of res2..res5. dense_channels: of the dense map. embed_dim: E.
        embeds_empty_masks: whether a mask without a positive cell has an embedding at all, if a poor one.
    Raises:
        ModelNameError: the image tower is of another kind.
    """

    def __init__(self, *, name: str, model: Any, tokenizer: Callable[[list[str]], Tensor]) -> None:
        super().__init__()
        self.trained: tuple[nn.Module, ...] = ()  # parts of the tower whose parameters training changes
        self.tuned = False  # its weights are no longer those of its name, so that checkpoints hold them
        self.name = f"clip/{name}"
        self.model = model
        self.tokenizer = tokenizer
        self.freeze()
        self.backbone = _backbone(name, model.visual)
        self.channels = self.backbone.channels
        self.dense_channels = self.backbone.dense_channels
        self.embeds_empty_masks = self.backbone.embeds_empty_masks
        # From the tower itself: what a map of a single cell is projected to.
        cell = torch.zeros(1, self.dense_channels, 1, 1, device=self.device)
        self.embed_dim: int = self.embed_masks(cell, torch.ones(1, 1, 1, 1, device=self.device))[0].shape[-1]

    def train_trunk(self, *, logit_scale: bool) -> None:
        """Lets training change the stem and the stages of the image tower; heads and text tower stay frozen.

        Args:
            logit_scale: the scale of cosines too.
        """
        self.trained = self.backbone.trunk()
        for part in self.trained:
            part.requires_grad_(True)
        self.model.logit_scale.requires_grad_(logit_scale)

    def train(self, mode: bool = True) -> Self:
        """Training mode is for the stochastic depth of a trained trunk; all else, BatchNorm too, stays in eval mode."""
        super().train(False)
        for part in self.trained:
            for module in part.modules():
                if isinstance(module, DropPath):
                    module.train(mode)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs `forward`, without autograd where nothing is trained."""
        if not self.trained or not torch.is_grad_enabled():
            return super().__call__(*args, **kwargs)
        with self._autocast():
            return nn.Module.__call__(self, *args, **kwargs)

    def weights(self) -> Mapping[str, Tensor]:
        """Weights under OpenCLIP's own names."""
        state: Mapping[str, Tensor] = self.model.state_dict()
        return state

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        device: torch.device = self.model.logit_scale.device
        return device

    @property
    def logit_scale(self) -> Tensor:
        """CLIP's own scale of cosines, a scalar <= 100."""
        scale: Tensor = self.model.logit_scale.exp().clamp(max=MAX_LOGIT_SCALE).reshape(())
        return scale

    def forward(self, images_B3HW: Tensor) -> CLIPFeatures:
        """Feature maps.

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
        """Embeddings of image regions, in float32 whatever autocast says.

        Args:
            dense_BChw: `CLIPFeatures.dense`.
            masks_BQHW: mask logits of any size; resized bilinearly to the map, inside where > 0.
        Returns:
            (B, Q, E) embeddings, finite but without meaning where not valid, and (B, Q) bool valid: the mask
            has a positive cell on the map.
        """
        with without_autocast(dense_BChw.device):
            return self.backbone.embed_masks(dense_BChw.float(), masks_BQHW.detach().float())

    def embed_maps(self, dense_BChw: Tensor, weights_BNhw: Tensor) -> Tensor:
        """Embeddings (B, N, E) of the dense map pooled with given weights, in float32 whatever autocast says.

        Args:
            dense_BChw: `CLIPFeatures.dense`.
            weights_BNhw: those of its cells; each map sums to 1.
        Raises:
            ConfigError: this CLIP pools by attention.
        """
        with without_autocast(dense_BChw.device):
            return self.backbone.embed_maps(dense_BChw.float(), weights_BNhw.float())

    def project_map(self, dense_BChw: Tensor, *, published_layout: bool = False) -> Tensor:
        """Each cell of the dense map as CLIP projects its pooled map, (B, E, h, w), not normalized, in float32.

        Args:
            published_layout: a "cell" is C consecutive numbers of the channel-first map, as MAFT+ was trained.
        Raises:
            ConfigError: this CLIP pools by attention.
        """
        with without_autocast(dense_BChw.device):
            return self.backbone.project_map(dense_BChw.float(), published_layout=published_layout)

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Text embeddings, not normalized, in float32 whatever autocast says.

        Prompts are encoded by length, in batches as long as their longest prompt. That is exact: attention is
        causal and the embedding is read at the end token, so that padding has no effect.

        Args:
            prompts: N texts; what exceeds the context length is cut.
        Returns:
            (N, E).
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
    """Where each text's end token stands, the position at which its embedding is read.

    Args:
        model: OpenCLIP's `CLIP` or `CustomTextCLIP`.
        tokens_NL: int64, padded after the end token.
    Returns:
        (N,) int64.
    """
    _, pool, end = _tower(model)
    if pool == "eos":
        return (tokens_NL == end).int().argmax(dim=-1)
    return tokens_NL.argmax(dim=-1)  # the end token is the highest of the vocabulary


def encode_tokens(model: Any, tokens_NL: Tensor) -> Tensor:
    """Text embeddings, the same as the model's own `encode_text` of the tokens padded to the context length.

    The tower is only read: positions and causal mask are cut to the length of the tokens, nothing is stored,
    so that threads may share it.

    Args:
        model: OpenCLIP's `CLIP` or `CustomTextCLIP` with a causal text tower.
        tokens_NL: int64, L <= context length, the end token of every text included.
    Returns:
        (N, E), not normalized.
    """
    tower, _, _ = _tower(model)
    length = tokens_NL.shape[1]
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(tokens_NL).to(dtype) + tower.positional_embedding[:length].to(dtype)
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    rows = torch.arange(len(tokens_NL), device=tokens_NL.device)
    x = tower.ln_final(x[rows, end_positions(model, tokens_NL)])
    projection = tower.text_projection
    if projection is None:
        embeddings: Tensor = x
    elif isinstance(projection, nn.Linear):
        embeddings = projection(x)
    else:
        embeddings = x @ projection
    return embeddings


def _tower(model: Any) -> tuple[Any, str, int]:
    """The module that holds the text tower's parts, how it pools, and its end token."""
    if hasattr(model, "text"):
        return model.text, model.text.pool_type, model.text.eos_id
    return model, model.text_pool_type, model.text_eos_id
