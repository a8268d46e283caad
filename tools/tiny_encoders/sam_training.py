# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Class-agnostic training of tiny SAM with point prompts inside segments of all categories."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.encoders.pair import SAM_PIXEL_MEAN, SAM_PIXEL_STD
from cmpf.encoders.tiny import EMBED_CHANNELS, build_tiny_sam
from tiny_encoders.scenes import (
    INPUT_SIZE,
    SceneBatch,
    ScenePool,
    category_flags,
    network_input,
)
from tiny_encoders.training import Plan, train

MASK_SIZE = 64
PROMPTS_PER_IMAGE = 8


@dataclass(frozen=True)
class PointPrompts:
    """One point in each of N masks.

    points: (N, 2) (x, y) in pixels of the 256 x 256 input.
    image_index: (N,) int64 index of the image in the batch.
    masks: (N, P, P) bool, the segments that contain the points.
    category_ids: (N,) int64.
    """

    points: Tensor
    image_index: Tensor
    masks: Tensor
    category_ids: Tensor


def _sample_points(masks: Tensor, generator: torch.Generator) -> Tensor:
    """A random pixel of each mask (N, P, P), as (x, y) in pixels of the network's input."""
    side = masks.shape[-1]
    uniform = torch.rand(len(masks), generator=generator)
    inside = [mask.flatten().nonzero()[:, 0] for mask in masks]
    pixel = torch.stack(
        [pixels[int(u * len(pixels))] for pixels, u in zip(inside, uniform.tolist(), strict=True)]
    )
    scale = INPUT_SIZE / side
    # Minus half a pixel, which SAM's prompt encoder adds.
    return torch.stack([(pixel % side + 0.5) * scale - 0.5, (pixel // side + 0.5) * scale - 0.5], dim=1)


def draw_prompts(batch: SceneBatch, *, per_image: int, generator: torch.Generator) -> PointPrompts:
    """Samples `per_image` segments of each image, repeated if it has fewer, and a point in each."""
    order = torch.rand(batch.category_ids.shape, generator=generator).masked_fill(~batch.present, 2.0)
    order = order.argsort(dim=1)
    count = batch.present.sum(dim=1, keepdim=True)
    chosen = order.gather(1, torch.arange(per_image)[None, :] % count)
    image_index = torch.arange(len(chosen)).repeat_interleave(per_image)
    segment = chosen.flatten()
    return _prompts(batch, image_index, segment, generator)


def all_prompts(batch: SceneBatch, *, generator: torch.Generator) -> PointPrompts:
    """Samples a point in every segment of the batch."""
    image_index, segment = batch.present.nonzero(as_tuple=True)
    return _prompts(batch, image_index, segment, generator)


def _prompts(
    batch: SceneBatch, image_index: Tensor, segment: Tensor, generator: torch.Generator
) -> PointPrompts:
    masks = batch.masks[image_index, segment]
    points = _sample_points(masks, generator)
    return PointPrompts(points, image_index, masks, batch.category_ids[image_index, segment])


def encode_images(sam: nn.Module, images: Tensor) -> Tensor:
    """SAM's image embedding (B, 64, 16, 16) of images (B, 3, P, P), 0..255."""
    model: Any = sam
    x = network_input(images, mean=SAM_PIXEL_MEAN, std=SAM_PIXEL_STD).contiguous()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=sam.training):
        embedding: Tensor = model.image_encoder(x)
    return embedding.float()


def decode_points(
    sam: nn.Module, embeddings: Tensor, points: Tensor, image_index: Tensor
) -> tuple[Tensor, Tensor]:
    """Decodes the masks of points in several images at once with segment-anything's mask decoder.

    The decoder repeats a single image embedding for all prompts and adds each prompt's dense embedding. Here the image
    embeddings are added to the dense embeddings, and the single image embedding is zero.

    Returns:
        Logits (N, 4, 64, 64) and predicted IoU (N, 4); mask 0 is the single-mask output.
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
    """Fraction of each low-resolution pixel that the mask covers: (N, P, P) bool -> (N, 64, 64) float."""
    return F.adaptive_avg_pool2d(masks.float()[:, None], MASK_SIZE)[:, 0]


def boundary(targets: Tensor) -> Tensor:
    """(..., 64, 64) bool: pixels within two pixels of the mask's boundary."""
    flat = targets.flatten(0, -3)[:, None]
    mean = F.avg_pool2d(flat, 5, stride=1, padding=2, count_include_pad=False)[:, 0]
    return ((mean > 0.02) & (mean < 0.98)).view(targets.shape)


def mask_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy, with weight 3 near the boundary, plus dice loss.

    Args:
        logits: (N, 4, 64, 64).
        targets: (N, 64, 64), 0..1.
    Returns:
        (N, 4).
    """
    targets_4 = targets[:, None].expand_as(logits)
    weight = (1 + 2 * boundary(targets).float())[:, None]
    bce = F.binary_cross_entropy_with_logits(logits, targets_4, reduction="none")
    bce = (bce * weight).sum(dim=(2, 3)) / weight.sum(dim=(2, 3))
    probability = logits.sigmoid()
    overlap = 2 * (probability * targets_4).sum(dim=(2, 3)) + 1
    dice = 1 - overlap / (probability.sum(dim=(2, 3)) + targets_4.sum(dim=(2, 3)) + 1)
    return 2 * bce + dice


def mask_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """IoU (N, 4) of logits > 0 and targets > 0.5."""
    predicted, true = logits > 0, (targets > 0.5)[:, None]
    union = (predicted | true).sum(dim=(2, 3)).clamp(min=1)
    return (predicted & true).sum(dim=(2, 3)) / union


class LayoutHead(nn.Module):
    """Auxiliary head that predicts boundaries, things and offsets to each thing's center from the image embedding.

    Dense targets train the image encoder faster than a few prompts; the head is discarded after training.
    """

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Conv2d(EMBED_CHANNELS, 4 * 16, kernel_size=1)

    def forward(self, embeddings: Tensor, batch: SceneBatch) -> Tensor:
        """Loss, given embeddings (B, 64, 16, 16)."""
        masks = F.adaptive_avg_pool2d(batch.masks.float(), MASK_SIZE)
        outline = (boundary(masks) & batch.present[..., None, None]).any(dim=1).float()
        isthing = category_flags("isthing")[batch.category_ids] & batch.present
        thing = (masks * isthing[..., None, None]).sum(dim=1)
        line = torch.linspace(-1, 1, MASK_SIZE)
        area = masks.sum(dim=(2, 3)).clamp(min=1e-6)
        y = (masks.sum(dim=3) * line).sum(dim=2) / area
        x = (masks.sum(dim=2) * line).sum(dim=2) / area
        offset_y = (masks * (y[..., None, None] - line[:, None])).sum(dim=1)
        offset_x = (masks * (x[..., None, None] - line[None, :])).sum(dim=1)
        maps = F.pixel_shuffle(self.map(embeddings), 4)
        bce = F.binary_cross_entropy_with_logits(maps[:, :2], torch.stack([outline, thing], dim=1))
        # Offsets are predicted for things only: the center of stuff is meaningless.
        offset_loss = F.smooth_l1_loss(
            maps[:, 2:], torch.stack([offset_y, offset_x], dim=1), beta=0.1, reduction="none"
        )
        return bce + (offset_loss * thing[:, None]).sum() / thing.sum().clamp(min=1)


class SamObjective(nn.Module):
    """Losses of a batch of scenes."""

    def __init__(self, *, seed: int) -> None:
        super().__init__()
        self.layout = LayoutHead()
        self._best = 0.0
        self._generator = torch.Generator().manual_seed(seed)

    def forward(self, sam: nn.Module, batch: SceneBatch) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Weighted losses, and the running mean of the best-of-three IoU."""
        embeddings = encode_images(sam, batch.images)
        prompts = draw_prompts(batch, per_image=PROMPTS_PER_IMAGE, generator=self._generator)
        logits, predicted = decode_points(sam, embeddings, prompts.points, prompts.image_index)
        targets = soft_targets(prompts.masks)
        losses = mask_losses(logits, targets)
        iou = mask_iou(logits.detach(), targets)
        three = losses[:, 1:]
        terms = {
            # The mean over all three keeps training the masks that are not the best.
            "mask": three.min(dim=1).values.mean() + 0.1 * three.mean() + 0.2 * losses[:, 0].mean(),
            "iou": F.mse_loss(predicted, iou),
            "layout": self.layout(embeddings, batch),
        }
        self._best += 0.02 * (iou[:, 1:].max(dim=1).values.mean().item() - self._best)
        return terms, {"best": self._best}


@torch.no_grad()
def initialize(sam: nn.Module) -> None:
    """Initializes the position embedding with sines and cosines, and the linear layers with small weights."""
    model: Any = sam
    encoder = model.image_encoder
    for module in encoder.blocks.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    _, height, width, channels = encoder.pos_embed.shape
    quarter = channels // 4
    frequency = torch.exp(-math.log(100.0) * torch.arange(quarter) / quarter)
    y = torch.arange(height)[:, None] * frequency
    x = torch.arange(width)[:, None] * frequency
    rows = torch.cat([y.sin(), y.cos()], dim=1)[:, None].expand(-1, width, -1)
    columns = torch.cat([x.sin(), x.cos()], dim=1)[None].expand(height, -1, -1)
    encoder.pos_embed.copy_(0.2 * torch.cat([rows, columns], dim=2)[None])


def train_sam(pool: ScenePool, plan: Plan) -> nn.Module:
    """Trains tiny SAM from random weights and returns the averaged model."""
    torch.manual_seed(plan.seed)
    sam = build_tiny_sam().train()
    initialize(sam)
    return train(sam, SamObjective(seed=plan.seed), pool, plan, title="tiny SAM")
