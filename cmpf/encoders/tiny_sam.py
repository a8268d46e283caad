# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Tiny SAM: segment-anything's `Sam` class with a small image encoder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import nn

from cmpf.weights.assets import ASSETS, load_checked_weights

SAM_NAME = "cmpf_tiny"
SAM_WEIGHTS = "cmpf_tiny_sam.safetensors"

INPUT_SIZE = 256
PATCH_SIZE = 16
EMBED_CHANNELS = 64


def _image_encoder() -> nn.Module:
    from segment_anything.modeling import ImageEncoderViT

    encoder: nn.Module = ImageEncoderViT(
        img_size=INPUT_SIZE,
        patch_size=PATCH_SIZE,
        embed_dim=128,
        depth=5,
        num_heads=4,
        mlp_ratio=3,
        out_chans=EMBED_CHANNELS,
        use_rel_pos=True,
        window_size=8,
        global_attn_indexes=(2, 4),
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    return encoder


def build_tiny_sam() -> nn.Module:
    """segment-anything's `Sam` of the tiny size with random weights, in eval mode.

    Input 256 x 256, patches of 16, embedding (B, 64, 16, 16), low-resolution mask logits 64 x 64.
    """
    from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    side = INPUT_SIZE // PATCH_SIZE
    sam: nn.Module = Sam(
        image_encoder=_image_encoder(),
        prompt_encoder=PromptEncoder(
            embed_dim=EMBED_CHANNELS,
            image_embedding_size=(side, side),
            input_image_size=(INPUT_SIZE, INPUT_SIZE),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=EMBED_CHANNELS, mlp_dim=128, num_heads=4),
            transformer_dim=EMBED_CHANNELS,
            iou_head_depth=3,
            iou_head_hidden_dim=64,
        ),
    )
    return sam.eval()


def load_tiny_sam(*, folder: Path = ASSETS) -> nn.Module:
    """Tiny SAM with the weights of the folder, float32, in eval mode.

    Raises:
        WeightsError: the file of weights is missing or damaged.
    """
    sam = build_tiny_sam()
    sam.load_state_dict(load_checked_weights(SAM_WEIGHTS, folder=folder))
    return sam
