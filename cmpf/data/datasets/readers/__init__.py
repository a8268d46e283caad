# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Readers, which turn annotation files into samples with contiguous class indices. They open no image."""

from __future__ import annotations

from cmpf.data.datasets.readers.coco import read_coco_instances, read_coco_panoptic, read_lvis
from cmpf.data.datasets.readers.coco_entries import FileNames
from cmpf.data.datasets.readers.folders import read_semantic

__all__ = ["FileNames", "read_coco_instances", "read_coco_panoptic", "read_lvis", "read_semantic"]
