# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The tiny CLIP and SAM shipped with CMPF: small instances of OpenCLIP's `CLIP` and segment-anything's `Sam`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from cmpf.encoders.mobile_sam import build_sam_model
from cmpf.weights.download import ASSETS, checked_asset
from cmpf.weights.reading import load_checked_weights

SAM_NAME = "cmpf_tiny"
SAM_WEIGHTS = "cmpf_tiny_sam.safetensors"
INPUT_SIZE = 256
PATCH_SIZE = 16
EMBED_CHANNELS = 64


CLIP_NAME = "cmpf_tiny"
CLIP_CONFIG = "cmpf_tiny.json"
CLIP_TRUNK = "cmpf_tiny_trunk"  # folder with timm's config.json
CLIP_WEIGHTS = "cmpf_tiny_clip.safetensors"
CLIP_MERGES = "bpe_2000_merges.txt.gz"


def build_tiny_clip_model() -> nn.Module:
    """OpenCLIP's `CLIP` of the tiny size with random weights, in eval mode.

    `visual.trunk` has stem, stages, norm_pre and head; `visual.head` projects to E = 128. Input 256 x 256.

    The trunk is a ConvNeXt with 1.3 M parameters. It has small kernels and a single block at strides 4 and 8, which
    dominate the time on a CPU and contribute less to classification. It has no layer scale, because timm's initial
    1e-6 would suppress the blocks during the short training.
    """
    import open_clip

    configuration = json.loads((ASSETS / CLIP_CONFIG).read_text(encoding="utf-8"))
    # OpenCLIP accepts timm's model names only; "local-dir:" makes timm read the architecture from a folder.
    configuration["vision_cfg"]["timm_model_name"] = f"local-dir:{ASSETS / CLIP_TRUNK}"
    model: nn.Module = open_clip.CLIP(**configuration)
    return model.eval()


def load_tiny_clip(*, folder: Path = ASSETS) -> nn.Module:
    """Tiny CLIP with the weights of the folder, float32, in eval mode.

    Raises:
        WeightsError: the weights file is missing or damaged.
    """
    model = build_tiny_clip_model()
    model.load_state_dict(load_checked_weights(CLIP_WEIGHTS, folder=folder))
    return model


def tiny_tokenizer(*, folder: Path = ASSETS) -> Any:
    """CLIP's byte-pair tokenizer with its first 2,000 merges, which can encode any text.

    A call with N texts returns (N, 77) int64, zero-padded and truncated to 77 tokens.

    Raises:
        WeightsError: the merges file is missing or damaged.
    """
    from open_clip import SimpleTokenizer

    return SimpleTokenizer(bpe_path=str(checked_asset(CLIP_MERGES, folder=folder)))


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
    return build_sam_model(
        _image_encoder(), embed_channels=EMBED_CHANNELS, mlp_dim=128, num_heads=4, iou_head_dim=64
    )


def load_tiny_sam(*, folder: Path = ASSETS) -> nn.Module:
    """Tiny SAM with the weights of the folder, float32, in eval mode.

    Raises:
        WeightsError: the weights file is missing or damaged.
    """
    sam = build_tiny_sam()
    sam.load_state_dict(load_checked_weights(SAM_WEIGHTS, folder=folder))
    return sam
