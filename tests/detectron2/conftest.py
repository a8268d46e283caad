# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""ShapeWorld for all tests of the folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.detectron2_host import needs, write_shapeworld


@pytest.fixture(scope="session")
def shapeworld_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of datasets with six training and four validation images of 64 x 64."""
    root: Path = tmp_path_factory.mktemp("datasets")
    write_shapeworld(root)
    return root


@pytest.fixture
def shapeworld(shapeworld_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The root, with Detectron2's catalogs looking there and forgetting it afterwards."""
    register_datasets = needs("cmpf.detectron2").register_datasets
    catalog = needs("detectron2.data").MetadataCatalog
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapeworld_root))
    for name in ("shapes_train", "shapes_val"):
        catalog.pop(name, None)
    register_datasets()
    yield shapeworld_root
    for name in ("shapes_train", "shapes_val"):
        catalog.pop(name, None)
    register_datasets()
