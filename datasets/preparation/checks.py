# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Verifies folders of label pictures."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from preparation.model import Check, Fault
from preparation.pictures import picture_size, read_labels

NAMED_VALUES = 10


@dataclass(frozen=True)
class _Pair:
    picture: Path
    labels: Path


def check_labels(
    *,
    title: str,
    images: Mapping[str, Path],
    labels: Mapping[str, Path],
    allowed: Collection[int],
    bits: int = 8,
) -> Check:
    """Every picture has its labels and the other way round; kind, size and values of each label picture.

    Args:
        images: name -> picture.
        labels: name -> label picture; see `stems`.
        allowed: values that labels may have, the one for unlabelled pixels included.
        bits: 8 or 16, as stored.
    """
    pairs = [_Pair(images[name], labels[name]) for name in images if name in labels]
    examine = partial(_examine_labels, allowed=frozenset(allowed), bits=bits)
    faults = orphans(images, labels, "label pictures")
    return Check(title=title, pictures=len(images), faults=faults, items=pairs, examine=examine)


def orphans(images: Mapping[str, Path], others: Mapping[str, Path], what: str) -> list[Fault]:
    """What is on one side only."""
    alone = [
        Fault(f"pictures without {what}", str(path)) for name, path in images.items() if name not in others
    ]
    return alone + [
        Fault(f"{what} without picture", str(p)) for name, p in others.items() if name not in images
    ]


def sizes_differ(path: Path, size: tuple[int, int], picture: Path) -> list[Fault]:
    """A fault if (H, W) `size` of `path` is not the picture's."""
    expected = picture_size(picture)
    if tuple(size) == expected:
        return []
    found = f"{path}: {size[0]} x {size[1]} (H x W), picture {expected[0]} x {expected[1]}"
    return [Fault("sizes that differ from the picture's", found)]


def _examine_labels(pair: _Pair, *, allowed: frozenset[int], bits: int) -> list[Fault]:
    values = read_labels(pair.labels)
    faults = sizes_differ(pair.labels, values.shape, pair.picture)
    if values.dtype.itemsize * 8 != bits:
        faults.append(Fault("wrong bit depth", f"{pair.labels}: {values.dtype}, expected uint{bits}"))
    wrong = [int(value) for value in np.unique(values) if int(value) not in allowed]
    if wrong:
        more = ", ..." if len(wrong) > NAMED_VALUES else ""
        named = ", ".join(map(str, wrong[:NAMED_VALUES]))
        faults.append(Fault("values out of range", f"{pair.labels}: {named}{more}"))
    return faults
