# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The parts that a model is built of, by slot: what each is called with, and CMPF's own, registered by name.

A Protocol here is what the factory calls a part with; `cmpf.register(SLOT, NAME)` takes any function or class that can
be called so. A part that also has a parameter `extra` gets the tree MODEL.CMPF.EXTRA in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from cmpf.config import Config
from cmpf.encoders.clip import CLIP
from cmpf.encoders.sam import SAMEncoder
from cmpf.errors import ModelNameError
from cmpf.inference import geometric_ensemble, openseg_ensemble
from cmpf.losses import HungarianMatcher, SetCriterion
from cmpf.modeling.injectors import FeatureInjector, QueryInjector
from cmpf.modeling.pixel_decoder import PixelDecoder
from cmpf.modeling.transformer_decoder import TransformerDecoder
from cmpf.registry import bound, register, registered

if TYPE_CHECKING:
    from cmpf.data import Dataset
    from cmpf.data.transforms.geometric import Augmentation
    from cmpf.evaluation import Evaluator
    from cmpf.modeling.deformable.ops import AttentionFunction


class CLIPPart(Protocol):
    """A frozen CLIP: a CLIP or a subclass. Names that are not registered are OpenCLIP's."""

    def __call__(self, *, name: str, pretrained: str) -> CLIP: ...


class SAMPart(Protocol):
    """A frozen SAM: a SAMEncoder or a subclass. Names that are not registered are SAM's own."""

    def __call__(self, *, name: str, checkpoint: str) -> SAMEncoder: ...


class PixelDecoderPart(Protocol):
    """A module; called with CLIP's maps "res2".."res5" it gives a PixelDecoderOutput. See PixelDecoder for the rest."""

    def __call__(
        self,
        *,
        in_channels: dict[str, int],
        dim: int,
        mask_dim: int,
        heads: int,
        points: int,
        layers: int,
        dim_feedforward: int,
        norm_groups: int,
        attention_function: AttentionFunction,
        gradient_checkpointing: bool,
    ) -> Any: ...


class QueryInjectorPart(Protocol):
    """A module; called with queries (B, Q, D), mask logits (B, Q, h, w) and SAM's embedding (B, S, hs, ws) it gives
    queries (B, Q, D).

    projection: (B, Q, dim) -> (B, Q, D), the class head's own, which trains it: keep it out of your state dict.
    in_channels: S. dim: width that the projection reads.
    """

    def __call__(self, *, projection: nn.Module, in_channels: int, dim: int) -> Any: ...


class FeatureInjectorPart(Protocol):
    """A module, one for each layer that it acts in; called with CLIP's tokens (B, L, D), their positions (1, L, D),
    SAM's features (B, C, h, w), h * w = L, and a level embedding (D,), it gives keys and values, each (B, L, D).

    in_channels: C. dim: D.
    """

    def __call__(self, *, dim: int, heads: int, in_channels: int, keep_positions: bool) -> Any: ...


class TransformerDecoderPart(Protocol):
    """A module with `uses_sam` (bool) and `num_queries` (int), called as TransformerDecoder.forward is.

    query_injector, feature_injector: make an injector, see above; None = off.
    """

    def __call__(
        self,
        *,
        in_channels: int,
        dim: int,
        mask_dim: int,
        embed_dim: int,
        queries: int,
        heads: int,
        layers: int,
        dim_feedforward: int,
        sam_channels: int,
        sam_feature_channels: int,
        query_injector: QueryInjectorPart | None,
        feature_injector: FeatureInjectorPart | None,
        query_injector_level: int,
        feature_injector_level: int,
        keep_positions: bool,
    ) -> Any: ...


class CriterionPart(Protocol):
    """A module with SetCriterion's `normalizers`, called as SetCriterion.forward is; all losses that it gives are added
    up. Most are subclasses of SetCriterion.
    """

    def __call__(
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
        deep_supervision: bool,
    ) -> Any: ...


class ClassEnsemblePart(Protocol):
    """A function, called in every inference; see geometric_ensemble."""

    def __call__(
        self,
        decoder_logits_BQK1: Tensor,
        clip_logits_BQK: Tensor,
        seen_K: Tensor,
        /,
        *,
        alpha: float,
        beta: float,
        valid_BQ: Tensor | None,
        objectness: float,
    ) -> Tensor: ...


class MaskEnsemblePart(Protocol):
    """A function, called in every inference with SAM's masks; see openseg_ensemble."""

    def __call__(
        self,
        class_probs_QK: Tensor,
        sam_probs_MK: Tensor,
        seen_K: Tensor,
        /,
        *,
        alpha: float,
        score_threshold: float,
    ) -> tuple[Tensor, Tensor]: ...


class AugmentationPart(Protocol):
    """Gives a function (LabeledImage, numpy Generator) -> LabeledImage, or None where it is switched off.

    settings: the section INPUT. size_divisibility: training images must be multiples of this.
    """

    def __call__(self, *, settings: Any, size_divisibility: int) -> Augmentation | None: ...


class EvaluatorPart(Protocol):
    """Gives an Evaluator, or None where it has nothing to measure.

    seen: a flag for each class of the dataset. tasks: those that the model computes, of "panoptic", "instance" and
    "semantic".
    """

    def __call__(
        self, *, dataset: Dataset, seen: Sequence[bool], tasks: frozenset[str]
    ) -> Evaluator | None: ...


PROTOCOLS: dict[str, Any] = {
    "clip": CLIPPart,
    "sam": SAMPart,
    "pixel_decoder": PixelDecoderPart,
    "transformer_decoder": TransformerDecoderPart,
    "query_injector": QueryInjectorPart,
    "feature_injector": FeatureInjectorPart,
    "criterion": CriterionPart,
    "class_ensemble": ClassEnsemblePart,
    "mask_ensemble": MaskEnsemblePart,
    "augmentation": AugmentationPart,
    "evaluator": EvaluatorPart,
}


def part(slot: str, name: str, cfg: Config, *, otherwise: Callable[..., Any] | None = None) -> Any:
    """What a name stands for in a slot, checked to be callable as its Protocol says.

    Args:
        otherwise: takes names that nobody has registered, and says what is wrong with them; None = there are none.
    Raises:
        ConfigError: unknown name; lists what is registered. PluginError: it cannot be called so.
    """
    if otherwise is not None and name not in registered(slot):
        return partial(_named, slot, otherwise)
    return bound(slot, name, protocol=PROTOCOLS[slot], extra=cfg.MODEL.CMPF.EXTRA)


def _named(slot: str, otherwise: Callable[..., Any], **arguments: Any) -> Any:
    try:
        return otherwise(**arguments)
    except ModelNameError as error:
        own = ", ".join(registered(slot))
        raise ModelNameError(f"{error}{f'. Registered by plug-ins: {own}' if own else ''}") from error


register("pixel_decoder", "deformable")(PixelDecoder)
register("transformer_decoder", "masked_attention")(TransformerDecoder)
register("query_injector", "mask_pooling")(QueryInjector)
register("feature_injector", "cross_attention")(FeatureInjector)
register("criterion", "set_criterion")(SetCriterion)
register("class_ensemble", "geometric")(geometric_ensemble)
register("mask_ensemble", "openseg")(openseg_ensemble)
