# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Point prompts for tiny SAM, and its mask decoder on a whole batch of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tools.tiny_training.scenes import INPUT_SIZE, SAM_MEAN, SAM_STD, SceneBatch, network_input

MASK_SIZE = 64


@dataclass(frozen=True)
class PointPrompts:
    """One point in each of N masks.

    points (N, 2) x, y in pixels of the 256 x 256 input; image_index (N,) int64, which image of the batch;
    masks (N, P, P) bool, the segments that the points lie in; category_ids (N,).
    """

    points: Tensor
    image_index: Tensor
    masks: Tensor
    category_ids: Tensor


def _points_in(masks: Tensor, generator: torch.Generator) -> Tensor:
    """A random pixel of each mask (N, P, P), as x, y in pixels of the network's input."""
    side = masks.shape[-1]
    luck = torch.rand(len(masks), generator=generator)
    inside = [mask.flatten().nonzero()[:, 0] for mask in masks]
    pixel = torch.stack(
        [pixels[int(u * len(pixels))] for pixels, u in zip(inside, luck.tolist(), strict=True)]
    )
    scale = INPUT_SIZE / side
    # SAM's prompt encoder adds half a pixel itself.
    return torch.stack([(pixel % side + 0.5) * scale - 0.5, (pixel // side + 0.5) * scale - 0.5], dim=1)


def draw_prompts(batch: SceneBatch, *, per_image: int, generator: torch.Generator) -> PointPrompts:
    """Draws segments of each image (each at least once where `per_image` allows), and a point in each."""
    order = torch.rand(batch.category_ids.shape, generator=generator).masked_fill(~batch.present, 2.0)
    order = order.argsort(dim=1)
    count = batch.present.sum(dim=1, keepdim=True)
    chosen = order.gather(1, torch.arange(per_image)[None, :] % count)
    image_index = torch.arange(len(chosen)).repeat_interleave(per_image)
    segment = chosen.flatten()
    masks = batch.masks[image_index, segment]
    return PointPrompts(
        _points_in(masks, generator), image_index, masks, batch.category_ids[image_index, segment]
    )


def all_prompts(batch: SceneBatch, *, generator: torch.Generator) -> PointPrompts:
    """One point in every segment of the batch."""
    image_index, segment = batch.present.nonzero(as_tuple=True)
    masks = batch.masks[image_index, segment]
    return PointPrompts(
        _points_in(masks, generator), image_index, masks, batch.category_ids[image_index, segment]
    )


def encode_images(sam: nn.Module, images: Tensor) -> Tensor:
    """SAM's image embedding (B, 64, 16, 16) of images (B, 3, P, P), 0..255."""
    model: Any = sam
    x = network_input(images, mean=SAM_MEAN, std=SAM_STD).contiguous()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=sam.training):
        embedding: Tensor = model.image_encoder(x)
    return embedding.float()


def decode_points(
    sam: nn.Module, embeddings: Tensor, points: Tensor, image_index: Tensor
) -> tuple[Tensor, Tensor]:
    """Masks for points of several images at once, with segment-anything's own decoder.

    The decoder repeats ONE image embedding for all prompts and adds each prompt's dense embedding. To serve a
    batch the image embedding is given as part of the dense one, and zeros in its place.

    Returns:
        Logits (N, 4, 64, 64) and predicted IoU (N, 4); number 0 is the mask for unambiguous prompts.
    """
    model: Any = sam
    labels = torch.ones(len(points), 1)
    sparse, dense = model.prompt_encoder(points=(points[:, None], labels), boxes=None, masks=None)
    position = model.prompt_encoder.get_dense_pe()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=sam.training):
        masks, iou = model.mask_decoder.predict_masks(
            image_embeddings=torch.zeros_like(embeddings[:1]),
            image_pe=position,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense + embeddings[image_index],
        )
    return masks.float(), iou.float()


def soft_targets(masks: Tensor) -> Tensor:
    """Share of each low-resolution pixel that the mask covers: (N, P, P) bool to (N, 64, 64) float."""
    return F.adaptive_avg_pool2d(masks.float()[:, None], MASK_SIZE)[:, 0]
