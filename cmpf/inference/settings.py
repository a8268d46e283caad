# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Inference settings, result selection, and the per-call and per-image inputs of post-processing."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cmpf.common.regions import select_instances
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
    """Keyword arguments of Selection."""

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


def parse_tasks(task: str | Collection[str]) -> frozenset[str]:
    """Returns the set of tasks that one name, several names or "all" stand for.

    Raises:
        CMPFError: a task is unknown, or the collection is empty.
    """
    many = isinstance(task, Iterable) and not isinstance(task, str)
    names = list(task) if many else [str(task)]
    for name in names if many and names else [task]:
        if name not in TASKS:
            raise CMPFError(f"task {name!r} is unknown; choose one of {', '.join(TASKS)}")
    return frozenset(TASKS[1:] if "all" in names else names)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Filters applied to the results of an image.

    Args:
        min_score: instances and panoptic segments with a lower score, 0..1, are dropped. Masks whose class probability
            is lower do not compete for the pixels of a panoptic image.
        max_instances: maximum number of instances per image; None = TEST.DETECTIONS_PER_IMAGE of the configuration.
        nms: class-agnostic mask IoU, 0..1, above which the lower-scoring instance is dropped; 1 = off.
        multi_label: a mask may yield several instances, one per class, as in COCO's protocol. Otherwise a mask yields
            one instance of its best class, and none if that class is stuff.
        background: pixels where no class reaches min_semantic_score are UNLABELED in the semantic result.
        min_semantic_score: 0..1; the score of a class at a pixel is summed over all masks that cover the pixel.
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

    def candidates(
        self, probs_QK: Tensor, is_thing: Tensor, *, score_is_bounded: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, query indices and class indices (N,) of the (query, class) pairs that may become instances.

        Args:
            probs_QK: class probabilities, without void.
            is_thing: (K,) bool.
            score_is_bounded: whether an instance's score cannot exceed its class probability. If so, pairs below
                min_score are dropped here, before their masks are computed.
        Returns:
            The pairs by descending class probability.
        """
        things = is_thing.to(probs_QK.device).expand_as(probs_QK)
        if not self.multi_label:
            things = things & (probs_QK == probs_QK.amax(dim=1, keepdim=True))
        if score_is_bounded:
            things = things & (probs_QK >= self.min_score)
        queries, classes = things.nonzero(as_tuple=True)
        scores, order = probs_QK[queries, classes].sort(descending=True, stable=True)
        return scores, queries[order], classes[order]

    def filter_instances(self, instances: Instances) -> Instances:
        """Applies min_score, nms and max_instances; returns the remaining instances, best first."""
        kept = select_instances(instances.masks, instances.scores, self.min_score, self.nms)[
            : self.max_instances
        ]
        if len(kept) == len(instances):
            return instances
        return instances.chosen(np.array(kept, dtype=np.int64))

    def raise_threshold(self, threshold: float) -> float:
        """Returns the larger of an exclusive threshold of the configuration and the inclusive min_score."""
        # The next float below min_score: a score equal to min_score is kept, one equal to the threshold is not.
        return max(threshold, float(np.nextafter(np.float32(self.min_score), np.float32(-1))))


@dataclass(frozen=True)
class Tiling:
    """How an image is cut into tiles.

    Objects smaller than the overlap are complete in some tile; larger ones are merged from their parts.

    Args:
        tile: side of a tile in pixels.
        overlap: minimum fraction, 0..0.5, of a tile that neighboring tiles share.
        batch_size: tiles per forward pass.
    Raises:
        CMPFError: a value is out of range.
    """

    tile: int
    overlap: float = 0.25
    batch_size: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.tile, bool) or not isinstance(self.tile, int) or self.tile < SMALLEST_TILE:
            raise CMPFError(f"tile must be a whole number of pixels from {SMALLEST_TILE}, got {self.tile!r}")
        is_number = isinstance(self.overlap, int | float) and not isinstance(self.overlap, bool)
        if not is_number or not 0 <= self.overlap <= 0.5:
            raise CMPFError(f"overlap must be a share of the tile from 0 to 0.5, got {self.overlap!r}")


@dataclass(frozen=True, kw_only=True)
class MaskEnsembleSettings:
    """Use of SAM's masks: OpenSeg Ensemble in semantic results, candidates in panoptic and instance results.

    tasks: results that use SAM's masks, of "semantic", "panoptic" and "instance".
    alpha: weight of SAM's masks for unseen classes in the semantic sum.
    score_threshold: probability of an unseen class that a mask must exceed.
    decoder_share, max_overlap: see join_candidates.
    overlap_threshold: replaces InferenceSettings.overlap_threshold in panoptic results that use SAM's masks.
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
    """Settings of inference that do not change the network; values come from the configuration.

    alpha, beta: weight of CLIP's class probabilities for seen and unseen classes.
    ensemble_on_valid_mask: ignore CLIP for masks that cover no cell of CLIP's feature map.
    clip_objectness: lambda of the objectness adjustment, 0 = off.
    semantic_output: "labels", "scores", or "lazy" for SemanticScores.
    resize_before: resize masks to the output size before the semantic sum instead of after it.
    mask_ensemble: None = off.
    proposals: also return all proposed masks (for mask recall).
    instance_mask_score: "probability" or "logit", see instance_inference.
    min_island_share: see remove_islands_from; 0 = off.
    held_pixels: see instance_inference; None = masks are always stored at full size.
    selection: filters of the results, which also restrict instances to things; None = unfiltered, for metrics.
    tiling: how Predictor cuts images into tiles; None = no tiles.
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
    # The defaults are what exported programs without these fields computed.
    instance_mask_score: str = "probability"
    min_island_share: float = 0.0
    held_pixels: int | None = None
    selection: Selection | None = None
    tiling: Tiling | None = None

    @property
    def tasks(self) -> frozenset[str]:
        """The tasks that are on."""
        on = {"semantic": self.semantic, "panoptic": self.panoptic, "instance": self.instance}
        return frozenset(task for task, wanted in on.items() if wanted)

    def ensemble_for(self, task: str) -> MaskEnsembleSettings | None:
        """The mask ensemble if the task uses it, else None."""
        ensemble = self.mask_ensemble
        return ensemble if ensemble is not None and task in ensemble.tasks else None

    @property
    def reads_sam_masks(self) -> bool:
        """Whether any requested result uses SAM's masks."""
        return self.mask_ensemble is not None and (
            self.proposals or bool(self.tasks & self.mask_ensemble.tasks)
        )


@dataclass(frozen=True)
class Prepared:
    """One decoded image and its input to the network.

    image: (H, W, 3) uint8 RGB at the original size.
    sample: the image resized for the network.
    name: path or URL of the image, or "image_3".
    """

    image: NDArray[np.uint8]
    sample: Sample
    name: str


@dataclass(frozen=True)
class Request:
    """Vocabulary and settings of one inference call. is_thing, seen: (K,) bool."""

    classes: ClassEmbeddings
    is_thing: Tensor
    seen: Tensor
    settings: InferenceSettings


@dataclass(frozen=True)
class ImageGeometry:
    """Sizes (H, W) of one image: padded network input, input without padding, output."""

    padded: tuple[int, int]
    unpadded: tuple[int, int]
    output: tuple[int, int]


@dataclass(frozen=True)
class SAMEvidence:
    """SAM's masks of one image and CLIP's class probabilities for them.

    class_probs: (M, K + 1), last column void; all zeros for a mask that CLIP cannot embed.
    """

    proposals: Proposals
    class_probs: Tensor

    def rows(self, kept_M: Tensor, output: tuple[int, int]) -> MaskRows:
        """The masks at indices `kept_M` at an output size (H, W)."""
        return MaskRows(
            self.proposals.logits[kept_M],
            padded=self.proposals.padded,
            unpadded=self.proposals.unpadded,
            output=output,
        )


def semantic_sum_size(geometry: ImageGeometry, settings: InferenceSettings) -> tuple[int, int]:
    """Size (H, W) at which masks are summed into class scores."""
    resize_before = settings.resize_before or settings.panoptic or settings.instance
    return geometry.output if resize_before else geometry.unpadded
