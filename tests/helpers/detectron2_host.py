# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The tiny model and ShapeWorld in a real Detectron2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_model import tiny_config

from cmpf.shapeworld.writer import WorldSpec, write_dataset

NEEDED = "needs Detectron2, which is built from its repository, see INSTALL.md"
# Small enough for some iterations in a test.
SMALL = (
    *("INPUT.IMAGE_SIZE", 64, "INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 64),
    *("SOLVER.IMS_PER_BATCH", 2, "MODEL.MASK_FORMER.TRAIN_NUM_POINTS", 64),
)


def needs(module: str) -> Any:
    """A module of Detectron2 or of cmpf.detectron2; where it cannot be had, the test file is skipped."""
    return pytest.importorskip(module, reason=NEEDED, exc_type=ImportError)


def host_config(overrides: Sequence[object] = (), *, name: str = "fcclip_tiny") -> Any:
    """A config of configs/shapes with random encoders, as one of Detectron2."""
    return needs("cmpf.detectron2").detectron2_config(tiny_config(name, [*SMALL, *overrides]))


def host_model(overrides: Sequence[object] = (), *, name: str = "fcclip_tiny") -> Any:
    """What Detectron2 builds from it, the same random weights in every call, in evaluation mode."""
    build = needs("detectron2.modeling").build_model
    torch.manual_seed(0)
    return build(host_config(overrides, name=name)).eval()


def write_shapeworld(root: Path, *, train: int = 6, val: int = 4) -> None:
    """ShapeWorld of a few images below a root of datasets."""
    write_dataset(root / "shapeworld", WorldSpec(train=train, val=val, size=64), progress=False)
