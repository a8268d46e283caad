# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Data types shared by the packages, and the legend of tensor shapes.

Shape letters used throughout CMPF:
    B images in a batch; Q queries; N targets of an image; K classes; T synonyms of all classes;
    D width of the decoder; E width of CLIP's joint embedding space; C channels of a feature map;
    S channels of SAM's embedding; M SAM mask proposals; P proposal queries, or points sampled from a mask;
    L tokens of a flattened map or of a text; H, W height and width in pixels; h, w of a feature map.
    cmpf/modeling/deformable and cmpf/losses define additional letters for levels and heads.
Sizes are always (H, W). Masks are logits (inside > 0) unless a name says otherwise. Boxes are (x0, y0, x1, y1) in
pixels, the lower right corner exclusive.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import torch
from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import NotRequired


class Targets(TypedDict):
    """Ground truth of one training image."""

    labels: Tensor  # (N,) int64, contiguous class index in the training vocabulary
    masks: Tensor  # (N, H, W) bool, at the size of the sample's image


UNLABELED = 65535  # label of pixels without a class in semantic results
MaskOrigin = Literal["decoder", "sam"]  # the network that predicted a mask


class SegmentInfo(TypedDict, total=False):
    """One segment of a panoptic image: Detectron2's keys, plus score and source."""

    id: int  # value in the id map, from 1; 0 is void
    category_id: int  # contiguous class index
    isthing: bool
    iscrowd: int
    area: int  # pixels
    score: float  # 0..1
    source: MaskOrigin  # predictions only
    bbox: list[int]  # ground truth only: COCO's [x, y, width, height]


class Sample(TypedDict, total=False):
    """One image in Detectron2's format: one dict per image, passed through mapper, loader and model."""

    file_name: str
    image_id: int | str
    height: int  # output size of the results
    width: int
    image: Tensor  # (3, H, W) uint8 or float, RGB, 0..255
    targets: Targets  # training only
    pan_seg_file_name: str  # ground truth files, for readers and evaluators
    segments_info: list[SegmentInfo]
    sem_seg_file_name: str
    annotations: list[dict[str, Any]]  # COCO instance annotations
    sam_masks: Tensor  # (M, height, width) float logits: precomputed SAM proposals
    neg_category_ids: list[int]  # LVIS: classes known to be absent
    not_exhaustive_category_ids: list[int]  # LVIS: classes of which not every object is annotated


@dataclass(frozen=True)
class CLIPFeatures:
    """Feature maps of the CLIP image encoder.

    levels: "res2", "res3", "res4", "res5" -> (B, C, h, w) at strides 4, 8, 16, 32.
    dense: (B, C, H/32, W/32), input of mask pooling and of CLIP's projection.
    """

    levels: dict[str, Tensor]
    dense: Tensor


@dataclass(frozen=True)
class FrozenFeatures:
    """Outputs of both encoders for a batch.

    clip: see CLIPFeatures.
    sam: (B, S, hs, ws), SAM's image embedding; None if no part of the model uses SAM.
    sam_alone: whether SAM embedded each image alone, so that its embedding does not depend on the batch.
    proposals: (B, P, H/4, W/4) logits of SAM's masks for the proposal queries, zeros for missing masks; None = the
        model has no proposal queries.
    """

    clip: CLIPFeatures
    sam: Tensor | None
    sam_alone: bool = False
    proposals: Tensor | None = None

    def detached(self) -> FrozenFeatures:
        """The same features without gradient to CLIP."""
        levels = {name: level.detach() for name, level in self.clip.levels.items()}
        return replace(self, clip=CLIPFeatures(levels=levels, dense=self.clip.dense.detach()))


class HeadOutput(TypedDict):
    """Predictions of one head."""

    pred_logits: Tensor  # (B, Q, K + 1), last column void
    pred_masks: Tensor  # (B, Q, H/4, W/4) logits


class DecoderOutput(HeadOutput):
    """Predictions of the last head, and of the earlier heads for deep supervision."""

    aux_outputs: list[HeadOutput]  # first head to last but one
    clip_logits: NotRequired[Tensor]  # (B, Q, K), CLIP's class logits of the masks, if a loss needs them


@dataclass(frozen=True)
class ClassEmbeddings:
    """Text embeddings of a vocabulary in CLIP's joint space.

    matrix: (T, E) float, one L2-normalized row per synonym; the rows of a class are contiguous.
    class_of_row: (T,) int64, class index of each row, non-decreasing; every class 0..K-1 occurs.
    num_classes: K.
    """

    matrix: Tensor
    class_of_row: Tensor
    num_classes: int

    def with_void(self, void_1E: Tensor) -> ClassEmbeddings:
        """Appends a normalized void embedding (1, E) as class K."""
        index = torch.full((1,), self.num_classes, dtype=torch.int64, device=self.class_of_row.device)
        return ClassEmbeddings(
            matrix=torch.cat([self.matrix, void_1E]),
            class_of_row=torch.cat([self.class_of_row, index]),
            num_classes=self.num_classes + 1,
        )

    def to(self, device: torch.device | str) -> ClassEmbeddings:
        """Copies the embeddings to a device."""
        return replace(self, matrix=self.matrix.to(device), class_of_row=self.class_of_row.to(device))


@dataclass(frozen=True)
class InstanceResult:
    """Instances of one image, best first (the fields of Detectron2's Instances).

    pred_masks: (N, H, W) bool, or (0, H, W) if lazy_masks is set.
    pred_boxes: (N, 4) float, tight xyxy boxes.
    scores: (N,) float, 0..1.
    pred_classes: (N,) int64.
    of_sam: (N,) bool, whether the mask is SAM's, not the decoder's; None = all are the decoder's.
    lazy_masks: MaskSequence that computes each mask when it is read, for very large images; else None.
    """

    pred_masks: Tensor
    pred_boxes: Tensor
    scores: Tensor
    pred_classes: Tensor
    of_sam: Tensor | None = None
    lazy_masks: Any = None

    def __len__(self) -> int:
        return int(self.scores.shape[0])


class ModelResult(TypedDict, total=False):
    """The model's results for one image, one key per task that is on."""

    sem_seg: Tensor  # (H, W) int32 class index, or (K, H, W) float scores, depending on the settings
    semantic_scores: Any  # SemanticScores instead of sem_seg, if the settings ask for lazy scores
    panoptic_seg: tuple[Tensor, list[SegmentInfo]]  # ids (H, W) int32, 0 = void, and the segments
    instances: InstanceResult
    proposals: Tensor  # (Q [+ M], H, W) bool, all proposed masks; only for mask recall
