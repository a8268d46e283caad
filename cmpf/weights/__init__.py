# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Saves trained weights as safetensors files, and loads them and published checkpoints."""

from cmpf.weights.checks import LoadReport, PartReport
from cmpf.weights.key_mapping import Naming, Parts, detect_naming, split, to_published
from cmpf.weights.loading import check, encoders_inside, load
from cmpf.weights.reading import Contents, read_contents, read_metadata
from cmpf.weights.saving import TrainedModel, save, write, write_safetensors

__all__ = [
    "Contents",
    "LoadReport",
    "Naming",
    "PartReport",
    "Parts",
    "TrainedModel",
    "check",
    "detect_naming",
    "encoders_inside",
    "load",
    "read_contents",
    "read_metadata",
    "save",
    "split",
    "to_published",
    "write",
    "write_safetensors",
]
