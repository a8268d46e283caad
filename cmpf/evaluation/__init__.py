# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Evaluators with Detectron2's interface, the evaluation loop, and result tables."""

from __future__ import annotations

from cmpf.evaluation.cityscapes import CityscapesEvaluator
from cmpf.evaluation.evaluator import Evaluator, Metrics, Results, evaluate
from cmpf.evaluation.instance import InstanceEvaluator, LVISEvaluator, read_frequencies
from cmpf.evaluation.mask_recall import MaskRecallEvaluator
from cmpf.evaluation.panoptic import PanopticEvaluator
from cmpf.evaluation.results import (
    Protocols,
    Published,
    clear_results,
    format_results,
    parse_results,
    read_results,
    save_results,
    verify_results,
)
from cmpf.evaluation.semantic import SemanticEvaluator

__all__ = [
    "CityscapesEvaluator",
    "Evaluator",
    "InstanceEvaluator",
    "LVISEvaluator",
    "MaskRecallEvaluator",
    "Metrics",
    "PanopticEvaluator",
    "Protocols",
    "Published",
    "Results",
    "SemanticEvaluator",
    "clear_results",
    "evaluate",
    "format_results",
    "parse_results",
    "read_frequencies",
    "read_results",
    "save_results",
    "verify_results",
]
