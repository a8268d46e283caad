# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""How many processes read images."""

from __future__ import annotations

from cmpf.common import distributed
from cmpf.common.cpu import usable_cores
from cmpf.config import Config
from cmpf.factory.encoders import build_device

ENOUGH = 8  # at some 50 training images a second each (docs/performance.md), more than a GPU trains on


def loader_workers(cfg: Config) -> int:
    """Worker processes of a loader: DATALOADER.NUM_WORKERS, or for -1 what suits this process's share of the cores.

    For a GPU all cores of the share but one, at most 8; on the CPU, where the network itself needs the cores, one, or
    none on a single core.
    """
    given = cfg.DATALOADER.NUM_WORKERS
    if given >= 0:
        return given
    spare = usable_cores() // distributed.local_world_size() - 1
    most = ENOUGH if build_device(cfg).type == "cuda" else 1
    return min(most, max(0, spare))
