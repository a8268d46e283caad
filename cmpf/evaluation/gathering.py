# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Collects the statistics of single images from all processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch.distributed as dist

Statistic = TypeVar("Statistic")
ImageId = int | str


def gather_by_image(local: Mapping[ImageId, Statistic]) -> dict[ImageId, Statistic]:
    """Merges one statistic an image over all processes; an image that several processes saw is kept once.

    The result is sorted by image id, so that sums of floats do not depend on how images were shared out.
    Every process of the default group must call it; without one, `local` comes back sorted.
    """
    parts: list[Mapping[ImageId, Statistic]] = [local]
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        gathered: list[Mapping[ImageId, Statistic]] = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(gathered, dict(local))
        parts = gathered
    merged: dict[ImageId, Statistic] = {}
    for part in parts:
        for image_id, statistic in part.items():
            merged.setdefault(image_id, statistic)
    # Numbers before words: ids of both kinds cannot be compared with each other.
    ordered = sorted(merged, key=lambda key: (isinstance(key, str), key))
    return {image_id: merged[image_id] for image_id in ordered}
