# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Evaluation of the tiny encoders: CLIP's region classification and SAM's masks."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cmpf.common.tensors import mask_pooling, resize_bilinear
from cmpf.encoders.clip import CLIP
from cmpf.encoders.sam import SAMEncoder
from cmpf.encoders.sam_proposals import SAMProposer
from cmpf.encoders.text import embed_vocabulary
from cmpf.encoders.tiny import CLIP_NAME, SAM_NAME, tiny_tokenizer
from cmpf.shapeworld import CATEGORIES
from cmpf.shapeworld.categories import MATERIALS, SHAPES
from tiny_encoders.clip_training import dense_features, mask_logits, project
from tiny_encoders.sam_training import all_prompts, decode_points, encode_images, mask_iou
from tiny_encoders.scenes import SceneBatch, ScenePool, category_flags, make_batch

GRID = 12  # points per side of generated masks


@dataclass(frozen=True)
class RegionLabels:
    """True and predicted category (N,) int64 of regions; predicted -1 if the mask vanishes at stride 32."""

    true: Tensor
    predicted: Tensor

    def accuracy(self, categories: Tensor) -> float:
        """Accuracy in percent over the regions of some categories, (54,) bool."""
        selected = categories[self.true]
        return float((self.predicted == self.true)[selected].float().mean() * 100)


@torch.no_grad()
def classify_regions(model: nn.Module, pool: ScenePool) -> RegionLabels:
    """Classifies every ground-truth region of the scenes among all 54 categories."""
    # A copy, because CLIP replaces layers and freezes them.
    clip = CLIP(name=CLIP_NAME, model=copy.deepcopy(model), tokenizer=tiny_tokenizer())
    texts = embed_vocabulary(clip, [category.words for category in CATEGORIES], cache=None)
    true, predicted = [], []
    for start in range(0, len(pool), 32):
        index = np.arange(start, min(start + 32, len(pool)))
        batch = make_batch(pool, index, np.zeros(len(index), np.bool_))
        _, dense = dense_features(model, batch.images)
        logits = mask_logits(batch.masks)
        visible = (resize_bilinear(logits, (dense.shape[-2], dense.shape[-1])) > 0).any(dim=-1).any(dim=-1)
        regions = project(model, mask_pooling(dense, logits)[batch.present])
        best = texts.class_of_row[(regions @ texts.matrix.T).argmax(dim=1)]
        predicted.append(torch.where(visible[batch.present], best, -1))
        true.append(batch.category_ids[batch.present])
    return RegionLabels(torch.cat(true), torch.cat(predicted))


def accuracy_table(labels: RegionLabels) -> dict[str, float]:
    """Accuracies in percent, overall and by groups of categories; percentage of masks that vanish at stride 32."""
    seen, thing = category_flags("seen"), category_flags("isthing")
    rows = {
        "regions": labels.accuracy(torch.ones_like(seen)),
        "seen": labels.accuracy(seen),
        "unseen": labels.accuracy(~seen),
        "things": labels.accuracy(thing),
        "things seen": labels.accuracy(thing & seen),
        "things unseen": labels.accuracy(thing & ~seen),
        "stuff": labels.accuracy(~thing),
        "stuff unseen": labels.accuracy(~thing & ~seen),
    }
    for attribute, values in (("material", MATERIALS), ("shape", SHAPES)):
        for value in values:
            rows[value] = labels.accuracy(torch.tensor([getattr(c, attribute) == value for c in CATEGORIES]))
        of_category = torch.tensor(
            [values.index(v) if (v := getattr(c, attribute)) else -1 for c in CATEGORIES]
        )
        # The last entry, -2, is the attribute of predictions -1 (vanished masks) and matches no other.
        predicted = torch.cat([of_category, torch.tensor([-2])])[labels.predicted]
        correct = predicted == of_category[labels.true]
        rows[f"{attribute} of things"] = float(correct[thing[labels.true]].float().mean() * 100)
    rows["vanished masks"] = float((labels.predicted < 0).float().mean() * 100)
    return rows


@torch.no_grad()
def point_ious(
    sam: nn.Module, batch: SceneBatch, embeddings: Tensor, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Evaluates the masks of one random point in every segment.

    Returns:
        (N,) best IoU of the three masks, IoU of the mask with the highest predicted IoU, and category.
    """
    prompts = all_prompts(batch, generator=generator)
    logits, predicted = decode_points(sam, embeddings, prompts.points, prompts.image_index)
    at_size = resize_bilinear(logits, (prompts.masks.shape[-2], prompts.masks.shape[-1]))
    iou = mask_iou(at_size, prompts.masks.float())[:, 1:]
    trusted = iou.gather(1, predicted[:, 1:].argmax(dim=1, keepdim=True))[:, 0]
    return iou.max(dim=1).values, trusted, prompts.category_ids


def mask_generator(sam: nn.Module) -> SAMProposer:
    """Mask generation with a copy of SAM, because SAMEncoder replaces layers and freezes them."""
    return SAMProposer(
        encoder=SAMEncoder(name=SAM_NAME, sam=copy.deepcopy(sam)),
        points_per_side=GRID,
        coarse_points_per_side=0,
        iou_threshold=0.7,
        stability_threshold=0.7,
        nms_threshold=0.7,
        min_area=0,
        max_masks=3 * GRID**2,
    )


def best_overlap(masks: Tensor, proposals: Tensor) -> NDArray[np.float32]:
    """Maximum IoU (N,) of each true mask (N, P, P) over the proposals (M, P, P)."""
    if len(proposals) == 0:
        return np.zeros(len(masks), np.float32)
    true, proposed = masks.flatten(1).float(), proposals.flatten(1).float()
    intersection = true @ proposed.T
    union = true.sum(dim=1)[:, None] + proposed.sum(dim=1)[None] - intersection
    best: NDArray[np.float32] = (intersection / union).max(dim=1).values.numpy()
    return best


def _proposal_overlaps(proposer: SAMProposer, batch: SceneBatch, embeddings: Tensor) -> tuple[Tensor, int]:
    """Maximum IoU of every segment of the batch with its image's proposals, and the number of proposals."""
    overlaps, count = [], 0
    for masks, present, embedding in zip(batch.masks, batch.present, embeddings, strict=True):
        size = (masks.shape[-2], masks.shape[-1])
        logits = proposer(embedding[None], padded=size, unpadded=size).logits
        proposals = resize_bilinear(logits[None], size)[0] > 0
        overlaps.append(torch.from_numpy(best_overlap(masks[present], proposals)))
        count += len(proposals)
    return torch.cat(overlaps), count


def _group_means(name: str, values: Tensor, categories: Tensor) -> dict[str, float]:
    """Means in percent over groups of categories."""
    seen, thing = category_flags("seen")[categories], category_flags("isthing")[categories]
    groups = {
        "all": torch.ones_like(seen),
        "things seen": thing & seen,
        "things unseen": thing & ~seen,
        "stuff seen": ~thing & seen,
        "stuff unseen": ~thing & ~seen,
        "things": thing,
    }
    return {f"{name}, {group}": float(values[selected].mean() * 100) for group, selected in groups.items()}


def evaluate_sam(sam: nn.Module, pool: ScenePool, *, seed: int) -> dict[str, float]:
    """Evaluates SAM on all segments of the scenes.

    Returns:
        In percent: best-of-three IoU and IoU of the mask with the highest predicted IoU, for one random point per
        segment; recall at IoU 0.5 of automatic proposals. Also the number of proposals per image.
    """
    generator = torch.Generator().manual_seed(seed)
    sam = sam.eval()
    proposer = mask_generator(sam)
    parts, count = [], 0
    for start in range(0, len(pool), 16):
        index = np.arange(start, min(start + 16, len(pool)))
        batch = make_batch(pool, index, np.zeros(len(index), np.bool_))
        with torch.no_grad():
            embeddings = encode_images(sam, batch.images)
        best, trusted, categories = point_ious(sam, batch, embeddings, generator)
        overlap, num_proposals = _proposal_overlaps(proposer, batch, embeddings)
        parts.append(torch.stack([best, trusted, (overlap >= 0.5).float(), categories.float()]))
        count += num_proposals
    best, trusted, recalled, categories = torch.cat(parts, dim=1)
    label = categories.long()
    rows = _group_means("IoU best of 3", best, label) | {"IoU trusted, all": float(trusted.mean() * 100)}
    rows |= _group_means("found by proposals", recalled, label)
    return rows | {"proposals an image": count / len(pool)}
