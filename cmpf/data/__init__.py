# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Datasets, vocabularies, mappers and loaders."""

from __future__ import annotations

from cmpf.data.augmentations import LargeScaleJitter, RandomHorizontalFlip, Resize, ResizeShortestEdge
from cmpf.data.catalog import (
    Dataset,
    DatasetEntry,
    dataset_names,
    dataset_root,
    get_dataset,
    get_entry,
    get_vocabulary,
)
from cmpf.data.images import read_image
from cmpf.data.loader import build_test_loader, build_train_loader
from cmpf.data.mapper import DatasetMapper
from cmpf.data.targets import PanopticTargets
from cmpf.data.vocabulary import Vocabulary

__all__ = [
    "Dataset",
    "DatasetEntry",
    "DatasetMapper",
    "LargeScaleJitter",
    "PanopticTargets",
    "RandomHorizontalFlip",
    "Resize",
    "ResizeShortestEdge",
    "Vocabulary",
    "build_test_loader",
    "build_train_loader",
    "dataset_names",
    "dataset_root",
    "get_dataset",
    "get_entry",
    "get_vocabulary",
    "read_image",
]
