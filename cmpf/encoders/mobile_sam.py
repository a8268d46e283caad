# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""MobileSAM: SAM with a TinyViT image encoder (arXiv 2306.14289; TinyViT: arXiv 2207.10666)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

INPUT_SIZE = 1024
EMBED_CHANNELS = 256
STRIDE = 16  # of the embedding, in pixels

# Entries of published files that are not loaded: TinyViT's classifier, and tables derived from the window size, which
# only some releases store.
UNUSED = ("norm_head.", "head.")
DERIVED = (".attn.attention_bias_idxs", ".attn.ab")


class MobileSAMImageEncoder(nn.Module):
    """TinyViT without its classifier, followed by SAM's neck, with the parameter names of MobileSAM's checkpoints.

    It is built from timm's blocks, arranged as in the checkpoints: a stage owns the patch merging after it (in timm the
    one before it), and a convolution with BatchNorm consists of `c` and `bn`. The last patch merging has stride 1, so
    that the embedding has stride 16.

    Args:
        trunk: timm's `TinyVit` with four stages, whose submodules are reused.
        img_size: side of the square input in pixels.
        out_channels: S.
    """

    def __init__(self, *, trunk: Any, img_size: int, out_channels: int) -> None:
        from segment_anything.modeling.common import LayerNorm2d

        super().__init__()
        self.img_size = img_size
        self.patch_embed = _PatchEmbed(trunk.patch_embed)
        merging = [stage.downsample for stage in trunk.stages[1:]]
        merging[-1].conv2.conv.stride = (1, 1)
        self.layers = nn.ModuleList(
            _Stage(stage.blocks, after) for stage, after in zip(trunk.stages, [*merging, None], strict=True)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(trunk.num_features, out_channels, kernel_size=1, bias=False),
            LayerNorm2d(out_channels),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(out_channels),
        )
        _rename_convolutions(self)
        self.register_load_state_dict_pre_hook(_drop_unused)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_clear_cached_biases)  # type: ignore[no-untyped-call]

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Computes image embeddings.

        Args:
            images_B3HW: normalized square images.
        Returns:
            (B, S, H / 16, W / 16).
        """
        x = self.patch_embed(images_B3HW)
        for layer in self.layers:
            x = layer(x)
        embedding: Tensor = self.neck(x)
        return embedding


class _PatchEmbed(nn.Module):
    """Two convolutions of stride 2."""

    def __init__(self, patch_embed: Any) -> None:
        super().__init__()
        self.seq = nn.Sequential(patch_embed.conv1, patch_embed.act, patch_embed.conv2)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        x: Tensor = self.seq(images_B3HW)
        return x


class _Stage(nn.Module):
    """Blocks of one resolution, followed by the patch merging to the next one, except in the last stage."""

    def __init__(self, blocks: Any, downsample: nn.Module | None) -> None:
        from timm.models.tiny_vit import TinyVitBlock

        super().__init__()
        self.blocks = blocks
        self.downsample = downsample
        self.channels_last = isinstance(blocks[0], TinyVitBlock)

    def forward(self, x_BChw: Tensor) -> Tensor:
        x: Tensor = self.blocks(x_BChw.permute(0, 2, 3, 1) if self.channels_last else x_BChw)
        if self.channels_last:
            x = x.permute(0, 3, 1, 2)
        if self.downsample is not None:
            x = self.downsample(x)
        return x


def build_mobile_sam() -> nn.Module:
    """segment_anything's `Sam` with MobileSAM's image encoder, random weights, in eval mode."""
    import timm

    trunk = timm.create_model("tiny_vit_5m_224", pretrained=False, num_classes=0)
    return build_sam_model(
        MobileSAMImageEncoder(trunk=trunk, img_size=INPUT_SIZE, out_channels=EMBED_CHANNELS),
        embed_channels=EMBED_CHANNELS,
    )


def build_sam_model(
    image_encoder: Any,
    *,
    embed_channels: int,
    mlp_dim: int = 2048,
    num_heads: int = 8,
    iou_head_dim: int = 256,
) -> nn.Module:
    """Builds segment_anything's `Sam` around an image encoder, in eval mode.

    Args:
        image_encoder: returns embeddings (B, S, side / 16, side / 16).
        embed_channels: S.
        mlp_dim, num_heads, iou_head_dim: settings of the mask decoder.
    """
    from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    side = image_encoder.img_size // STRIDE
    sam: nn.Module = Sam(
        image_encoder=image_encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=embed_channels,
            image_embedding_size=(side, side),
            input_image_size=(image_encoder.img_size, image_encoder.img_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=embed_channels, mlp_dim=mlp_dim, num_heads=num_heads
            ),
            transformer_dim=embed_channels,
            iou_head_depth=3,
            iou_head_hidden_dim=iou_head_dim,
        ),
    )
    return sam.eval()


def _rename_convolutions(encoder: nn.Module) -> None:
    """Renames `conv` of timm's ConvNorm, a Sequential, to the published name `c`."""
    from timm.models.tiny_vit import ConvNorm

    for module in encoder.modules():
        if isinstance(module, ConvNorm):
            convolution, norm = module.conv, module.bn
            del module.conv, module.bn
            module.add_module("c", convolution)
            module.add_module("bn", norm)


def _drop_unused(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Removes unused and derived entries from a state dict before it is loaded."""
    for name in list(state):
        local_name = name.removeprefix(prefix)
        if name.startswith(prefix) and (local_name.startswith(UNUSED) or local_name.endswith(DERIVED)):
            del state[name]


def _clear_cached_biases(module: nn.Module, _incompatible_keys: object) -> None:
    """Clears the attention biases that timm caches from the previous weights."""
    from timm.models.tiny_vit import Attention

    for submodule in module.modules():
        if isinstance(submodule, Attention):
            submodule.train(submodule.training)  # type: ignore[no-untyped-call]  # timm clears its cache in `train`
