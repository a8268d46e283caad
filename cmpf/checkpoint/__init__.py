# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Weights: CMPF's own safetensors files of what was trained, and the reading of published checkpoints."""

from cmpf.checkpoint.loading import load
from cmpf.checkpoint.naming import Naming, Parts, detect_naming, split, to_published
from cmpf.checkpoint.own_format import TrainedModel, save, write, write_safetensors
from cmpf.checkpoint.reading import Contents, read_contents, read_metadata
from cmpf.checkpoint.report import LoadReport, PartReport

__all__ = [
    "Contents",
    "LoadReport",
    "Naming",
    "PartReport",
    "Parts",
    "TrainedModel",
    "detect_naming",
    "load",
    "read_contents",
    "read_metadata",
    "save",
    "split",
    "to_published",
    "write",
    "write_safetensors",
]
