# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Frozen SAM image encoder with fused attention, and SAM by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.common.tensors import resize_bilinear
from cmpf.encoders import tiny
from cmpf.encoders.frozen import FrozenModule, replace_layers
from cmpf.encoders.mobile_sam import build_mobile_sam
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

# Numbers of the additive mask that exist at one time, in all heads. One ViT-B block at 64 x 64 tokens, float32, one
# CPU core, seconds and extra MB (global attention | windows of 14):
#     segment-anything's own      2.48 s  2448 MB | 0.45 s  303 MB
#     one mask for all queries    1.25 s   924 MB | 0.34 s  203 MB
#     masks of 2 ** 22 numbers    1.16 s   252 MB | 0.33 s  173 MB
#     no mask: the bias as 2 * 64 more features of queries and keys
#                                 1.98 s   361 MB | 0.33 s  264 MB (the CPU kernel wants the values as wide as the keys)
# The small mask is still in the cache when it is read. A GPU wants more work a launch: 2 ** 28 numbers are one image
# of ViT-H, 0.5 GB in bfloat16.
MASK_NUMBERS = {"cpu": 1 << 22}
MASK_NUMBERS_ELSEWHERE = 1 << 28
# The CPU's fused kernel multiplies small blocks, and in bfloat16 is no faster than in float32. Plain products of this
# many scores at one time, milliseconds of one core (12 heads; fused | plain, as measured beside other work):
#     float32    64 x 64 tokens 1219 | 940    25 windows of 14 x 14 59 | 75
#     bfloat16   64 x 64 tokens 1337 | 641    25 windows of 14 x 14 83 | 65
SCORES = 1 << 21


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

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Image embeddings.

        Args:
            images_B3HW: images with SAM's normalization, padded; squashed to the square input, whatever
                their aspect ratio.
        Returns:
            (B, S, hs, ws), for the published models (B, 256, 64, 64).
        """
        side = self.input_size
        embedding: Tensor = self.sam.image_encoder(resize_bilinear(images_B3HW, (side, side)))
        return embedding

    def trial(self, image_13HW: Tensor) -> list[Tensor]:
        """See FrozenModule. Positions are those of the upper left corner, which saves most of the full size's time."""
        encoder = self.sam.image_encoder
        positions = getattr(encoder, "pos_embed", None)
        if positions is None:  # MobileSAM
            return [encoder(image_13HW)]
        tokens = encoder.patch_embed(image_13HW)
        tokens = tokens + positions[:, : tokens.shape[1], : tokens.shape[2]]
        for block in encoder.blocks:
            tokens = block(tokens)
        return [encoder.neck(tokens.permute(0, 3, 1, 2))]


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
        load_weights(sam, path, inside=(SAM_PREFIX, OWN_SAM_PREFIX))
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


class FusedAttention(nn.Module):
    """segment-anything's image attention with decomposed relative positions (paper of SAM: ViTDet's), fused.

    The bias of query (y, x) and key (y', x') is q . Rh[y - y'] + q . Rw[x - x']. It goes as an additive mask to
    `scaled_dot_product_attention`, for as many queries at a time as MASK_NUMBERS allows.

    Args:
        attention: segment-anything's `Attention`; its layers and tables are shared under the same names.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.num_heads: int = attention.num_heads
        self.qkv = attention.qkv
        self.proj = attention.proj
        self.use_rel_pos: bool = attention.use_rel_pos
        if self.use_rel_pos:
            self.rel_pos_h = attention.rel_pos_h
            self.rel_pos_w = attention.rel_pos_w

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Attention inside each image or window.

        Args:
            x_BHWC: tokens of any height and width; tables of another size are resized linearly.
        Returns:
            The same shape.
        """
        batch, height, width, _ = x_BHWC.shape
        qkv = self.qkv(x_BHWC).view(batch, height * width, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, H * W, d)
        if self.use_rel_pos:
            mixed = self._attend_with_positions(q, k, v, (height, width))
        else:
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        projected: Tensor = self.proj(mixed.reshape(batch, height, width, -1))
        return projected

    def _attend_with_positions(self, q: Tensor, k: Tensor, v: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, H * W, heads, d), some images or some rows of one image's queries at a time."""
        height, width = size
        batch, heads, tokens, depth = q.shape
        grid = q.reshape(batch, heads, height, width, depth)
        bias_h = torch.einsum("bnhwc,hkc->bnhwk", grid, _gathered(self.rel_pos_h, height)).contiguous()
        bias_w = torch.einsum("bnhwc,wkc->bnhwk", grid, _gathered(self.rel_pos_w, width)).contiguous()
        if _plain_products_are_faster(q):
            return _attend_by_products(q, k, v, bias_h, bias_w)
        numbers = MASK_NUMBERS.get(q.device.type, MASK_NUMBERS_ELSEWHERE)
        images = max(1, numbers // (heads * tokens * tokens))
        rows = min(height, max(1, numbers // (heads * width * tokens)))
        mixed = q.new_empty(batch, tokens, heads, depth)
        for b in range(0, batch, images):
            some = slice(b, b + images)
            for y in range(0, height, rows):
                queries = slice(y * width, (y + rows) * width)
                mask = bias_h[some, :, y : y + rows, :, :, None] + bias_w[some, :, y : y + rows, :, None, :]
                mask = mask.flatten(4).flatten(2, 3)  # (b, heads, rows * W, H * W)
                part = F.scaled_dot_product_attention(q[some, :, queries], k[some], v[some], attn_mask=mask)
                mixed[some, queries] = part.transpose(1, 2)
        return mixed


def _plain_products_are_faster(q: Tensor) -> bool:
    if q.device.type != "cpu" or torch.compiler.is_compiling():  # exported programs have kernels of their own
        return False
    return q.dtype == torch.bfloat16 or q.shape[2] ** 2 > SCORES


def _attend_by_products(q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor) -> Tensor:
    """(B, H * W, heads, d), some heads or some rows of one head's queries at a time.

    Args:
        q, k, v: (B, heads, H * W, d). bias_h, bias_w: (B, heads, H, W, H) and (B, heads, H, W, W).
    """
    batch, heads, tokens, depth = q.shape
    height, width = bias_h.shape[2:4]
    at_once, rows = max(1, SCORES // tokens**2), max(1, SCORES // (width * tokens))
    q, k, v, bias_h, bias_w = (x.flatten(0, 1) for x in (q * depth**-0.5, k, v, bias_h, bias_w))
    mixed = torch.empty_like(q)
    for first in range(0, batch * heads, at_once):
        some = slice(first, first + at_once)
        for y in range(0, height, rows):
            those = slice(y * width, (y + rows) * width)
            bias = bias_h[some, y : y + rows, :, :, None] + bias_w[some, y : y + rows, :, None, :]
            scores = torch.baddbmm(bias.flatten(3).flatten(1, 2), q[some, those], k[some].transpose(1, 2))
            mixed[some, those] = torch.bmm(scores.softmax(dim=-1), v[some])
    return mixed.view(batch, heads, tokens, depth).transpose(1, 2)


def fuse_attention(image_encoder: nn.Module) -> None:
    """Replaces every segment-anything attention inside by a FusedAttention."""
    from segment_anything.modeling.image_encoder import Attention

    replace_layers(image_encoder, Attention, FusedAttention)


def _gathered(table_LC: Tensor, size: int) -> Tensor:
    """(size, size, C): row q, column k is the embedding of the distance q - k along one axis.

    Gathered anew in each call: 0.12 ms for 64 x 64 on one core, against 1.2 s of the attention, and no copy that
    could outlive a change of the weights.
    """
    length = 2 * size - 1
    if len(table_LC) != length:
        resized = F.interpolate(table_LC.T[None], size=length, mode="linear")
        table_LC = resized[0].T
    return table_LC[_distances(size, table_LC.device)]


@lru_cache(maxsize=64)
def _distances(size: int, device: torch.device) -> Tensor:
    """(size, size) int64: q - k, counted from the most negative one."""
    # Made inside a prediction it would be an inference tensor, with which nothing could be trained later.
    with torch.inference_mode(False):
        steps = torch.arange(size, device=device)
        return steps[:, None] - steps + size - 1
