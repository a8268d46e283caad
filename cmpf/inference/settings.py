# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What a call asks for: settings, selection, vocabulary and sizes, as the steps after the network read them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmpf.common.regions import worth_showing
from cmpf.encoders.sam_proposals import Proposals
from cmpf.errors import CMPFError
from cmpf.inference.resize import MaskRows
from cmpf.types import ClassEmbeddings, Sample

if TYPE_CHECKING:
    from cmpf.formats.addresses import UrlPolicy
    from cmpf.inference.conversions import Instances


TASKS = ("all", "panoptic", "semantic", "instance")
SMALLEST_TILE = 64  # pixels


class SelectionOptions(TypedDict, total=False):
    """What is left out of results; see Selection."""

    min_score: float
    max_instances: int | None
    nms: float
    multi_label: bool
    background: bool
    min_semantic_score: float


class Options(SelectionOptions, total=False):
    """Keyword arguments of Predictor.predict and Predictor.stream."""

    task: str | Collection[str]
    ensemble: bool | None
    things: Iterable[str] | None
    stuff: Iterable[str] | None
    batch_size: int
    allow_urls: UrlPolicy
    max_pixels: int
    tile: int | None
    overlap: float


def checked_tasks(task: str | Collection[str]) -> frozenset[str]:
    """The tasks of a call: one, several, or "all".

    Raises:
        CMPFError: one is unknown.
    """
    many = isinstance(task, Iterable) and not isinstance(task, str)
    names = list(task) if many else [str(task)]
    for name in names if many and names else [task]:
        if name not in TASKS:
            raise CMPFError(f"task {name!r} is unknown; choose one of {', '.join(TASKS)}")
    return frozenset(TASKS[1:] if "all" in names else names)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is left out of results.

    min_score: instances and panoptic segments of a lower score, 0..1. Masks whose class has a lower probability do not
        compete for the pixels of a panoptic image.
    max_instances: all but the best of an image; None = TEST.DETECTIONS_PER_IMAGE of the configuration.
    nms: instances whose mask has a larger IoU, 0..1, with that of a better one, of whatever class; 1 = none.
    multi_label: a mask may be several instances, one of each class, as COCO's protocol counts them; else it is one, of
        its best class, and none where that is stuff.
    background: the semantic result is UNLABELED where no class reaches min_semantic_score.
    min_semantic_score: 0..1; the score of a class at a pixel is a sum over all masks that hold it.

    Raises:
        CMPFError: a value is out of range.
    """

    min_score: float = 0.3
    max_instances: int | None = None
    nms: float = 0.7
    multi_label: bool = False
    background: bool = False
    min_semantic_score: float = 0.3

    def __post_init__(self) -> None:
        for name in ("min_score", "nms", "min_semantic_score"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise CMPFError(f"{name} must be a number from 0 to 1, got {value!r}")
        most = self.max_instances
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
            raise CMPFError(f"max_instances must be a whole number from 1, or None for all, got {most!r}")

    def pairs(self, probs_QK: Tensor, is_thing: Tensor, *, bounded: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, queries and classes (N,) of what may become an instance, best first.

        Args:
            probs_QK: class probabilities, without void.
            is_thing: (K,) bool.
            bounded: whether the score of an instance is at most that of its class, so that masks of lower ones need
                not be made.
        """
        things = is_thing.to(probs_QK.device).expand_as(probs_QK)
        if not self.multi_label:
            things = things & (probs_QK == probs_QK.amax(dim=1, keepdim=True))
        if bounded:
            things = things & (probs_QK >= self.min_score)
        queries, classes = things.nonzero(as_tuple=True)
        scores, order = probs_QK[queries, classes].sort(descending=True, stable=True)
        return scores, queries[order], classes[order]

    def of_instances(self, found: Instances) -> Instances:
        """Those that stay, best first."""
        places = worth_showing(found.masks, found.scores, self.min_score, self.nms)[: self.max_instances]
        if len(places) == len(found):
            return found
        return found.chosen(np.array(places, dtype=np.int64))

    def floor(self, threshold: float) -> float:
        """A threshold of the configuration, at least min_score."""
        # Those with a score of no more than the threshold are left out, and of exactly min_score stay.
        return max(threshold, float(np.nextafter(np.float32(self.min_score), np.float32(-1))))


def unlabeled(best_HW: Tensor, labels_HW: Tensor, minimum: float) -> Tensor:
    """Labels (H, W), -1 where the best score of a class is below the minimum."""
    return torch.where(best_HW < minimum, -1, labels_HW)


@dataclass(frozen=True)
class Tiling:
    """How images are cut.

    tile: side of a tile in pixels. overlap: least share of it, 0 .. 0.5, that neighbors have in common. Objects
    smaller than the overlap are whole in some tile; larger ones are put together from their parts.
    batch_size: tiles in one pass of the network.
    """

    tile: int
    overlap: float = 0.25
    batch_size: int = 1

    def __post_init__(self) -> None:
        """
        Raises:
            CMPFError: a value is out of its range.
        """
        if isinstance(self.tile, bool) or not isinstance(self.tile, int) or self.tile < SMALLEST_TILE:
            raise CMPFError(f"tile must be a whole number of pixels from {SMALLEST_TILE}, got {self.tile!r}")
        if isinstance(self.overlap, bool) or not 0 <= self.overlap <= 0.5:
            raise CMPFError(f"overlap must be a share of the tile from 0 to 0.5, got {self.overlap!r}")


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
    semantic_output: "labels", "scores", or "lazy" for SemanticScores.
    resize_before: resize masks to the output size before the semantic sum, not after it.
    instance_mask_score: "probability" or "logit", see instance_inference.
    min_island_share: islands of a mask below this share of its largest one are removed, see
        without_islands; 0 = none.
    held_pixels: see instance_inference; None = masks are always held.
    mask_ensemble: None = off. proposals: also return every proposed mask (for mask recall).
    selection: what of the results is left out, and instances are things; None = nothing, as metrics want it.
    tiling: how Predictor cuts images; None = they stay whole.
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
    selection: Selection | None = None
    tiling: Tiling | None = None

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
class Prepared:
    """One image, decoded and at the size that the network takes.

    image: (H, W, 3) uint8 RGB; sample: what the network takes; name: its path, address, or "image_3".
    """

    image: NDArray[np.uint8]
    sample: Sample
    name: str


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
