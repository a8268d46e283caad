# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""From masks and their classes to results: pure functions of tensors and thresholds."""

from cmpf.postprocess.instance import instance_inference
from cmpf.postprocess.panoptic import panoptic_inference
from cmpf.postprocess.resize import MaskRows, restore_size
from cmpf.postprocess.semantic import semantic_inference, semantic_labels

__all__ = [
    "MaskRows",
    "instance_inference",
    "panoptic_inference",
    "restore_size",
    "semantic_inference",
    "semantic_labels",
]
