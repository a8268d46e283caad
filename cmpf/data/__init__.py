# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Datasets, vocabularies, mappers and loaders.

Names are fetched when first used, so that generating ShapeWorld does not wait for torch to be imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmpf.data.augmentations import LargeScaleJitter as LargeScaleJitter
    from cmpf.data.augmentations import RandomHorizontalFlip as RandomHorizontalFlip
    from cmpf.data.augmentations import Resize as Resize
    from cmpf.data.augmentations import ResizeShortestEdge as ResizeShortestEdge
    from cmpf.data.catalog import dataset_names as dataset_names
    from cmpf.data.catalog import dataset_root as dataset_root
    from cmpf.data.catalog import get_dataset as get_dataset
    from cmpf.data.catalog import get_entry as get_entry
    from cmpf.data.catalog import get_vocabulary as get_vocabulary
    from cmpf.data.catalog import known_vocabularies as known_vocabularies
    from cmpf.data.color_jitter import SSDColorJitter as SSDColorJitter
    from cmpf.data.entry import Dataset as Dataset
    from cmpf.data.entry import DatasetEntry as DatasetEntry
    from cmpf.data.images import read_image as read_image
    from cmpf.data.loader import build_test_loader as build_test_loader
    from cmpf.data.loader import build_train_loader as build_train_loader
    from cmpf.data.mapper import DatasetMapper as DatasetMapper
    from cmpf.data.semantic_augmentations import PadToMultiple as PadToMultiple
    from cmpf.data.semantic_augmentations import RandomCrop as RandomCrop
    from cmpf.data.semantic_augmentations import RandomShortestEdge as RandomShortestEdge
    from cmpf.data.summary import DatasetSummary as DatasetSummary
    from cmpf.data.summary import summarize as summarize
    from cmpf.data.targets import InstanceTargets as InstanceTargets
    from cmpf.data.targets import PanopticTargets as PanopticTargets
    from cmpf.data.targets import SemanticTargets as SemanticTargets
    from cmpf.data.vocabulary import Vocabulary as Vocabulary

_NAMES = {
    "augmentations": ("LargeScaleJitter", "RandomHorizontalFlip", "Resize", "ResizeShortestEdge"),
    "catalog": (
        "dataset_names",
        "dataset_root",
        "get_dataset",
        "get_entry",
        "get_vocabulary",
        "known_vocabularies",
    ),
    "color_jitter": ("SSDColorJitter",),
    "entry": ("Dataset", "DatasetEntry"),
    "images": ("read_image",),
    "loader": ("build_test_loader", "build_train_loader"),
    "mapper": ("DatasetMapper",),
    "semantic_augmentations": ("PadToMultiple", "RandomCrop", "RandomShortestEdge"),
    "summary": ("DatasetSummary", "summarize"),
    "targets": ("InstanceTargets", "PanopticTargets", "SemanticTargets"),
    "vocabulary": ("Vocabulary",),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
