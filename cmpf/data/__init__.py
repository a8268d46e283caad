# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Datasets, vocabularies, dataset mappers and data loaders.

Names are imported lazily, so that generating ShapeWorld does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmpf.data.datasets.catalog import DatasetSummary as DatasetSummary
    from cmpf.data.datasets.catalog import dataset_names as dataset_names
    from cmpf.data.datasets.catalog import dataset_root as dataset_root
    from cmpf.data.datasets.catalog import get_dataset as get_dataset
    from cmpf.data.datasets.catalog import get_spec as get_spec
    from cmpf.data.datasets.catalog import get_vocabulary as get_vocabulary
    from cmpf.data.datasets.catalog import known_vocabularies as known_vocabularies
    from cmpf.data.datasets.catalog import summarize as summarize
    from cmpf.data.datasets.spec import Dataset as Dataset
    from cmpf.data.datasets.spec import DatasetSpec as DatasetSpec
    from cmpf.data.loader import build_test_loader as build_test_loader
    from cmpf.data.loader import build_train_loader as build_train_loader
    from cmpf.data.mapper import DatasetMapper as DatasetMapper
    from cmpf.data.mapper import InstanceTargets as InstanceTargets
    from cmpf.data.mapper import PanopticTargets as PanopticTargets
    from cmpf.data.mapper import SemanticTargets as SemanticTargets
    from cmpf.data.transforms.color import SSDColorJitter as SSDColorJitter
    from cmpf.data.transforms.geometric import LargeScaleJitter as LargeScaleJitter
    from cmpf.data.transforms.geometric import PadToMultiple as PadToMultiple
    from cmpf.data.transforms.geometric import RandomCrop as RandomCrop
    from cmpf.data.transforms.geometric import RandomHorizontalFlip as RandomHorizontalFlip
    from cmpf.data.transforms.geometric import RandomShortestEdge as RandomShortestEdge
    from cmpf.data.transforms.geometric import Resize as Resize
    from cmpf.data.transforms.geometric import ResizeShortestEdge as ResizeShortestEdge
    from cmpf.data.vocabulary import Vocabulary as Vocabulary
    from cmpf.formats.image import read_image as read_image

_NAMES = {
    "cmpf.data.transforms.geometric": (
        "LargeScaleJitter",
        "PadToMultiple",
        "RandomCrop",
        "RandomHorizontalFlip",
        "RandomShortestEdge",
        "Resize",
        "ResizeShortestEdge",
    ),
    "cmpf.data.datasets.catalog": (
        "DatasetSummary",
        "dataset_names",
        "dataset_root",
        "get_dataset",
        "get_spec",
        "get_vocabulary",
        "known_vocabularies",
        "summarize",
    ),
    "cmpf.data.transforms.color": ("SSDColorJitter",),
    "cmpf.data.datasets.spec": ("Dataset", "DatasetSpec"),
    "cmpf.formats.image": ("read_image",),
    "cmpf.data.loader": ("build_test_loader", "build_train_loader"),
    "cmpf.data.mapper": ("DatasetMapper", "InstanceTargets", "PanopticTargets", "SemanticTargets"),
    "cmpf.data.vocabulary": ("Vocabulary",),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
