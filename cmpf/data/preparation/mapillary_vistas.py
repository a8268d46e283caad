# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Mapillary Vistas v1.2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from cmpf.data.datasets.catalog import get_spec
from cmpf.data.datasets.constants import SPLITS
from cmpf.data.datasets.spec import DatasetSpec
from cmpf.data.preparation.files import files_by_stem, link_or_copy
from cmpf.data.preparation.spec import Item, Preparation, Step, labels_part, panoptic_part

FOLDER = "mapillary_vistas"
JSON = Path("panoptic", "panoptic_2018.json")


class MapillaryVistas(Preparation):
    """Mapillary Vistas v1.2: verifies the release; links the v1.2 files of a v2.0 package to their v1.2 paths.

    Raw data: {training,validation}/images/*.jpg, labels/*.png (category id - 1, 65 = unlabeled) and panoptic/ with
    panoptic_2018.json, from www.mapillary.com/dataset/vistas. The v2.0 package has the same files in
    {training,validation}/v1.2/; they are hard-linked, which takes no disk space, or copied if links are not possible.
    """

    title = "Mapillary Vistas v1.2"
    download = "https://www.mapillary.com/dataset/vistas (registration)"
    images: ClassVar[Mapping[str, int]] = {"train": 18_000, "val": 2_000}

    def raw(self, root: Path, split: str) -> Sequence[Path]:
        """Images and annotations of a v1.2 or v2.0 package."""
        folder = root / FOLDER / SPLITS[split]
        truth = folder / "v1.2" if (folder / "v1.2").is_dir() else folder
        return [folder / "images", truth / "labels", truth / JSON]

    def plan(self, root: Path, split: str) -> Sequence[Step]:
        """Links the v1.2 files of a v2.0 package; no step for a v1.2 package."""
        folder = root / FOLDER / SPLITS[split]
        v1_2 = folder / "v1.2"
        if not v1_2.is_dir():
            return []
        files = [
            *files_by_stem(v1_2 / "labels", ".png").values(),
            *files_by_stem(v1_2 / "panoptic", ".png").values(),
            v1_2 / JSON,
        ]
        items = [Item(sources=(path,), targets=(folder / path.relative_to(v1_2),)) for path in files]
        return [Step(title=f"files of v1.2 of {split}", items=items, convert=link)]

    def parts(self, split: str) -> Sequence[DatasetSpec]:
        """The label maps, the PNGs and the JSON file."""
        spec = get_spec(f"openvocab_mapillary_vistas_panoptic_{split}")
        return [labels_part(spec, f"{SPLITS[split]}/labels"), panoptic_part(spec)]


def link(item: Item) -> None:
    """Links or copies one file."""
    link_or_copy(item.source, item.target)
