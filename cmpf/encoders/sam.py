# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Frozen SAM image encoder, built by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cmpf.common.tensors import resize_bilinear
from cmpf.encoders import tiny
from cmpf.encoders.frozen import FrozenModule
from cmpf.encoders.mobile_sam import build_mobile_sam
from cmpf.encoders.sam_attention import fuse_attention
from cmpf.encoders.sam_decoder import share_prompts
from cmpf.errors import ModelNameError, WeightsError
from cmpf.weights.download import cache_folder, download
from cmpf.weights.key_mapping import OWN_SAM_PREFIX, SAM_PREFIX
from cmpf.weights.reading import load_weights
from cmpf.weights.remote import Remote

OPTION = "MODEL.CMPF.SAM.CHECKPOINT"
ENSEMBLE_OPTION = "TEST.ENSEMBLE.SAM_CHECKPOINT"
RANDOM = "random"
META = "https://dl.fbaipublicfiles.com/segment_anything"
PUBLISHED = {
    "vit_b": f"{META}/sam_vit_b_01ec64.pth",
    "vit_l": f"{META}/sam_vit_l_0b3195.pth",
    "vit_h": f"{META}/sam_vit_h_4b8939.pth",
    "vit_t": "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
}


class SAMEncoder(FrozenModule):
    """A frozen SAM whose `forward` returns the image encoder's embedding (paper, Sec. 3.1).

    Args:
        name: SAM's name, for messages, hashes and caches.
        sam: segment_anything's `Sam`. The attention of its image encoder and its mask decoder are replaced by faster,
            equivalent ones. Its prompt encoder and mask decoder are used for mask proposals.
    Attributes:
        input_size: side of the square input in pixels.
        embed_channels: S.
    """

    def __init__(self, *, name: str, sam: Any) -> None:
        super().__init__()
        self.name = f"sam/{name}"
        fuse_attention(sam.image_encoder)
        share_prompts(sam)
        self.sam = sam
        self.input_size: int = sam.image_encoder.img_size
        self.embed_channels: int = sam.prompt_encoder.embed_dim
        self.freeze()

    def weights(self) -> Mapping[str, Tensor]:
        """State dict with the names of the published files."""
        state: Mapping[str, Tensor] = self.sam.state_dict()
        return state

    def forward(self, images_B3HW: Tensor, *, keep_aspect: bool = False) -> Tensor:
        """Computes image embeddings.

        Args:
            images_B3HW: padded images with SAM's normalization.
            keep_aspect: False = resize to the square input, ignoring the aspect ratio, as in the published system.
                True = keep the aspect ratio and resize the longer side to the side of the square.
        Returns:
            (B, S, hs, ws), for the published models (B, 256, 64, 64); smaller along the shorter side with keep_aspect.
        """
        size = (self.input_size, self.input_size)
        if keep_aspect:
            size = self._size_with_aspect(images_B3HW.shape[-2], images_B3HW.shape[-1])
        return self._embed(resize_bilinear(images_B3HW, size))

    def _size_with_aspect(self, height: int, width: int) -> tuple[int, int]:
        """Input size (H, W) with the aspect ratio of an image, in whole patches; the longer side is `input_size`."""
        patches: int = self.sam.prompt_encoder.image_embedding_size[0]  # per side of the square
        patch, longest = self.input_size // patches, max(height, width)
        return patch * max(1, round(patches * height / longest)), patch * max(
            1, round(patches * width / longest)
        )

    def image_parts(self) -> tuple[nn.Module, ...]:
        """The image encoder; masks are decoded in float32."""
        return (self.sam.image_encoder,)

    def trial(self, image_13HW: Tensor) -> list[Tensor]:
        """See FrozenModule. The image is not resized, to save time."""
        return [self._embed(image_13HW)]

    def _embed(self, images_B3HW: Tensor) -> Tensor:
        """The image encoder's `forward`, for any input size: position embeddings are resized."""
        encoder = self.sam.image_encoder
        positions = getattr(encoder, "pos_embed", None)
        if positions is None:  # MobileSAM
            embedding: Tensor = encoder(images_B3HW)
            return embedding
        # The convolution's output is channels-first in memory; contiguous tokens make additions and norms faster.
        tokens = encoder.patch_embed(images_B3HW).contiguous()
        resized = resize_bilinear(positions.permute(0, 3, 1, 2), (tokens.shape[1], tokens.shape[2]))
        tokens = tokens + resized.permute(0, 2, 3, 1)
        for block in encoder.blocks:
            tokens = block(tokens)
        embedding = encoder.neck(tokens.permute(0, 3, 1, 2))
        return embedding


def build_sam(*, name: str, checkpoint: str) -> SAMEncoder:
    """Builds a frozen SAM.

    Args:
        name: "vit_b", "vit_l", "vit_h", "vit_t" (MobileSAM) or "cmpf_tiny".
        checkpoint: "" = the published file, downloaded once into the cache folder (for cmpf_tiny the file shipped with
            CMPF); "random" = random weights; else the path of a checkpoint of SAM or of a model that contains SAM.
    Raises:
        ModelNameError: unknown name.
        WeightsError: the file is missing and cannot be downloaded, damaged or of another model; the message says where
            to get it and where to put it.
    """
    names = [*PUBLISHED, tiny.SAM_NAME]
    if name not in names:
        near = get_close_matches(name.lower(), names, n=1)
        hint = f", did you mean {near[0]}?" if near else "."
        raise ModelNameError(f"SAM {name!r} is unknown{hint} What works: {', '.join(names)}")
    if name == tiny.SAM_NAME and not checkpoint:
        return SAMEncoder(name=name, sam=tiny.load_tiny_sam())
    path = _checkpoint_file(name, checkpoint)
    sam = _architecture(name)
    if path is not None:
        load_weights(sam, path, prefixes=(SAM_PREFIX, OWN_SAM_PREFIX))
    return SAMEncoder(name=name, sam=sam)


def published_path(name: str) -> Path:
    """Path of the published file of a SAM in the cache folder; it may not exist."""
    return cache_folder() / PUBLISHED[name].rpartition("/")[2]


def _checkpoint_file(name: str, checkpoint: str) -> Path | None:
    """The checkpoint file, checked to exist before a large model is built; None = random weights."""
    if checkpoint == RANDOM:
        return None
    if checkpoint:
        path = Path(checkpoint).expanduser()
        if not path.is_file():
            raise WeightsError(
                f'{OPTION} {checkpoint!r}: no such file; give a path, "" for the published file, or "random"'
            )
        return path
    return _published_file(name)


def _published_file(name: str) -> Path:
    """The published file in the cache folder, downloaded if it is missing."""
    path = published_path(name)
    try:
        return download(Remote(PUBLISHED[name], f"SAM {name}", _hash_prefix(path.name)), path)
    except WeightsError as error:
        raise WeightsError(
            f"{error}, or set {OPTION} (for mask proposals {ENSEMBLE_OPTION}) to the path of the file, "
            f'or to "{RANDOM}" for random weights'
        ) from error


def _hash_prefix(file: str) -> str | None:
    """The SHA-256 prefix at the end of SAM's file names; None for MobileSAM, which publishes no hash."""
    match = re.fullmatch(r"sam_vit_._([0-9a-f]{6})\.pth", file)
    return match.group(1) if match else None


def _architecture(name: str) -> Any:
    if name == tiny.SAM_NAME:
        return tiny.build_tiny_sam()
    if name == "vit_t":
        return build_mobile_sam()
    from segment_anything import sam_model_registry

    return sam_model_registry[name]()
