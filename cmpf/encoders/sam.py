# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Frozen SAM image encoder, and SAM by name."""

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
    """A frozen SAM; called, it gives the image encoder's final embedding (paper, Sec. 3.1).

    Args:
        name: SAM's name, for messages, hashes and caches.
        sam: segment_anything's `Sam`, whose image attention is replaced by a faster one of the same result. Its
            prompt encoder and mask decoder are kept for mask proposals.
    Attributes:
        input_size: side of the square that the encoder sees, in pixels. embed_channels: S.
    """

    def __init__(self, *, name: str, sam: Any) -> None:
        super().__init__()
        self.name = f"sam/{name}"
        fuse_attention(sam.image_encoder)
        self.sam = sam
        self.input_size: int = sam.image_encoder.img_size
        self.embed_channels: int = sam.prompt_encoder.embed_dim
        self.freeze()

    def weights(self) -> Mapping[str, Tensor]:
        """Weights under the names of the published files."""
        state: Mapping[str, Tensor] = self.sam.state_dict()
        return state

    def forward(self, images_B3HW: Tensor, *, keep_aspect: bool = False) -> Tensor:
        """Image embeddings.

        Args:
            images_B3HW: images with SAM's normalization, padded.
            keep_aspect: False = they are squashed to the square input, whatever their aspect ratio, as in the
                published system; True = they keep theirs, and the longer side becomes as long as the square's.
        Returns:
            (B, S, hs, ws), for the published models (B, 256, 64, 64); with keep_aspect the shorter side has less.
        """
        size = (self.input_size, self.input_size)
        if keep_aspect:
            size = self._size_in_aspect(images_B3HW.shape[-2], images_B3HW.shape[-1])
        return self._embed(resize_bilinear(images_B3HW, size))

    def _size_in_aspect(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of an image for SAM, whole cells of the embedding, the longer side that of the square."""
        cells: int = self.sam.prompt_encoder.image_embedding_size[0]  # along a side of the square
        cell, longest = self.input_size // cells, max(height, width)
        return cell * max(1, round(cells * height / longest)), cell * max(1, round(cells * width / longest))

    def image_parts(self) -> tuple[nn.Module, ...]:
        """The image encoder; masks are decoded in float32."""
        return (self.sam.image_encoder,)

    def trial(self, image_13HW: Tensor) -> list[Tensor]:
        """See FrozenModule. A small image saves most of the full size's time."""
        return [self._embed(image_13HW)]

    def _embed(self, images_B3HW: Tensor) -> Tensor:
        """What the image encoder's own forward gives; for images of other sizes its positions are resized."""
        encoder = self.sam.image_encoder
        positions = getattr(encoder, "pos_embed", None)
        if positions is None:  # MobileSAM
            embedding: Tensor = encoder(images_B3HW)
            return embedding
        # As its convolution leaves them, the numbers of a token lie apart; every sum and norm would read them so.
        tokens = encoder.patch_embed(images_B3HW).contiguous()
        resized = resize_bilinear(positions.permute(0, 3, 1, 2), (tokens.shape[1], tokens.shape[2]))
        tokens = tokens + resized.permute(0, 2, 3, 1)
        for block in encoder.blocks:
            tokens = block(tokens)
        embedding = encoder.neck(tokens.permute(0, 3, 1, 2))
        return embedding


def build_sam(*, name: str, checkpoint: str) -> SAMEncoder:
    """A frozen SAM.

    Args:
        name: "vit_b", "vit_l", "vit_h", "vit_t" (MobileSAM) or "cmpf_tiny".
        checkpoint: "" = the published file, downloaded once into the cache folder (for cmpf_tiny the one that
            CMPF ships), "random", or the path of a file of SAM, or of a model with SAM in it.
    Raises:
        ModelNameError: unknown name.
        WeightsError: the file is missing and cannot be downloaded, damaged or of another model; says where to
            get and to put it.
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
    """Where the published file of a SAM lies once it is downloaded."""
    return cache_folder() / PUBLISHED[name].rpartition("/")[2]


def _checkpoint_file(name: str, checkpoint: str) -> Path | None:
    """The file of weights, checked to exist before a large model is built; None = random weights."""
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
    """The published file in the cache folder, downloaded if it is not there."""
    path = published_path(name)
    try:
        return download(Remote(PUBLISHED[name], f"SAM {name}", _published_digits(path.name)), path)
    except WeightsError as error:
        raise WeightsError(
            f"{error}, or set {OPTION} (for mask proposals {ENSEMBLE_OPTION}) to the path of the file, "
            f'or to "{RANDOM}" for random weights'
        ) from error


def _published_digits(file: str) -> str | None:
    """The first digits of the SHA-256, which SAM's file names end in; nothing is published of MobileSAM's."""
    found = re.fullmatch(r"sam_vit_._([0-9a-f]{6})\.pth", file)
    return found.group(1) if found else None


def _architecture(name: str) -> Any:
    if name == tiny.SAM_NAME:
        return tiny.build_tiny_sam()
    if name == "vit_t":
        return build_mobile_sam()
    from segment_anything import sam_model_registry

    return sam_model_registry[name]()
