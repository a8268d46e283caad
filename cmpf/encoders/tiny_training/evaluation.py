# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What the tiny encoders can do: regions that CLIP names rightly, and what SAM finds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.common.tensors import mask_pooling, masks_to_boxes, resize_bilinear
from cmpf.encoders.text import TEMPLATES
from cmpf.encoders.tiny import tiny_tokenizer
from cmpf.encoders.tiny_training.clip_training import dense_features, mask_logits, project, read
from cmpf.encoders.tiny_training.sam_training import all_prompts, decode_points, encode_images, mask_iou
from cmpf.encoders.tiny_training.scenes import INPUT_SIZE, SceneBatch, ScenePool, category_flags, make_batch
from cmpf.shapeworld import CATEGORIES
from cmpf.shapeworld.categories import MATERIALS, SHAPES

_CHUNK = 128


@torch.no_grad()
def category_texts(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Embeddings (T, E) of all categories' words, averaged over the templates; category (T,) of each row."""
    tokenizer = tiny_tokenizer()
    words = [word for category in CATEGORIES for word in category.words]
    prompts = [template.format(word) for word in words for template in TEMPLATES]
    chunks = [prompts[i : i + _CHUNK] for i in range(0, len(prompts), _CHUNK)]
    vectors = torch.cat([read(model, tokenizer, chunk) for chunk in chunks])
    matrix = F.normalize(vectors.view(len(words), len(TEMPLATES), -1).mean(dim=1), dim=-1)
    return matrix, torch.tensor([category.id for category in CATEGORIES for _ in category.words])


@dataclass(frozen=True)
class Naming:
    """True and named category (N,) int64 of the regions; named -1 where the mask vanished."""

    truth: Tensor
    named: Tensor

    def share(self, wanted: Tensor) -> float:
        """Percentage named rightly among the regions whose category is wanted, (54,) bool."""
        chosen = wanted[self.truth]
        return float((self.named == self.truth)[chosen].float().mean() * 100)


@torch.no_grad()
def name_regions(model: nn.Module, pool: ScenePool) -> Naming:
    """Names every ground-truth region of the scenes among all 54 categories."""
    matrix, class_of_row = category_texts(model)
    truth, named = [], []
    for start in range(0, len(pool), 32):
        index = np.arange(start, min(start + 32, len(pool)))
        batch = make_batch(pool, index, np.zeros(len(index), np.bool_))
        _, dense = dense_features(model, batch.images)
        logits = mask_logits(batch.masks)
        visible = (resize_bilinear(logits, (dense.shape[-2], dense.shape[-1])) > 0).any(dim=-1).any(dim=-1)
        regions = project(model, mask_pooling(dense, logits)[batch.present])
        best = class_of_row[(regions @ matrix.T).argmax(dim=1)]
        named.append(torch.where(visible[batch.present], best, -1))
        truth.append(batch.category_ids[batch.present])
    return Naming(torch.cat(truth), torch.cat(named))


def naming_table(naming: Naming) -> dict[str, float]:
    """Percentages of regions named rightly, over all and by kind; of masks that vanish at stride 32."""
    seen, thing = category_flags("seen"), category_flags("isthing")
    rows = {
        "regions": naming.share(torch.ones_like(seen)),
        "seen": naming.share(seen),
        "unseen": naming.share(~seen),
        "things": naming.share(thing),
        "things seen": naming.share(thing & seen),
        "things unseen": naming.share(thing & ~seen),
        "stuff": naming.share(~thing),
        "stuff unseen": naming.share(~thing & ~seen),
    }
    for attribute, values in (("material", MATERIALS), ("shape", SHAPES)):
        for value in values:
            rows[value] = naming.share(torch.tensor([getattr(c, attribute) == value for c in CATEGORIES]))
        of_category = torch.tensor(
            [values.index(v) if (v := getattr(c, attribute)) else -1 for c in CATEGORIES]
        )
        # Index -1 (a vanished mask) is answered by a last entry that matches nothing.
        answers = torch.cat([of_category, torch.tensor([-2])])
        right = answers[naming.named] == of_category[naming.truth]
        rows[f"{attribute} of things"] = float(right[thing[naming.truth]].float().mean() * 100)
    rows["vanished masks"] = float((naming.named < 0).float().mean() * 100)
    return rows


GRID = 12  # points per side
LEAST_IOU, LEAST_STABILITY, STABILITY_OFFSET, NMS_IOU = 0.7, 0.7, 1.0, 0.7


@torch.no_grad()
def point_ious(
    sam: nn.Module, batch: SceneBatch, embeddings: Tensor, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """One random point in every segment.

    Returns:
        (N,) best IoU of the three masks, IoU of the mask that SAM itself thinks best, and category.
    """
    prompts = all_prompts(batch, generator=generator)
    logits, predicted = decode_points(sam, embeddings, prompts.points, prompts.image_index)
    at_size = resize_bilinear(logits, (prompts.masks.shape[-2], prompts.masks.shape[-1]))
    iou = mask_iou(at_size, prompts.masks.float())[:, 1:]
    trusted = iou.gather(1, predicted[:, 1:].argmax(dim=1, keepdim=True))[:, 0]
    return iou.max(dim=1).values, trusted, prompts.category_ids


def grid_points(side: int) -> Tensor:
    """(side * side, 2) x, y in the middle of the cells of a grid over the input."""
    line = (torch.arange(side) + 0.5) / side * INPUT_SIZE
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


@torch.no_grad()
def automatic_proposals(sam: nn.Module, embedding: Tensor, size: int) -> Tensor:
    """Masks (M, size, size) bool for a grid of points: the trusted and stable ones, without near-doubles.

    Args:
        embedding: (1, 64, 16, 16).
    """
    from torchvision.ops import nms

    points = grid_points(GRID)
    logits, predicted = decode_points(sam, embedding, points, torch.zeros(len(points), dtype=torch.int64))
    logits, predicted = logits[:, 1:].flatten(0, 1), predicted[:, 1:].flatten()
    certain = (logits > STABILITY_OFFSET).sum(dim=(1, 2))
    possible = (logits > -STABILITY_OFFSET).sum(dim=(1, 2)).clamp(min=1)
    keep = (predicted > LEAST_IOU) & (certain / possible > LEAST_STABILITY)
    masks = resize_bilinear(logits[keep][:, None], (size, size))[:, 0] > 0
    predicted = predicted[keep]
    order = nms(masks_to_boxes(masks), predicted, NMS_IOU)
    return masks[order]


def best_overlap(masks: Tensor, proposals: Tensor) -> NDArray[np.float32]:
    """(N,) highest IoU of each true mask (N, P, P) with any of the proposals (M, P, P)."""
    if len(proposals) == 0:
        return np.zeros(len(masks), np.float32)
    true, found = masks.flatten(1).float(), proposals.flatten(1).float()
    both = true @ found.T
    union = true.sum(dim=1)[:, None] + found.sum(dim=1)[None] - both
    best: NDArray[np.float32] = (both / union).max(dim=1).values.numpy()
    return best


def _proposal_recall(sam: nn.Module, batch: SceneBatch, embeddings: Tensor) -> tuple[Tensor, int]:
    """Best overlap of every segment of the batch with the proposals for its image; number of proposals."""
    overlaps, count = [], 0
    for masks, present, embedding in zip(batch.masks, batch.present, embeddings, strict=True):
        proposals = automatic_proposals(sam, embedding[None], masks.shape[-1])
        overlaps.append(torch.from_numpy(best_overlap(masks[present], proposals)))
        count += len(proposals)
    return torch.cat(overlaps), count


def _rows(name: str, values: Tensor, categories: Tensor) -> dict[str, float]:
    seen, thing = category_flags("seen")[categories], category_flags("isthing")[categories]
    groups = {
        "all": torch.ones_like(seen),
        "things seen": thing & seen,
        "things unseen": thing & ~seen,
        "stuff seen": ~thing & seen,
        "stuff unseen": ~thing & ~seen,
        "things": thing,
    }
    return {f"{name}, {group}": float(values[chosen].mean() * 100) for group, chosen in groups.items()}


def judge_sam(sam: nn.Module, pool: ScenePool, *, seed: int) -> dict[str, float]:
    """Judges SAM on all segments of the scenes, in percent.

    Best-of-three and trusted IoU from one random point each; recall at IoU 0.5 of automatic proposals.
    """
    generator = torch.Generator().manual_seed(seed)
    sam = sam.eval()
    parts, count = [], 0
    for start in range(0, len(pool), 16):
        index = np.arange(start, min(start + 16, len(pool)))
        batch = make_batch(pool, index, np.zeros(len(index), np.bool_))
        with torch.no_grad():
            embeddings = encode_images(sam, batch.images)
        best, trusted, categories = point_ious(sam, batch, embeddings, generator)
        overlap, proposals = _proposal_recall(sam, batch, embeddings)
        parts.append(torch.stack([best, trusted, (overlap >= 0.5).float(), categories.float()]))
        count += proposals
    best, trusted, found, categories = torch.cat(parts, dim=1)
    label = categories.long()
    rows = _rows("IoU best of 3", best, label) | {"IoU trusted, all": float(trusted.mean() * 100)}
    rows |= _rows("found by proposals", found, label)
    return rows | {"proposals an image": count / len(pool)}
