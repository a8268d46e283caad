# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Hungarian matching of queries and targets, and the sampling of mask points that it and the mask losses use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cmpf.errors import TrainingError
from cmpf.types import Targets


def uniform_points(count: int, num_points: int, device: torch.device) -> Tensor:
    """Uniformly random points, (count, P, 2) in 0..1, drawn from the device's global generator."""
    return torch.rand(count, num_points, 2, device=device)


def sample_points(maps_NChw: Tensor, coords_NP2: Tensor) -> Tensor:
    """Samples maps bilinearly, with pixel centers at half-integer coordinates and zeros outside the map.

    Args:
        maps_NChw: float maps.
        coords_NP2: points, (x, y) in 0..1.
    Returns:
        (N, C, P).
    """
    grid = 2.0 * coords_NP2[:, None] - 1.0
    return F.grid_sample(maps_NChw, grid, mode="bilinear", align_corners=False)[:, :, 0]


@torch.no_grad()
def uncertain_points(
    logits_Mhw: Tensor, *, num_points: int, oversample_ratio: float, importance_sample_ratio: float
) -> Tensor:
    """Samples points for the mask losses: the most uncertain of random candidates, and uniformly random ones.

    Args:
        logits_Mhw: mask logits; the smaller the absolute value, the more uncertain.
        num_points: P, number of points per mask.
        oversample_ratio: number of candidates per point, at least 1.
        importance_sample_ratio: fraction of the points that are the most uncertain candidates, 0..1.
    Returns:
        (M, P, 2), (x, y) in 0..1.
    """
    count, device = logits_Mhw.shape[0], logits_Mhw.device
    num_uncertain = int(importance_sample_ratio * num_points)
    candidates = uniform_points(count, int(oversample_ratio * num_points), device)
    uncertainty = -sample_points(logits_Mhw[:, None], candidates)[:, 0].abs()
    index = uncertainty.topk(num_uncertain, dim=1, sorted=False).indices
    uncertain = candidates.gather(1, index[..., None].expand(-1, -1, 2))
    return torch.cat([uncertain, uniform_points(count, num_points - num_uncertain, device)], dim=1)


class TargetMasks:
    """Target masks of a batch, indexed consecutively over its images.

    They are stored as one flat bool tensor: a padded float copy for 1024 x 1024 images with 60 masks each would take
    4 GB.

    Args:
        masks: one (N, H, W) bool tensor per image; N, H and W may differ.
    """

    def __init__(self, masks: Sequence[Tensor]) -> None:
        device = masks[0].device
        self._values = torch.cat([mask.reshape(-1) for mask in masks])
        rows = [(mask.shape[1], mask.shape[2]) for mask in masks for _ in range(mask.shape[0])]
        sizes = torch.tensor(rows, dtype=torch.int64).reshape(-1, 2)
        area = sizes.prod(dim=1)
        self._start = (area.cumsum(0) - area).to(device)
        self._height, self._width = sizes.to(device).unbind(dim=1)

    def sample(self, index_M: Tensor, coords_MP2: Tensor) -> Tensor:
        """Samples masks bilinearly, with the same arithmetic as `sample_points`.

        Args:
            index_M: index of the mask in the batch.
            coords_MP2: points, (x, y) in 0..1.
        Returns:
            (M, P) float32 in 0..1.
        """
        start, height, width = (
            values[index_M][:, None] for values in (self._start, self._height, self._width)
        )
        columns = _neighbors(coords_MP2[..., 0], width)
        total = torch.zeros(coords_MP2.shape[:2], device=coords_MP2.device)
        for row, row_weight in _neighbors(coords_MP2[..., 1], height):
            line = torch.addcmul(start, row, width)
            for column, column_weight in columns:
                index = (line + column).flatten()  # index_select is several times as fast as indexing
                values = self._values.index_select(0, index).view_as(total)
                total.addcmul_(values.to(total.dtype), row_weight * column_weight)
        return total


def _neighbors(coords_MP: Tensor, size_M1: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The two pixels around each coordinate along one axis and their bilinear weights, 0 outside the mask."""
    position = torch.addcmul(torch.full_like(coords_MP, -0.5), coords_MP, size_M1)
    lower = position.floor()
    fraction = position - lower
    cell = lower.long()
    # Coordinates in 0..1 are at most half a pixel outside, so that only indices -1 and `size` are out of range.
    has_upper = cell < size_M1 - 1
    return [
        (cell.clamp(min=0), (1 - fraction) * (cell >= 0)),
        (cell + has_upper, fraction * has_upper),
    ]


# Mask logits sampled at once; 12,544 points of all heads and queries of four images would take half a gigabyte.
CPU_FLOATS = 8 * 1024 * 1024
GPU_FLOATS = 32 * 1024 * 1024


@dataclass(frozen=True)
class Matches:
    """Matched pairs, ordered by image; every head has the same number M of pairs.

    image: (M,) index of the image.
    query: (L, M) index of the query.
    target: (L, M) index of the target in the batch, as in TargetMasks.
    """

    image: Tensor
    query: Tensor
    target: Tensor


@dataclass(frozen=True, kw_only=True)
class HungarianMatcher:
    """Finds the one-to-one matching of queries and targets with the lowest cost.

    Args:
        class_weight, mask_weight, dice_weight: weights of the class probability, mask cross-entropy and dice costs.
        num_points: number of points per image at which masks are compared.
    """

    class_weight: float
    mask_weight: float
    dice_weight: float
    num_points: int

    @torch.no_grad()
    def __call__(
        self, logits_BLQK: Tensor, masks_BLQhw: Tensor, targets: Sequence[Targets], target_masks: TargetMasks
    ) -> Matches:
        """Matches the queries of every head with the targets of their image.

        Args:
            logits_BLQK: class logits, K + 1 classes.
            masks_BLQhw: mask logits.
            targets: labels (N,) and masks of each image.
            target_masks: the same masks, for sampling.
        Raises:
            TrainingError: a cost is not finite; names the term, the head and the image.
        """
        counts = [len(target["labels"]) for target in targets]
        padding = _TargetPadding(counts, masks_BLQhw.device)
        labels = torch.cat([target["labels"] for target in targets])
        costs = {
            "class": self.class_weight * _class_cost(logits_BLQK, padding.pad(labels)),
            **self._mask_costs(masks_BLQhw, padding, target_masks),
        }
        total = sum(costs.values(), torch.zeros(()).to(masks_BLQhw.device))
        host_cost = total.cpu().numpy()  # the only device-to-host copy of a training step
        for image, count in enumerate(counts):
            if not np.isfinite(host_cost[image, ..., :count]).all():
                raise _not_finite_error(costs, image, count)
        return _assign(host_cost, counts, masks_BLQhw.device)

    def _mask_costs(
        self, masks_BLQhw: Tensor, padding: _TargetPadding, target_masks: TargetMasks
    ) -> dict[str, Tensor]:
        """Weighted cross-entropy and dice costs, (B, L, Q, N); all heads of an image are compared at the same points.

        The costs are accumulated over chunks of points to bound memory.
        """
        images, heads, queries = masks_BLQhw.shape[:3]
        points = uniform_points(images, self.num_points, masks_BLQhw.device)
        maps = masks_BLQhw.flatten(1, 2).float()
        floats = CPU_FLOATS if points.device.type == "cpu" else GPU_FLOATS
        chunks = torch.split(points, max(1, floats // max(1, images * heads * queries)), dim=1)
        sums = [_point_sums(maps, coords, padding, target_masks) for coords in chunks]
        softplus, product, overlap, areas, target_areas = (
            torch.stack(parts).sum(dim=0) for parts in zip(*sums, strict=True)
        )
        # softplus(x) - x t is the binary cross-entropy of logit x and target t.
        bce = (softplus - product) / self.num_points
        dice = 1 - (2 * overlap + 1) / (areas + target_areas + 1)
        return {
            name: weight * value.reshape(images, heads, queries, -1)
            for name, weight, value in (("mask", self.mask_weight, bce), ("dice", self.dice_weight, dice))
        }


def _point_sums(
    maps_BMhw: Tensor, coords_BP2: Tensor, padding: _TargetPadding, target_masks: TargetMasks
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Sums over points of softplus(x), x t, s t, s and t, each broadcastable to (B, M, N).

    x: mask logits; s: sigmoid(x); t: target masks.
    """
    x = sample_points(maps_BMhw, coords_BP2)
    samples = target_masks.sample(padding.all_targets, coords_BP2[padding.image_of_target])
    t = padding.pad(samples).transpose(1, 2)
    softplus, product = F.softplus(x).sum(-1, keepdim=True), x @ t
    s = x.sigmoid_()
    return softplus, product, s @ t, s.sum(-1, keepdim=True), t.sum(1, keepdim=True)


class _TargetPadding:
    """Pads the concatenated targets of a batch to max(N) per image."""

    def __init__(self, counts: Sequence[int], device: torch.device) -> None:
        self._shape = (len(counts), max(counts, default=0))
        image = np.repeat(np.arange(len(counts)), counts)
        slot = np.concatenate([np.arange(count) for count in counts])
        self.image_of_target, self._slot = torch.from_numpy(np.stack([image, slot])).to(device).unbind()
        self.all_targets = torch.arange(len(image), device=device)

    def pad(self, values: Tensor) -> Tensor:
        """(all targets, ...) -> (B, max(N), ...), zero-padded."""
        padded = values.new_zeros(*self._shape, *values.shape[1:])
        padded[self.image_of_target, self._slot] = values
        return padded


def _class_cost(logits_BLQK: Tensor, labels_BN: Tensor) -> Tensor:
    """Negative probability of each target's class, (B, L, Q, N)."""
    _, heads, queries, _ = logits_BLQK.shape
    index = labels_BN[:, None, None].expand(-1, heads, queries, -1)
    return -logits_BLQK.float().softmax(dim=-1).gather(3, index)


def _assign(cost: np.ndarray, counts: Sequence[int], device: torch.device) -> Matches:
    """Solves all assignment problems on the host and copies the result to the device at once."""
    # Imported here, because it takes 0.2 s that inference does not need to spend.
    from scipy.optimize import linear_sum_assignment

    _, heads, queries, _ = cost.shape
    image = np.repeat(np.arange(len(counts)), np.minimum(counts, queries))
    matches = np.empty((2, heads, len(image)), dtype=np.int64)
    first_target = first_pair = 0
    for index, count in enumerate(counts):
        pairs = slice(first_pair, first_pair + min(count, queries))
        for head in range(heads if count else 0):
            target, query = linear_sum_assignment(cost[index, head, :, :count].T)
            matches[:, head, pairs] = query, target + first_target
        first_target += count
        first_pair = pairs.stop
    packed = torch.from_numpy(np.concatenate([image[None], matches.reshape(2 * heads, -1)])).to(device)
    return Matches(image=packed[0], query=packed[1 : 1 + heads], target=packed[1 + heads :])


def _not_finite_error(costs: dict[str, Tensor], image: int, count: int) -> TrainingError:
    for name, value in costs.items():
        bad = ~value[image, ..., :count].isfinite()
        if bad.any():
            head = int(bad.flatten(1).any(1).nonzero()[0])
            return TrainingError(
                f"the {name} cost of prediction head {head} is not finite for image {image} of the batch; "
                "lower SOLVER.BASE_LR, or check this image's masks and the weights that training started from"
            )
    return TrainingError(f"the sum of matching costs overflows for image {image} of the batch")
