# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""CMPF inside Detectron2: meta-architecture, configuration, datasets and trainer for a real Detectron2.

Importing this package requires Detectron2. It registers the meta-architecture "CMPF" and all of CMPF's datasets,
without opening their files. CMPF imports it only on request.
"""

from __future__ import annotations

try:
    import detectron2.engine  # noqa: F401  a folder named detectron2, as in a checkout, is not the library
except ImportError as error:
    raise ImportError(
        f"cmpf.detectron2 needs Detectron2, which cannot be imported here ({error}). It is not on PyPI: INSTALL.md "
        "says how to build it from its repository. Without it, use --engine native"
    ) from error

from cmpf.detectron2.config import add_cmpf_config, detectron2_config, native_config
from cmpf.detectron2.datasets import register_datasets
from cmpf.detectron2.evaluation import SemanticSegmentorWithTTA, ThingEvaluator
from cmpf.detectron2.meta_arch import CMPF
from cmpf.detectron2.registries import TRANSFORMER_DECODER_REGISTRY, CMPFHead, FrozenCLIP
from cmpf.detectron2.running import obstacle, run
from cmpf.detectron2.trainer import Checkpointer, Trainer

register_datasets()

__all__ = [
    "CMPF",
    "TRANSFORMER_DECODER_REGISTRY",
    "CMPFHead",
    "Checkpointer",
    "FrozenCLIP",
    "SemanticSegmentorWithTTA",
    "ThingEvaluator",
    "Trainer",
    "add_cmpf_config",
    "detectron2_config",
    "native_config",
    "obstacle",
    "register_datasets",
    "run",
]
