# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Synthetic raw trees of every dataset: real file names, bit depths and JSON fields, two or three small images."""

from __future__ import annotations

from pathlib import Path

from helpers.raw_datasets.ade20k import make_ade20k, make_ade20k_full
from helpers.raw_datasets.bdd100k import make_bdd100k
from helpers.raw_datasets.cityscapes import make_cityscapes
from helpers.raw_datasets.coco import make_coco, make_coco_stuff, make_lvis
from helpers.raw_datasets.mapillary_vistas import make_mapillary_vistas
from helpers.raw_datasets.pascal import make_pascal_context, make_pascal_voc

from cmpf.cli import prepare
from cmpf.data.preparation import PREPARATIONS, get_preparation

MAKERS = (
    make_coco,
    make_coco_stuff,
    make_lvis,
    make_ade20k,
    make_ade20k_full,
    make_cityscapes,
    make_mapillary_vistas,
    make_bdd100k,
    make_pascal_voc,
    make_pascal_context,
)


def make_everything(root: Path) -> None:
    """Every raw dataset under one root."""
    for make in MAKERS:
        make(root)


def prepare_everything(root: Path, *, split: str = "all") -> None:
    """Runs every preparation on what make_everything wrote.

    Raises:
        RuntimeError: one failed.
    """
    for name in PREPARATIONS:
        chosen = split if split in get_preparation(name).images else "all"
        if prepare.main(name, ["--root", str(root), "--jobs", "1", "--split", chosen]) != 0:
            raise RuntimeError(f"{name} failed")
