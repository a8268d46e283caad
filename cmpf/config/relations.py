# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Conditions over several configuration keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

from fvcore.common.config import CfgNode


@dataclass(frozen=True)
class Relation:
    """A condition over several keys.

    keys: the first one is where the fault is reported.
    fault: what is wrong and the cure, or "" where all is well.
    """

    keys: tuple[str, ...]
    fault: Callable[[CfgNode], str]


def _needs_sam(switch: str) -> Relation:
    def fault(cfg: CfgNode) -> str:
        if attrgetter(switch)(cfg) and not cfg.MODEL.CMPF.SAM.NAME:
            return "is on but MODEL.CMPF.SAM.NAME is empty; name a SAM such as vit_b, or switch this off"
        return ""

    return Relation((switch, "MODEL.CMPF.SAM.NAME"), fault)


def _divides(divisor: str, dividend: str) -> Relation:
    def fault(cfg: CfgNode) -> str:
        small, large = attrgetter(divisor)(cfg), attrgetter(dividend)(cfg)
        return "" if large % small == 0 else f"{small} does not divide {dividend} = {large}"

    return Relation((divisor, dividend), fault)


def _multiple(key: str, number: int, why: str) -> Relation:
    def fault(cfg: CfgNode) -> str:
        value = attrgetter(key)(cfg)
        return "" if value % number == 0 else f"expected a multiple of {number} ({why}), got {value}"

    return Relation((key,), fault)


def _at_most(low: str, high: str) -> Relation:
    def fault(cfg: CfgNode) -> str:
        a, b = attrgetter(low)(cfg), attrgetter(high)(cfg)
        return "" if a <= b else f"{a} is larger than {high} = {b}"

    return Relation((low, high), fault)


def _steps_before_the_end(cfg: CfgNode) -> str:
    solver = cfg.SOLVER
    late = [step for step in solver.STEPS if step >= solver.MAX_ITER]
    if solver.LR_SCHEDULER_NAME != "WarmupMultiStepLR" or not late:
        return ""
    return f"{late} would never be reached, SOLVER.MAX_ITER is {solver.MAX_ITER}; lower them or write ()"


def _some_task(cfg: CfgNode) -> str:
    test = cfg.MODEL.MASK_FORMER.TEST
    if test.SEMANTIC_ON or test.INSTANCE_ON or test.PANOPTIC_ON:
        return ""
    return "all three of SEMANTIC_ON, INSTANCE_ON and PANOPTIC_ON are off; switch one on"


def _ensemble_has_a_use(cfg: CfgNode) -> str:
    test = cfg.MODEL.MASK_FORMER.TEST
    if not cfg.TEST.ENSEMBLE.ENABLED or test.SEMANTIC_ON or test.MASK_RECALL:
        return ""
    return "changes semantic output only, which is off; set MODEL.MASK_FORMER.TEST.SEMANTIC_ON True"


_TASKS = tuple(f"MODEL.MASK_FORMER.TEST.{task}_ON" for task in ("SEMANTIC", "INSTANCE", "PANOPTIC"))

RELATIONS: tuple[Relation, ...] = (
    _needs_sam("MODEL.CMPF.QUERY_INJECTOR.ENABLED"),
    _needs_sam("MODEL.CMPF.FEATURE_INJECTOR.ENABLED"),
    _divides("MODEL.MASK_FORMER.NHEADS", "MODEL.MASK_FORMER.HIDDEN_DIM"),
    _divides("MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS", "MODEL.SEM_SEG_HEAD.CONVS_DIM"),
    _divides("MODEL.SEM_SEG_HEAD.NORM_GROUPS", "MODEL.SEM_SEG_HEAD.CONVS_DIM"),
    _divides("MODEL.MASK_FORMER.SIZE_DIVISIBILITY", "INPUT.IMAGE_SIZE"),
    _multiple("MODEL.MASK_FORMER.HIDDEN_DIM", 4, "sine and cosine for two axes"),
    _multiple("MODEL.SEM_SEG_HEAD.CONVS_DIM", 4, "sine and cosine for two axes"),
    _at_most("INPUT.MIN_SCALE", "INPUT.MAX_SCALE"),
    _at_most("INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST"),
    Relation(
        ("SOLVER.STEPS", "SOLVER.MAX_ITER", "SOLVER.LR_SCHEDULER_NAME"),
        _steps_before_the_end,
    ),
    Relation(_TASKS, _some_task),
    Relation(
        ("TEST.ENSEMBLE.ENABLED", _TASKS[0], "MODEL.MASK_FORMER.TEST.MASK_RECALL"),
        _ensemble_has_a_use,
    ),
)
