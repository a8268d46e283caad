# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Verifies folders of label maps."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from preparation.images import image_size, read_labels
from preparation.model import Check, Issue

NAMED_VALUES = 10


@dataclass(frozen=True)
class _Pair:
    image: Path
    labels: Path


def check_labels(
    *,
    title: str,
    images: Mapping[str, Path],
    labels: Mapping[str, Path],
    allowed: Collection[int],
    bits: int = 8,
) -> Check:
    """Every image has its labels and the other way round; kind, size and values of each label map.

    Args:
        images: name -> image.
        labels: name -> label map; see `stems`.
        allowed: values that labels may have, the one for unlabeled pixels included.
        bits: 8 or 16, as stored.
    """
    pairs = [_Pair(images[name], labels[name]) for name in images if name in labels]
    examine = partial(_examine_labels, allowed=frozenset(allowed), bits=bits)
    issues = orphans(images, labels, "label maps")
    return Check(title=title, images=len(images), issues=issues, items=pairs, examine=examine)


def orphans(images: Mapping[str, Path], others: Mapping[str, Path], what: str) -> list[Issue]:
    """What is on one side only."""
    alone = [
        Issue(f"images without {what}", str(path)) for name, path in images.items() if name not in others
    ]
    return alone + [
        Issue(f"{what} without image", str(p)) for name, p in others.items() if name not in images
    ]


def sizes_differ(path: Path, size: tuple[int, int], image: Path) -> list[Issue]:
    """An issue if (H, W) `size` of `path` is not the image's."""
    expected = image_size(image)
    if tuple(size) == expected:
        return []
    found = f"{path}: {size[0]} x {size[1]} (H x W), image {expected[0]} x {expected[1]}"
    return [Issue("sizes that differ from the image's", found)]


def _examine_labels(pair: _Pair, *, allowed: frozenset[int], bits: int) -> list[Issue]:
    values = read_labels(pair.labels)
    issues = sizes_differ(pair.labels, values.shape, pair.image)
    if values.dtype.itemsize * 8 != bits:
        issues.append(Issue("wrong bit depth", f"{pair.labels}: {values.dtype}, expected uint{bits}"))
    wrong = [int(value) for value in np.unique(values) if int(value) not in allowed]
    if wrong:
        more = ", ..." if len(wrong) > NAMED_VALUES else ""
        named = ", ".join(map(str, wrong[:NAMED_VALUES]))
        issues.append(Issue("values out of range", f"{pair.labels}: {named}{more}"))
    return issues
