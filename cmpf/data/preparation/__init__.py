# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Prepares datasets from their releases and verifies the result; `cmpf datasets prepare` is the command line.

A subclass of `Preparation` describes a release; multiprocessing, progress bars, resuming and validation are shared. A
complete example, to be added to PREPARATIONS and, as a script, to datasets/prepare_NAME.py:

    class Zoo(Preparation):
        \"\"\"Zoo: label maps of 9 classes. Raw data: zoo.zip from zoo.example. New labels are one less.\"\"\"

        title, download, images = "Zoo", "https://zoo.example/download", {"train": 900, "val": 100}

        def raw(self, root: Path, split: str) -> Sequence[Path]:
            return [root / "zoo" / "raw" / split]

        def plan(self, root: Path, split: str) -> Sequence[Step]:
            items = folder_items(root / "zoo" / "raw" / split, root / "zoo" / "labels" / split)
            return [Step(title=f"labels of {split}", items=items, convert=count_from_zero)]

        def parts(self, split: str) -> Sequence[DatasetSpec]:
            return [get_spec(f"zoo_{split}")]  # built-in datasets to validate, as `cmpf datasets check` does

    def count_from_zero(item: Item) -> None:  # a DatasetError is reported as an issue of the item
        write_labels(item.target, read_uint8(item.source).astype(np.uint8) - 1)
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING

from cmpf.errors import DatasetError

if TYPE_CHECKING:
    from cmpf.data.preparation.spec import Preparation

# Name -> (module, class). Preparations that only verify come last.
PREPARATIONS: Mapping[str, tuple[str, str]] = {
    "coco_semantic": ("coco", "CocoPanoptic"),
    "coco_stuff": ("coco", "CocoStuff"),
    "ade20k_semantic": ("ade20k", "Semantic"),
    "ade20k_panoptic": ("ade20k", "Panoptic"),
    "ade20k_instances": ("ade20k", "Instances"),
    "ade20k_full": ("ade20k_full", "Full"),
    "cityscapes": ("cityscapes", "Cityscapes"),
    "pascal_voc": ("pascal", "Voc"),
    "pascal_context_459": ("pascal_context", "Context459"),
    "pascal_context_59": ("pascal_context", "Context59"),
    "bdd100k_panoptic": ("bdd100k", "Panoptic"),
    "bdd100k_semantic": ("bdd100k", "Semantic"),
    "mapillary_vistas": ("mapillary_vistas", "MapillaryVistas"),
    "lvis": ("coco", "Lvis"),
}


def get_preparation(name: str, **options: bool) -> Preparation:
    """Creates a preparation by name.

    Args:
        options: constructor arguments, such as full_size of ade20k_full.
    Raises:
        DatasetError: unknown name; the message lists all.
    """
    if name not in PREPARATIONS:
        near = get_close_matches(name, PREPARATIONS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise DatasetError(f"{name}: unknown; {hint}datasets that can be prepared: {', '.join(PREPARATIONS)}")
    module, class_name = PREPARATIONS[name]
    preparation: Preparation = getattr(import_module(f"{__name__}.{module}"), class_name)(**options)
    return preparation
