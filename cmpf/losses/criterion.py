# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Set criterion: classification and mask losses of matched queries for all prediction heads (Mask2Former)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import record_function

from cmpf.common import distributed
from cmpf.errors import TrainingError
from cmpf.losses.matcher import HungarianMatcher, Matches, TargetMasks, sample_points, uncertain_points
from cmpf.types import DecoderOutput, Targets


@dataclass(frozen=True)
class Normalizers:
    """Divisors of the losses, averaged over all processes.

    With these, the losses averaged over processes equal those of a single process with the full batch. Likewise the
    losses of the parts of a batch, divided by the normalizers of the full batch, sum to its losses.

    targets: (), number of targets, at least 1; divides the mask losses.
    class_weight: (), sum of the class weights of one head's queries; divides the classification loss.
    images: (), number of images; divides losses that are means over images.
    """

    targets: Tensor
    class_weight: Tensor
    images: Tensor


def normalizers(
    targets: Sequence[Targets], *, queries: int, no_object_weight: float, device: torch.device
) -> Normalizers:
    """Computes the normalizers of a batch. In distributed training all processes must call it.

    Args:
        targets: one per image of this process.
        queries: Q, number of queries per image; at most Q targets are matched.
        no_object_weight: class weight of unmatched queries; matched ones have weight 1.
        device: device of the result; the call does not synchronize it.
    """
    counts = [len(target["labels"]) for target in targets]
    matched = sum(min(count, queries) for count in counts)
    class_weight = matched + no_object_weight * (len(counts) * queries - matched)
    sums = torch.tensor([sum(counts), class_weight, len(counts)], dtype=torch.float32, device=device)
    number, weight, images = distributed.all_reduce_mean(sums).unbind()
    return Normalizers(
        targets=number.clamp(min=1.0), class_weight=weight.clamp(min=1e-8), images=images.clamp(min=1.0)
    )


class SetCriterion(nn.Module):
    """Weighted losses of all prediction heads.

    Args:
        num_classes: K; class K is void.
        matcher: matches queries with targets.
        class_weight, mask_weight, dice_weight: weights of the three losses.
        no_object_weight: class weight of void.
        num_points: P, number of points per mask at which the mask losses are computed.
        oversample_ratio, importance_sample_ratio: sampling of these points, see `uncertain_points`.
        deep_supervision: whether the earlier heads have losses, too.
        clip_class_weight: weight of the cross-entropy of CLIP's class logits of the last head's matched masks; 0 = off.
        double_softmax: see clip_class_loss.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        matcher: HungarianMatcher,
        class_weight: float,
        mask_weight: float,
        dice_weight: float,
        no_object_weight: float,
        num_points: int,
        oversample_ratio: float,
        importance_sample_ratio: float,
        deep_supervision: bool = True,
        clip_class_weight: float = 0.0,
        double_softmax: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.matcher = matcher
        self.weights = {"loss_ce": class_weight, "loss_mask": mask_weight, "loss_dice": dice_weight}
        self.no_object_weight = no_object_weight
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio
        self.deep_supervision = deep_supervision
        self.clip_class_weight, self.double_softmax = clip_class_weight, double_softmax

    def normalizers(self, targets: Sequence[Targets], *, queries: int, device: torch.device) -> Normalizers:
        """Normalizers of a batch with Q queries per image; see the function `normalizers`."""
        return normalizers(targets, queries=queries, no_object_weight=self.no_object_weight, device=device)

    def forward(
        self,
        outputs: DecoderOutput,
        targets: Sequence[Targets],
        normalizers: Normalizers | None = None,
    ) -> dict[str, Tensor]:
        """Computes the losses, multiplied by their weights.

        Args:
            outputs: pred_logits (B, Q, K + 1), pred_masks (B, Q, h, w), and aux_outputs, the earlier heads in order.
            targets: one per image, labels (N,) int64 in 0..K-1 and masks (N, H, W) bool; N, H, W may differ.
            normalizers: normalizers of the full batch if this is a part of it; None = those of this batch.
        Returns:
            loss_ce, loss_mask, loss_dice of the last head, and with suffix _0, _1, ... of the earlier heads; loss_clip
            if it is on and `outputs` has clip_logits.
        Raises:
            TrainingError: inconsistent targets, or matching costs that are not finite.
        """
        self._check(outputs, targets)
        heads = [*outputs["aux_outputs"], outputs] if self.deep_supervision else [outputs]
        # In float32 even under autocast: a sum over 12,544 points overflows half precision.
        with torch.autocast(outputs["pred_masks"].device.type, enabled=False):
            logits = torch.stack([head["pred_logits"] for head in heads], dim=1).float()
            masks = stack_heads([head["pred_masks"] for head in heads])
            target_masks = TargetMasks([target["masks"] for target in targets])
            with record_function("matching"):
                matches = self.matcher(logits.detach(), masks.detach(), targets, target_masks)
            labels = torch.cat([target["labels"] for target in targets])
            normalizers = normalizers or self.normalizers(
                targets, queries=logits.shape[2], device=logits.device
            )
            ce = self._classification(logits, labels, matches) / normalizers.class_weight
            mask, dice = self._masks(masks, target_masks, matches)
            number = normalizers.targets
        losses: dict[str, Tensor] = {}
        for name, values in (("loss_ce", ce), ("loss_mask", mask / number), ("loss_dice", dice / number)):
            *earlier, last = (values * self.weights[name]).unbind()
            losses[name] = last
            losses.update({f"{name}_{index}": value for index, value in enumerate(earlier)})
        if self.clip_class_weight and "clip_logits" in outputs:
            clip_logits = outputs["clip_logits"][matches.image, matches.query[-1]]
            loss = clip_class_loss(
                clip_logits, labels[matches.target[-1]], double_softmax=self.double_softmax
            )
            losses["loss_clip"] = self.clip_class_weight * loss / number
        return losses

    def _check(self, outputs: DecoderOutput, targets: Sequence[Targets]) -> None:
        images, _, columns = outputs["pred_logits"].shape
        if columns != self.num_classes + 1:
            raise TrainingError(
                f"class logits have {columns} columns, expected {self.num_classes} training classes + void"
            )
        if len(targets) != images:
            raise TrainingError(f"{len(targets)} targets for {images} images")
        for index, target in enumerate(targets):
            if len(target["labels"]) != len(target["masks"]):
                raise TrainingError(
                    f"target {index} has {len(target['labels'])} labels but {len(target['masks'])} masks"
                )

    def _classification(self, logits_BLQK: Tensor, labels: Tensor, matches: Matches) -> Tensor:
        """Class-weighted cross-entropy of each head (L,), summed over queries."""
        heads = torch.arange(logits_BLQK.shape[1], device=labels.device)[:, None]
        classes = labels.new_full(logits_BLQK.shape[:3], self.num_classes)
        classes[matches.image, heads, matches.query] = labels[matches.target]
        losses = F.cross_entropy(logits_BLQK.flatten(0, 2), classes.flatten(), reduction="none")
        weights = torch.where(classes == self.num_classes, self.no_object_weight, 1.0)
        return (losses.view_as(weights) * weights).sum(dim=(0, 2))

    def _masks(
        self, masks_BLQhw: Tensor, target_masks: TargetMasks, matches: Matches
    ) -> tuple[Tensor, Tensor]:
        """Binary cross-entropy and dice losses of each head (L,), summed over its matched pairs."""
        heads = torch.arange(masks_BLQhw.shape[1], device=masks_BLQhw.device)[:, None]
        matched = masks_BLQhw[matches.image, heads, matches.query].flatten(0, 1).float()
        coords = uncertain_points(
            matched.detach(),
            num_points=self.num_points,
            oversample_ratio=self.oversample_ratio,
            importance_sample_ratio=self.importance_sample_ratio,
        )
        t = target_masks.sample(matches.target.flatten(), coords)
        x = sample_points(matched[:, None], coords)[:, 0]
        s = x.sigmoid()
        bce = F.binary_cross_entropy_with_logits(x, t, reduction="none").mean(dim=1)
        dice = 1 - (2 * (s * t).sum(dim=1) + 1) / (s.sum(dim=1) + t.sum(dim=1) + 1)
        shape = matches.target.shape
        return bce.view(shape).sum(dim=1), dice.view(shape).sum(dim=1)


def padded_targets(targets: Targets, *, like: Tensor) -> Targets:
    """Moves targets to the device of the padded images `like` (B, 3, H, W) and pads the masks to their size."""
    masks = targets["masks"].to(like.device, non_blocking=True)
    masks = F.pad(masks, (0, like.shape[-1] - masks.shape[-1], 0, like.shape[-2] - masks.shape[-2]))
    return {"labels": targets["labels"].to(like.device, non_blocking=True), "masks": masks}


def stack_heads(maps: Sequence[Tensor]) -> Tensor:
    """`torch.stack(maps, dim=1)`, without a copy if the maps are consecutive views of one tensor.

    They are in the output of TransformerDecoder, which computes the masks of all heads in one product. For an image of
    1024 x 1024 (10 heads, 250 queries, float32) this saves 0.65 GB for the masks and as much for their gradient.

    Args:
        maps: L tensors (B, Q, h, w).
    Returns:
        (B, L, Q, h, w).
    """
    first, base = maps[0], maps[0]._base
    if base is None or not base.is_contiguous() or base.numel() != len(maps) * first.numel():
        return torch.stack(list(maps), dim=1)
    batch, queries, height, width = first.shape
    size = queries * height * width
    strides = (len(maps) * size, height * width, width, 1)
    for index, view in enumerate(maps):
        same_layout = view._base is base and view.shape == first.shape and view.stride() == strides
        if not same_layout or view.storage_offset() != base.storage_offset() + index * size:
            return torch.stack(list(maps), dim=1)
    return base.view(batch, len(maps), queries, height, width)


def clip_class_loss(logits_MK: Tensor, labels_M: Tensor, *, double_softmax: bool) -> Tensor:
    """Cross-entropy of CLIP's class logits of matched masks, summed over masks (OVRCOAT, arXiv 2603.21386).

    Args:
        logits_MK: CLIP's logits without void.
        labels_M: true classes.
        double_softmax: apply the softmax twice, as the published code does; the loss then never falls below
            log(1 + (K - 1) / e), and its gradients are weak.
    Returns:
        (), 0 without masks.
    """
    scores = logits_MK.softmax(dim=-1) if double_softmax else logits_MK
    return F.cross_entropy(scores, labels_M, reduction="sum")
