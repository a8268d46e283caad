# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Makes datasets from their releases, and verifies what was made; `cmpf datasets prepare` is its command line.

A release is described by a `Preparation`, which gives it processes, progress, restart and the report of issues. A
whole one, which then gets a name in PREPARATIONS and, for who calls it by its file, datasets/prepare_NAME.py:

    class Zoo(Preparation):
        \"\"\"Zoo: label maps of 9 classes. Raw: zoo.zip of zoo.example. The new label is one less.\"\"\"

        title, download, images = "Zoo", "https://zoo.example/download", {"train": 900, "val": 100}

        def raw(self, root: Path, split: str) -> Sequence[Path]:
            return [root / "zoo" / "raw" / split]

        def plan(self, root: Path, split: str) -> Sequence[Step]:
            items = folder_items(root / "zoo" / "raw" / split, root / "zoo" / "labels" / split)
            return [Step(title=f"labels of {split}", items=items, convert=count_from_zero)]

        def parts(self, split: str) -> Sequence[DatasetSpec]:
            return [get_spec(f"zoo_{split}")]  # of the table: what is verified, as by `cmpf datasets check`

    def count_from_zero(item: Item) -> None:  # raises DatasetError about a file: the item is then reported as damaged
        write_labels(item.target, read_bytes(item.source).astype(np.uint8) - 1)
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING

from cmpf.errors import DatasetError

if TYPE_CHECKING:
    from cmpf.data.preparation.spec import Preparation

# Name -> module and class. Those that make something come before those that only verify.
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
    """
    Args:
        options: of the preparation's class, such as full_size of ade20k_full.
    Raises:
        DatasetError: unknown name; lists all.
    """
    if name not in PREPARATIONS:
        near = get_close_matches(name, PREPARATIONS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise DatasetError(f"{name}: not known; {hint}can be prepared: {', '.join(PREPARATIONS)}")
    module, kind = PREPARATIONS[name]
    preparation: Preparation = getattr(import_module(f"{__name__}.{module}"), kind)(**options)
    return preparation
