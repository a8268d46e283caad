# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Training as published (Mask2Former): samples are resized, then cropped; losses are computed per head and image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from cmpf.losses import SetCriterion
from cmpf.types import DecoderOutput, HeadOutput, Sample, Targets

Draw: TypeAlias = Callable[[int, int, torch.device], Tensor]


def draw_uniform(count: int, points: int, device: torch.device) -> Tensor:
    """(count, points, 2) random points in 0..1."""
    return torch.rand(count, points, 2, device=device)


def losses(
    criterion: SetCriterion, outputs: DecoderOutput, targets: Sequence[Targets], *, draw: Draw = draw_uniform
) -> dict[str, Tensor]:
    """The same as SetCriterion.forward in one process; uses its attributes, but not its methods."""
    total = max(1.0, float(sum(len(target["labels"]) for target in targets)))
    result = {}
    heads: list[tuple[str, HeadOutput]] = [("", outputs)]
    heads += [(f"_{index}", head) for index, head in enumerate(outputs["aux_outputs"])]
    for suffix, head in heads:
        pairs = match(criterion, head, targets, draw)
        result[f"loss_ce{suffix}"] = criterion.weights["loss_ce"] * _classes(criterion, head, targets, pairs)
        mask, dice = _masks(criterion, head, targets, pairs, draw)
        result[f"loss_mask{suffix}"] = criterion.weights["loss_mask"] * mask / total
        result[f"loss_dice{suffix}"] = criterion.weights["loss_dice"] * dice / total
    return result


@torch.no_grad()
def match(
    criterion: SetCriterion, head: HeadOutput, targets: Sequence[Targets], draw: Draw
) -> list[tuple[Tensor, Tensor]]:
    """Indices (queries, targets) of the matched pairs of each image."""
    matcher, pairs = criterion.matcher, []
    for logits, masks, target in zip(head["pred_logits"], head["pred_masks"], targets, strict=True):
        cost_class = -logits.softmax(dim=-1)[:, target["labels"]]
        points = draw(1, matcher.num_points, masks.device)
        truth = target["masks"].to(masks)[:, None]
        x = _sample(masks[:, None], points.expand(len(masks), -1, -1))
        t = _sample(truth, points.expand(len(truth), -1, -1))
        positive = F.binary_cross_entropy_with_logits(x, torch.ones_like(x), reduction="none")
        negative = F.binary_cross_entropy_with_logits(x, torch.zeros_like(x), reduction="none")
        cost_mask = (positive @ t.T + negative @ (1 - t).T) / matcher.num_points
        s = x.sigmoid()
        cost_dice = 1 - (2 * s @ t.T + 1) / (s.sum(dim=1)[:, None] + t.sum(dim=1)[None] + 1)
        cost = (
            matcher.class_weight * cost_class
            + matcher.mask_weight * cost_mask
            + matcher.dice_weight * cost_dice
        )
        query, index = linear_sum_assignment(cost.cpu().numpy())
        pairs.append((torch.as_tensor(query), torch.as_tensor(index)))
    return pairs


def _classes(
    criterion: SetCriterion,
    head: HeadOutput,
    targets: Sequence[Targets],
    pairs: Sequence[tuple[Tensor, Tensor]],
) -> Tensor:
    logits = head["pred_logits"]
    classes = torch.full(logits.shape[:2], criterion.num_classes, dtype=torch.int64, device=logits.device)
    for image, (query, index) in enumerate(pairs):
        classes[image, query.to(logits.device)] = targets[image]["labels"][index.to(logits.device)]
    weight = torch.ones(logits.shape[-1], device=logits.device)
    weight[-1] = criterion.no_object_weight
    return F.cross_entropy(logits.transpose(1, 2), classes, weight)


def _masks(
    criterion: SetCriterion,
    head: HeadOutput,
    targets: Sequence[Targets],
    pairs: Sequence[tuple[Tensor, Tensor]],
    draw: Draw,
) -> tuple[Tensor, Tensor]:
    """Sums over pairs of cross-entropy and dice."""
    device = head["pred_masks"].device
    matched = torch.cat(
        [masks[query.to(device)] for masks, (query, _) in zip(head["pred_masks"], pairs, strict=True)]
    )
    truth = _pad_and_stack(
        [t["masks"][index.to(device)] for t, (_, index) in zip(targets, pairs, strict=True)]
    )
    points = _uncertain_points(criterion, matched.detach(), draw)
    t = _sample(truth.to(matched)[:, None], points)
    x = _sample(matched[:, None], points)
    s = x.sigmoid()
    mask = F.binary_cross_entropy_with_logits(x, t, reduction="none").mean(dim=1).sum()
    dice = (1 - (2 * (s * t).sum(dim=1) + 1) / (s.sum(dim=1) + t.sum(dim=1) + 1)).sum()
    return mask, dice


@torch.no_grad()
def _uncertain_points(criterion: SetCriterion, logits: Tensor, draw: Draw) -> Tensor:
    """(N, P, 2) points, most of them where logits are near 0 (PointRend)."""
    count = criterion.num_points
    candidates = draw(len(logits), int(criterion.oversample_ratio * count), logits.device)
    uncertainty = -_sample(logits[:, None], candidates).abs()
    best = uncertainty.topk(int(criterion.importance_sample_ratio * count), dim=1).indices
    uncertain = torch.gather(candidates, 1, best[..., None].expand(-1, -1, 2))
    return torch.cat([uncertain, draw(len(logits), count - best.shape[1], logits.device)], dim=1)


def _pad_and_stack(masks: Sequence[Tensor]) -> Tensor:
    """All masks zero-padded to a common size at the right and bottom."""
    height, width = (max(m.shape[axis] for m in masks) for axis in (1, 2))
    return torch.cat([F.pad(m, (0, width - m.shape[2], 0, height - m.shape[1])) for m in masks])


def _sample(maps_N1hw: Tensor, points_NP2: Tensor) -> Tensor:
    grid = 2 * points_NP2[:, None] - 1
    return F.grid_sample(maps_N1hw, grid, mode="bilinear", align_corners=False)[:, 0, 0]


class PublishedMapper:
    """Reads, flips, resizes and crops an image with its panoptic PNG, with LargeScaleJitter's random numbers.

    Args:
        size: side of the square crop, in pixels.
        min_scale: minimum scale of the jitter.
        max_scale: maximum scale of the jitter.
        image_pad: gray value of padding.
    """

    def __init__(self, *, size: int, min_scale: float, max_scale: float, image_pad: int) -> None:
        self.size, self.image_pad = size, image_pad
        self.min_scale, self.max_scale = min_scale, max_scale

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        """Returns image (3, S, S) uint8, labels (N,) and masks (N, S, S) bool."""
        image = np.asarray(Image.open(sample["file_name"]).convert("RGB"))
        colors = np.asarray(Image.open(sample["pan_seg_file_name"]).convert("RGB")).astype(np.int32)
        ids = colors[..., 0] + 256 * colors[..., 1] + 65536 * colors[..., 2]
        if rng.random() < 0.5:
            image, ids = image[:, ::-1], ids[:, ::-1]
        ratio = rng.uniform(self.min_scale, self.max_scale) * self.size / max(ids.shape)
        height, width = (max(1, round(side * ratio)) for side in ids.shape)
        top = int(rng.integers(0, max(height - self.size, 0), endpoint=True))
        left = int(rng.integers(0, max(width - self.size, 0), endpoint=True))
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        ids = np.asarray(Image.fromarray(ids, mode=None).resize((width, height), Image.Resampling.NEAREST))
        image = image[top : top + self.size, left : left + self.size]
        ids = ids[top : top + self.size, left : left + self.size]
        down, right = self.size - ids.shape[0], self.size - ids.shape[1]
        image = np.pad(image, ((0, down), (0, right), (0, 0)), constant_values=self.image_pad)
        ids = np.pad(ids, ((0, down), (0, right)))
        labels, masks = [], []
        for segment in sample["segments_info"]:
            mask = ids == segment["id"]
            if not segment.get("iscrowd", 0) and mask.any():
                labels.append(segment["category_id"])
                masks.append(torch.from_numpy(mask))
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "masks": torch.stack(masks) if masks else torch.zeros(0, self.size, self.size, dtype=torch.bool),
        }
