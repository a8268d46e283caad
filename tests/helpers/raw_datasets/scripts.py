# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The preparation scripts as modules."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

DATASETS = Path(__file__).resolve().parents[3] / "datasets"
# Those that make something come before those that only verify.
SCRIPTS = (
    "prepare_coco_semantic",
    "prepare_coco_stuff",
    "prepare_ade20k_semantic",
    "prepare_ade20k_panoptic",
    "prepare_ade20k_instances",
    "prepare_ade20k_full",
    "prepare_cityscapes",
    "prepare_pascal_voc",
    "prepare_pascal_context_459",
    "prepare_pascal_context_59",
    "prepare_bdd100k_panoptic",
    "prepare_bdd100k_semantic",
    "prepare_mapillary_vistas",
    "prepare_lvis",
)


def load_script(name: str) -> ModuleType:
    """A script of datasets/, imported by its own name as it is when it runs."""
    if str(DATASETS) not in sys.path:
        sys.path.insert(0, str(DATASETS))
    return import_module(name)
