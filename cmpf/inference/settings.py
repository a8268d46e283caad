# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What a call asks for: settings, vocabulary and sizes, as the steps after the network read them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cmpf.encoders.sam_proposals import Proposals
from cmpf.inference.resize import MaskRows
from cmpf.types import ClassEmbeddings


@dataclass(frozen=True, kw_only=True)
class MaskEnsembleSettings:
    """OpenSeg Ensemble, and SAM's masks as candidates for segments and instances.

    tasks: results that SAM's masks take part in, of "semantic", "panoptic" and "instance".
    alpha: weight of SAM's masks for unseen classes in the semantic sum.
    score_threshold: unseen probability that a mask must exceed.
    decoder_share, max_overlap: of candidates, see join_candidates.
    overlap_threshold: that of panoptic results in which candidates take part.
    published_pooling: pool CLIP's features as the published code does, see sam_evidence.
    """

    tasks: frozenset[str]
    alpha: float
    score_threshold: float
    decoder_share: float
    max_overlap: float
    overlap_threshold: float
    published_pooling: bool


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """Everything that may differ between two runs of the same network; values come from the configuration.

    alpha, beta: weight of CLIP's opinion for seen and unseen classes.
    ensemble_on_valid_mask: leave CLIP's opinion out for masks without a pixel on CLIP's map.
    clip_objectness: lambda of the objectness adjustment, 0 = off.
    semantic_output: "labels" or "scores".
    resize_before: resize masks to the output size before the semantic sum, not after it.
    instance_mask_score: "probability" or "logit", see instance_inference.
    min_island_share: islands of a mask below this share of its largest one are removed, see
        without_islands; 0 = none.
    held_pixels: see instance_inference; None = masks are always held.
    mask_ensemble: None = off. proposals: also return every proposed mask (for mask recall).
    """

    alpha: float
    beta: float
    ensemble_on_valid_mask: bool
    clip_objectness: float
    semantic: bool
    panoptic: bool
    instance: bool
    semantic_output: str
    object_mask_threshold: float
    overlap_threshold: float
    resize_before: bool
    detections_per_image: int
    mask_ensemble: MaskEnsembleSettings | None
    proposals: bool
    # What programs that were exported without these computed:
    instance_mask_score: str = "probability"
    min_island_share: float = 0.0
    held_pixels: int | None = None

    @property
    def tasks(self) -> frozenset[str]:
        """The results asked for."""
        on = {"semantic": self.semantic, "panoptic": self.panoptic, "instance": self.instance}
        return frozenset(task for task, wanted in on.items() if wanted)

    def ensemble_for(self, task: str) -> MaskEnsembleSettings | None:
        """The mask ensemble where it takes part in a result."""
        ensemble = self.mask_ensemble
        return ensemble if ensemble is not None and task in ensemble.tasks else None

    @property
    def reads_sam_masks(self) -> bool:
        """Whether anything asked for reads SAM's masks; else SAM need not make them."""
        return self.mask_ensemble is not None and (
            self.proposals or bool(self.tasks & self.mask_ensemble.tasks)
        )


@dataclass(frozen=True)
class Request:
    """One call's vocabulary, as tensors, and its settings. is_thing, seen: (K,) bool."""

    classes: ClassEmbeddings
    is_thing: Tensor
    seen: Tensor
    settings: InferenceSettings


@dataclass(frozen=True)
class ImageGeometry:
    """Sizes (H, W) of one image: padded network input, input without padding, wanted output."""

    padded: tuple[int, int]
    unpadded: tuple[int, int]
    output: tuple[int, int]


@dataclass(frozen=True)
class SAMEvidence:
    """SAM's masks of one image, and CLIP's class probabilities of them: (M, K + 1), last column void.

    A mask that CLIP cannot see has zeros only.
    """

    proposals: Proposals
    class_probs: Tensor

    def rows(self, kept_M: Tensor, output: tuple[int, int]) -> MaskRows:
        """Some of the masks at an output size (H, W)."""
        return MaskRows(
            self.proposals.logits[kept_M],
            padded=self.proposals.padded,
            unpadded=self.proposals.unpadded,
            output=output,
        )


def semantic_sum_size(geometry: ImageGeometry, settings: InferenceSettings) -> tuple[int, int]:
    """The resolution at which masks are summed into class scores."""
    before = settings.resize_before or settings.panoptic or settings.instance
    return geometry.output if before else geometry.unpadded
