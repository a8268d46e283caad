# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The size at which images enter the network in testing."""

from __future__ import annotations

from cmpf.config import Config
from cmpf.data import DatasetSpec

USUAL = (800, 1333)  # of Detectron2 and of the published evaluation of most datasets


def evaluation_size(cfg: Config, spec: DatasetSpec | None = None) -> tuple[int, int]:
    """(shorter side, longest longer side) in pixels: the configuration's, else the dataset's own, else the usual.

    Args:
        cfg: INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST, 0 = not set.
        spec: of the dataset; None = images of no dataset.
    """
    if cfg.INPUT.MIN_SIZE_TEST:
        return cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    return (spec.test_size if spec else None) or USUAL
