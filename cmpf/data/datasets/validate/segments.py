# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Compares the segment ids of a panoptic PNG with the entries that its JSON file has of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmpf.data.datasets.issues import IssueKind, Issues
from cmpf.errors import first_few
from cmpf.formats.label_map import VOID_ID

# Notes on a dataset whose spec has hidden_stuff.
HIDDEN_STUFF = "areas of stuff are as published, taken before things were pasted over it"
EXACT_STUFF = (
    "areas of stuff are exact, those of the PNGs; published results are on areas before things were pasted"
)


def compare_ids(
    ids: NDArray[Any],
    segments: Sequence[Mapping[str, Any]],
    path: Path,
    source: Path,
    issues: Issues,
    hidden: frozenset[int],
) -> None:
    """Ids in a PNG and in its annotation must be the same, and each belong to one segment."""
    values, counts = np.unique(ids, return_counts=True)
    pixels = dict(zip(values.tolist(), counts.tolist(), strict=True))
    pixels.pop(VOID_ID, None)
    covered = _covered_stuff(segments, pixels, hidden)
    if covered:
        issues.notes[HIDDEN_STUFF] = None
    segments = [s for s in segments if s["id"] not in covered or s["id"] in pixels]
    listed = Counter(segment["id"] for segment in segments)

    def report(what: str, wrong: list[Any]) -> None:
        if wrong:
            issues.add(IssueKind.IDS, path, what.format(first_few(wrong)))

    report(f"segment id {{}} given twice in {source.name}", [i for i, n in listed.items() if n > 1])
    report(f"segment id {{}} in {source.name}, but 0 means void", [i for i in listed if i == VOID_ID])
    if not pixels:
        issues.add(IssueKind.EMPTY, path, "every pixel is void: no segment is drawn")
        return
    report(f"segment id {{}} in the PNG, but not in {source.name}", sorted(pixels.keys() - listed.keys()))
    lost = [i for i in listed if i not in pixels and i != VOID_ID]
    report(f"segment id {{}} in {source.name}, but without a pixel in the PNG", lost)
    areas = [
        f"{s['id']} ({s['area']} pixels in {source.name}, {pixels[s['id']]} in the PNG)"
        for s in segments
        if s["id"] in pixels
        and "area" in s
        and s["area"] != pixels[s["id"]]
        and listed[s["id"]] == 1
        and s["id"] not in covered
    ]
    report("area of segment id {}: two segments may share the id", areas)


def _covered_stuff(
    segments: Sequence[Mapping[str, Any]], pixels: Mapping[int, int], hidden: frozenset[int]
) -> set[int]:
    """Ids of stuff whose area is larger than in the PNG by no more than the things of the image can cover.

    Args:
        pixels: id in the PNG -> number of its pixels. hidden: categories as of Run.examine.
    """
    things = sum(pixels.get(s["id"], 0) for s in segments if s["category_id"] not in hidden)
    return {
        s["id"]
        for s in segments
        if s["category_id"] in hidden and 0 < s.get("area", 0) - pixels.get(s["id"], 0) <= things
    }
