# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Synthetic raw trees of every dataset: real file names, bit depths and JSON fields, two or three small images."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from helpers.raw_datasets.ade20k import make_ade20k, make_ade20k_full
from helpers.raw_datasets.bdd100k import make_bdd100k
from helpers.raw_datasets.cityscapes import make_cityscapes
from helpers.raw_datasets.coco import make_coco, make_coco_stuff, make_lvis, make_lvis_test
from helpers.raw_datasets.mapillary_vistas import make_mapillary_vistas
from helpers.raw_datasets.pascal import NAMES, make_pascal_context, make_pascal_in_detail, make_pascal_voc

MAKERS = (
    make_coco,
    make_coco_stuff,
    make_lvis,
    make_lvis_test,
    make_ade20k,
    make_ade20k_full,
    make_cityscapes,
    make_mapillary_vistas,
    make_bdd100k,
    make_pascal_voc,
    make_pascal_context,
    # Both annotations of PASCAL Context are there, and the lists have one image that the JSON file has not.
    partial(make_pascal_in_detail, left_out=NAMES["val"][1:]),
)


def make_everything(root: Path) -> None:
    """Every raw dataset under one root."""
    for make in MAKERS:
        make(root)
