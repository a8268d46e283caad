# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Inference after the network: class and mask ensembles, post-processing, and Prediction."""

from __future__ import annotations

from cmpf.inference.conversions import Instances, Segment
from cmpf.inference.ensembles import geometric_ensemble, openseg_ensemble
from cmpf.inference.instance import instance_inference
from cmpf.inference.panoptic import panoptic_inference
from cmpf.inference.prediction import FORMATS, Prediction, prediction_of
from cmpf.inference.resize import MaskRows, restore_size
from cmpf.inference.semantic import semantic_inference, semantic_labels
from cmpf.inference.settings import InferenceSettings, MaskEnsembleSettings, Selection

__all__ = [
    "FORMATS",
    "InferenceSettings",
    "Instances",
    "MaskEnsembleSettings",
    "MaskRows",
    "Prediction",
    "Segment",
    "Selection",
    "geometric_ensemble",
    "instance_inference",
    "openseg_ensemble",
    "panoptic_inference",
    "prediction_of",
    "restore_size",
    "semantic_inference",
    "semantic_labels",
]
