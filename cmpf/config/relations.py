# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Conditions on several configuration keys together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

from cmpf.config.schema import Config


@dataclass(frozen=True)
class Relation:
    """A condition on several keys.

    Attributes:
        keys: the keys; the issue is reported at the first one.
        issue: returns what is wrong and how to fix it; "" if the condition holds.
    """

    keys: tuple[str, ...]
    issue: Callable[[Config], str]


def _needs_sam(switch: str) -> Relation:
    def issue(cfg: Config) -> str:
        if attrgetter(switch)(cfg) and not cfg.MODEL.CMPF.SAM.NAME:
            return "is on but MODEL.CMPF.SAM.NAME is empty; name a SAM such as vit_b, or switch this off"
        return ""

    return Relation((switch, "MODEL.CMPF.SAM.NAME"), issue)


def _divides(divisor: str, dividend: str) -> Relation:
    def issue(cfg: Config) -> str:
        small, large = attrgetter(divisor)(cfg), attrgetter(dividend)(cfg)
        return "" if large % small == 0 else f"{small} does not divide {dividend} = {large}"

    return Relation((divisor, dividend), issue)


def _multiple_of_4(key: str) -> Relation:
    def issue(cfg: Config) -> str:
        value = attrgetter(key)(cfg)
        return (
            "" if value % 4 == 0 else f"expected a multiple of 4 (sine and cosine for two axes), got {value}"
        )

    return Relation((key,), issue)


def _at_most(low: str, high: str) -> Relation:
    def issue(cfg: Config) -> str:
        a, b = attrgetter(low)(cfg), attrgetter(high)(cfg)
        return "" if a <= b else f"{a} is larger than {high} = {b}"

    return Relation((low, high), issue)


def _parts_of_a_batch(cfg: Config) -> str:
    parts, batch = cfg.SOLVER.ACCUMULATION_STEPS, cfg.SOLVER.IMS_PER_BATCH
    if parts <= batch:
        return ""
    return f"a batch of {batch} images (SOLVER.IMS_PER_BATCH) cannot be cut into {parts} parts; lower it"


def _short_sides(cfg: Config) -> str:
    sides, longest = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and (len(sides) != 2 or sides[0] > sides[1]):
        return f"range samples between two rising numbers, got {list(sides)}"
    return "" if max(sides) <= longest else f"{max(sides)} is larger than INPUT.MAX_SIZE_TRAIN = {longest}"


def _crop_size(cfg: Config) -> str:
    kind, size = cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE
    if kind.startswith("relative"):
        issue = "shares of the image, at most 1" if max(size) > 1 else ""
    elif any(side != int(side) for side in size):
        issue = "whole numbers of pixels"
    else:
        issue = "two rising numbers of pixels" if kind == "absolute_range" and size[0] > size[1] else ""
    return issue and f"INPUT.CROP.TYPE {kind} needs {issue}, got {list(size)}"


def _some_task(cfg: Config) -> str:
    test = cfg.MODEL.MASK_FORMER.TEST
    if test.SEMANTIC_ON or test.INSTANCE_ON or test.PANOPTIC_ON:
        return ""
    return "all three of SEMANTIC_ON, INSTANCE_ON and PANOPTIC_ON are off; switch one on"


def _ensemble_has_a_use(cfg: Config) -> str:
    ensemble, test = cfg.TEST.ENSEMBLE, cfg.MODEL.MASK_FORMER.TEST
    if (
        not ensemble.ENABLED
        or test.MASK_RECALL
        or any(getattr(test, f"{t.upper()}_ON") for t in ensemble.TASKS)
    ):
        return ""
    return (
        f"takes part in {', '.join(ensemble.TASKS)} results only, which are off; set "
        f"MODEL.MASK_FORMER.TEST.{ensemble.TASKS[0].upper()}_ON True or name others in TEST.ENSEMBLE.TASKS"
    )


def _cells_of_clip(key: str, value: str, *, off: str) -> Relation:
    """Parts that project each cell of CLIP's feature map to the joint space do not work with ResNet CLIPs.

    Args:
        key: a key that has such a part at `value`, and none at `off`.
    """

    def issue(cfg: Config) -> str:
        if attrgetter(key)(cfg) != value or not cfg.MODEL.CMPF.CLIP.NAME.startswith("RN"):
            return ""
        return (
            f"{value} and MODEL.CMPF.CLIP.NAME {cfg.MODEL.CMPF.CLIP.NAME} do not go together: a ResNet CLIP pools by "
            f"attention and cannot project single cells of its map; name a ConvNeXt CLIP, or set {key} {off}"
        )

    return Relation((key, "MODEL.CMPF.CLIP.NAME"), issue)


def _pooled_otherwise(cfg: Config) -> str:
    ours = cfg.MODEL.CMPF
    if ours.MASK_EMBEDDING != "mask_adapter" or not cfg.TEST.ENSEMBLE.PUBLISHED_POOLING:
        return ""
    return (
        "is of mask pooling and does not go together with MODEL.CMPF.MASK_EMBEDDING mask_adapter, which pools by maps "
        "of its own; set one of them to False or pool"
    )


def _adapter_has_its_losses(cfg: Config) -> str:
    name = cfg.MODEL.CMPF.CRITERION_NAME
    if cfg.MODEL.CMPF.MASK_EMBEDDING != "mask_adapter" or name == Config().MODEL.CMPF.CRITERION_NAME:
        return ""
    return (
        f"{name} and MODEL.CMPF.MASK_EMBEDDING mask_adapter do not go together: an adapter is trained by losses of its "
        "own; set one of them to its default"
    )


def _needs_trunk(key: str, *, off: str) -> Relation:
    def issue(cfg: Config) -> str:
        if not attrgetter(key)(cfg) or cfg.MODEL.CMPF.CLIP.TRAINED == "trunk":
            return ""
        return (
            "does not go together with MODEL.CMPF.CLIP.TRAINED none, which leaves nothing that it could train; set "
            f"trunk, or {key} {off}"
        )

    return Relation((key, "MODEL.CMPF.CLIP.TRAINED"), issue)


def _transfer_learns(cfg: Config) -> str:
    ours = cfg.MODEL.CMPF
    weights = ours.CLIP_LOSSES
    if ours.TEXT_TRANSFER == "none" or ours.MASK_EMBEDDING == "mask_adapter":
        return ""
    if weights.MASK_AWARE_WEIGHT or weights.CLASS_WEIGHT:
        return ""
    return (
        "content_dependent would not learn: MASK_AWARE_WEIGHT and CLASS_WEIGHT of MODEL.CMPF.CLIP_LOSSES, whose losses "
        "alone train it, are 0; raise one (MAFT+: MASK_AWARE_WEIGHT 1.0), or set none"
    )


def _augmented_are_semantic(cfg: Config) -> str:
    test = cfg.MODEL.MASK_FORMER.TEST
    others = ("PANOPTIC_ON", "INSTANCE_ON", "MASK_RECALL")
    on = [f"MODEL.MASK_FORMER.TEST.{key} False" for key in others if getattr(test, key)]
    if not cfg.TEST.AUG.ENABLED or (test.SEMANTIC_ON and not on):
        return ""
    on += [] if test.SEMANTIC_ON else [f"{_TASKS[0]} True"]
    return f"test-time augmentation is for semantic results alone, whose scores can be averaged; set {', '.join(on)}"


def _augmented_masks_are_made(cfg: Config) -> str:
    ensemble = cfg.TEST.ENSEMBLE
    if not (cfg.TEST.AUG.ENABLED and ensemble.ENABLED and ensemble.SOURCE == "cache"):
        return ""
    return "cached masks of SAM belong to one size of an image; set TEST.ENSEMBLE.SOURCE online"


def _cache_has_a_folder(cfg: Config) -> str:
    if cfg.TEST.ENSEMBLE.SOURCE != "cache" or cfg.TEST.ENSEMBLE.CACHE_DIR:
        return ""
    return "is cache, but TEST.ENSEMBLE.CACHE_DIR is empty; name the folder that cmpf save-sam-masks wrote to"


def _compiled_in_int8(cfg: Config) -> str:
    if cfg.MODEL.CMPF.PRECISION != "int8" or not cfg.MODEL.CMPF.COMPILE:
        return ""
    return (
        "int8 does not go together with MODEL.CMPF.COMPILE True, which makes layers of its own; set bf16, or "
        "MODEL.CMPF.COMPILE False"
    )


def _acts(injector: str, layers: int) -> Relation:
    """An injector must act in some decoder layer: layer i uses level i mod 3.

    Args:
        injector: the section below MODEL.CMPF.
        layers: minimum number of decoder layers minus the injector's level. The Query Injector needs one layer more,
            because it does not act after the last layer.
    """
    key, heads = f"MODEL.CMPF.{injector}", "MODEL.MASK_FORMER.DEC_LAYERS"

    def issue(cfg: Config) -> str:
        section = attrgetter(key)(cfg)
        minimum = section.LEVEL + layers + 1
        if cfg.MODEL.SEM_SEG_HEAD.TRANSFORMER_DECODER_NAME != _DECODER:
            return ""  # a plug-in may use levels in another order
        if not section.ENABLED or minimum <= cfg.MODEL.MASK_FORMER.DEC_LAYERS:
            return ""
        return (
            f"at {section.LEVEL} the injector would never act: {heads} is {cfg.MODEL.MASK_FORMER.DEC_LAYERS}, which "
            f"must be {minimum} or more; raise it, lower the level, or set {key}.ENABLED False"
        )

    return Relation((f"{key}.LEVEL", f"{key}.ENABLED", heads), issue)


_DECODER = Config().MODEL.SEM_SEG_HEAD.TRANSFORMER_DECODER_NAME
_TASKS = tuple(f"MODEL.MASK_FORMER.TEST.{task}_ON" for task in ("SEMANTIC", "INSTANCE", "PANOPTIC"))

RELATIONS: tuple[Relation, ...] = (
    _needs_sam("MODEL.CMPF.QUERY_INJECTOR.ENABLED"),
    _needs_sam("MODEL.CMPF.FEATURE_INJECTOR.ENABLED"),
    _needs_sam("MODEL.CMPF.PROPOSAL_QUERIES.ENABLED"),
    _divides("MODEL.MASK_FORMER.NHEADS", "MODEL.MASK_FORMER.HIDDEN_DIM"),
    _divides("MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS", "MODEL.SEM_SEG_HEAD.CONVS_DIM"),
    _divides("MODEL.SEM_SEG_HEAD.NORM_GROUPS", "MODEL.SEM_SEG_HEAD.CONVS_DIM"),
    _divides("MODEL.MASK_FORMER.SIZE_DIVISIBILITY", "INPUT.IMAGE_SIZE"),
    _multiple_of_4("MODEL.MASK_FORMER.HIDDEN_DIM"),
    _multiple_of_4("MODEL.SEM_SEG_HEAD.CONVS_DIM"),
    _at_most("INPUT.MIN_SCALE", "INPUT.MAX_SCALE"),
    Relation(("INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_TRAIN_SAMPLING", "INPUT.MAX_SIZE_TRAIN"), _short_sides),
    Relation(("INPUT.CROP.SIZE", "INPUT.CROP.TYPE"), _crop_size),
    _at_most("INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST"),
    Relation(("SOLVER.ACCUMULATION_STEPS", "SOLVER.IMS_PER_BATCH"), _parts_of_a_batch),
    Relation(_TASKS, _some_task),
    Relation(
        ("TEST.ENSEMBLE.ENABLED", "TEST.ENSEMBLE.TASKS", *_TASKS, "MODEL.MASK_FORMER.TEST.MASK_RECALL"),
        _ensemble_has_a_use,
    ),
    Relation(("TEST.ENSEMBLE.SOURCE", "TEST.ENSEMBLE.CACHE_DIR"), _cache_has_a_folder),
    Relation(("TEST.AUG.ENABLED", *_TASKS, "MODEL.MASK_FORMER.TEST.MASK_RECALL"), _augmented_are_semantic),
    Relation(
        ("TEST.AUG.ENABLED", "TEST.ENSEMBLE.ENABLED", "TEST.ENSEMBLE.SOURCE"), _augmented_masks_are_made
    ),
    _cells_of_clip("MODEL.CMPF.MASK_EMBEDDING", "mask_adapter", off="pool"),
    _cells_of_clip("MODEL.CMPF.TEXT_TRANSFER", "content_dependent", off="none"),
    Relation(("TEST.ENSEMBLE.PUBLISHED_POOLING", "MODEL.CMPF.MASK_EMBEDDING"), _pooled_otherwise),
    Relation(("MODEL.CMPF.CRITERION_NAME", "MODEL.CMPF.MASK_EMBEDDING"), _adapter_has_its_losses),
    _needs_trunk("MODEL.CMPF.CLIP.DETACHED", off="False"),
    _needs_trunk("MODEL.CMPF.CLIP.TRAIN_LOGIT_SCALE", off="False"),
    _needs_trunk("MODEL.CMPF.CLIP_LOSSES.REPRESENTATION_WEIGHT", off="0"),
    Relation(
        (
            "MODEL.CMPF.TEXT_TRANSFER",
            "MODEL.CMPF.CLIP_LOSSES.MASK_AWARE_WEIGHT",
            "MODEL.CMPF.CLIP_LOSSES.CLASS_WEIGHT",
            "MODEL.CMPF.MASK_EMBEDDING",
        ),
        _transfer_learns,
    ),
    Relation(("MODEL.CMPF.PRECISION", "MODEL.CMPF.COMPILE"), _compiled_in_int8),
    _acts("QUERY_INJECTOR", layers=2),
    _acts("FEATURE_INJECTOR", layers=1),
)
