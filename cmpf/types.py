# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What travels between the packages, and the legend of tensor shapes.

Shape letters, everywhere in CMPF:
    B images in a batch; Q queries; N targets of an image; K classes; T synonyms in all classes;
    D width of the decoder; E width of CLIP's joint embedding space; C channels of a feature map;
    S channels of SAM's embedding; M SAM mask proposals; P queries that start at them, or points on a mask;
    L tokens of a flattened map or of a text; H, W height and width in pixels; h, w of a feature map.
    Several levels or heads: cmpf/modeling/deformable and cmpf/losses say theirs.
Order is always (H, W). Masks are logits (inside > 0) unless a name says otherwise. Boxes are (x0, y0, x1, y1) in
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


UNLABELED = 65535  # in semantic results: no class is sure enough
MaskOrigin = Literal["decoder", "sam"]  # whose mask it is


class SegmentInfo(TypedDict, total=False):
    """One segment of a panoptic image: Detectron2's keys, plus the score."""

    id: int  # value in the id map, from 1; 0 is void
    category_id: int  # contiguous class index
    isthing: bool
    iscrowd: int
    area: int  # pixels
    score: float  # 0..1
    source: MaskOrigin  # predictions only
    bbox: list[int]  # ground truth only: COCO's [x, y, width, height]


class Sample(TypedDict, total=False):
    """One image on its way through mapper, loader and model (Detectron2's contract: one dict per image)."""

    file_name: str
    image_id: int | str
    height: int  # size that results must have
    width: int
    image: Tensor  # (3, H, W) uint8 or float, RGB, 0..255
    targets: Targets  # training only
    pan_seg_file_name: str  # ground truth files, for readers and evaluators
    segments_info: list[SegmentInfo]
    sem_seg_file_name: str
    annotations: list[dict[str, Any]]  # COCO instance annotations
    sam_masks: Tensor  # (M, height, width) float logits: SAM proposals made beforehand
    neg_category_ids: list[int]  # LVIS: classes known to be absent
    not_exhaustive_category_ids: list[int]  # LVIS: classes of which not every object is marked


@dataclass(frozen=True)
class CLIPFeatures:
    """What the frozen CLIP image encoder sees.

    levels: "res2", "res3", "res4", "res5" -> (B, C, h, w) at strides 4, 8, 16, 32.
    dense: (B, C, H/32, W/32), the map that mask pooling and CLIP's projection read.
    """

    levels: dict[str, Tensor]
    dense: Tensor


@dataclass(frozen=True)
class FrozenFeatures:
    """Outputs of both frozen encoders for a batch.

    clip: see CLIPFeatures.
    sam: (B, S, hs, ws), SAM's final image embedding, or None where no part of the model uses SAM.
    proposals: (B, P, H/4, W/4) logits of SAM's masks, zeros where an image has fewer; None = no query starts there.
    """

    clip: CLIPFeatures
    sam: Tensor | None
    proposals: Tensor | None = None

    def detached(self) -> FrozenFeatures:
        """The same without CLIP's gradient."""
        levels = {name: level.detach() for name, level in self.clip.levels.items()}
        return replace(self, clip=CLIPFeatures(levels=levels, dense=self.clip.dense.detach()))


class HeadOutput(TypedDict):
    """Predictions of one head."""

    pred_logits: Tensor  # (B, Q, K + 1), last column void
    pred_masks: Tensor  # (B, Q, H/4, W/4) logits


class DecoderOutput(HeadOutput):
    """Predictions of the last head, and of the earlier ones (deep supervision), first to last."""

    aux_outputs: list[HeadOutput]
    clip_logits: NotRequired[Tensor]  # (B, Q, K), CLIP's names of the masks, where training asks for them


@dataclass(frozen=True)
class ClassEmbeddings:
    """A vocabulary in CLIP's joint space.

    matrix: (T, E) float, one L2-normalized row per synonym, rows of a class next to each other.
    class_of_row: (T,) int64, class index of each row, non-decreasing, every class 0..K-1 present.
    num_classes: K.
    """

    matrix: Tensor
    class_of_row: Tensor
    num_classes: int

    def with_void(self, void_1E: Tensor) -> ClassEmbeddings:
        """Appends a void row (1, E), already normalized, as the last class K."""
        index = torch.full((1,), self.num_classes, dtype=torch.int64, device=self.class_of_row.device)
        return ClassEmbeddings(
            matrix=torch.cat([self.matrix, void_1E]),
            class_of_row=torch.cat([self.class_of_row, index]),
            num_classes=self.num_classes + 1,
        )

    def to(self, device: torch.device | str) -> ClassEmbeddings:
        """The same embeddings on another device."""
        return replace(self, matrix=self.matrix.to(device), class_of_row=self.class_of_row.to(device))


@dataclass(frozen=True)
class InstanceResult:
    """Instances of one image, best first (the fields of Detectron2's Instances).

    pred_masks (N, H, W) bool; pred_boxes (N, 4) float xyxy, tight; scores (N,) float 0..1; pred_classes (N,) int64;
    of_sam (N,) bool, whether the mask is SAM's and not the decoder's; None = all are the decoder's; lazy_masks: of a
    very large image, where it was allowed, the masks as something that makes each when it is read (MaskSequence), and
    pred_masks is (0, H, W).
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
    """What the model returns for one image, by the tasks that are switched on."""

    sem_seg: Tensor  # (H, W) int32 class index, or (K, H, W) float scores, by configuration
    semantic_scores: Any  # SemanticScores in place of sem_seg, for what reads some rows at a time
    panoptic_seg: tuple[Tensor, list[SegmentInfo]]  # ids (H, W) int32 with 0 = void, and its segments
    instances: InstanceResult
    proposals: Tensor  # (Q [+ M], H, W) bool, all proposed masks; only when mask recall is measured
