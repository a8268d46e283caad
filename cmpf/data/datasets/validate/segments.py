# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Validates the segments and instance masks of one image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmpf.data.datasets.issues import IssueKind, Issues
from cmpf.errors import DatasetError, first_few
from cmpf.formats.label_map import VOID_ID
from cmpf.formats.masks import decode_mask
from cmpf.types import Sample, SegmentInfo

# Notes for datasets whose spec has hidden_stuff.
HIDDEN_STUFF = "areas of stuff are as published, taken before things were pasted over it"
EXACT_STUFF = (
    "areas of stuff are exact, those of the PNGs; published results are on areas before things were pasted"
)


def compare_ids(
    ids: NDArray[Any],
    segments: Sequence[SegmentInfo],
    path: Path,
    source: Path,
    issues: Issues,
    hidden_stuff: bool,
) -> None:
    """Checks that ids and areas in a panoptic PNG are those in its annotation.

    Args:
        ids: (H, W) segment ids of the PNG.
        segments: segments of the annotation.
        path, source: the PNG and the JSON file, for the issues.
        hidden_stuff: see DatasetSpec.
    """
    values, counts = np.unique(ids, return_counts=True)
    pixels = dict(zip(values.tolist(), counts.tolist(), strict=True))
    pixels.pop(VOID_ID, None)
    covered = _covered_stuff(segments, pixels) if hidden_stuff else set()
    if covered:
        issues.notes[HIDDEN_STUFF] = None
    segments = [s for s in segments if s["id"] not in covered or s["id"] in pixels]
    listed = Counter(segment["id"] for segment in segments)

    def report(template: str, wrong: list[Any]) -> None:
        if wrong:
            issues.add(IssueKind.IDS, path, template.format(first_few(wrong)))

    report(f"segment id {{}} in {source.name}, but 0 means void", [i for i in listed if i == VOID_ID])
    if not pixels:
        issues.add(IssueKind.EMPTY, path, "every pixel is void: no segment is drawn")
        return
    report(f"segment id {{}} in the PNG, but not in {source.name}", sorted(pixels.keys() - listed.keys()))
    empty = [i for i in listed if i not in pixels and i != VOID_ID]
    report(f"segment id {{}} in {source.name}, but without a pixel in the PNG", empty)
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


def _covered_stuff(segments: Sequence[SegmentInfo], pixels: Mapping[int, int]) -> set[int]:
    """Ids of stuff segments whose listed area exceeds that in the PNG by at most the area of all things.

    Args:
        pixels: segment id -> number of pixels in the PNG.
    """
    things = sum(pixels.get(s["id"], 0) for s in segments if s["isthing"])
    return {
        s["id"]
        for s in segments
        if not s["isthing"] and 0 < s.get("area", 0) - pixels.get(s["id"], 0) <= things
    }


def check_masks(sample: Sample, source: Path, issues: Issues, *, released: bool) -> None:
    """Checks that the masks of an image can be decoded and are not empty; `source` is their JSON file."""
    for entry in sample.get("annotations", ()):
        segmentation = entry["segmentation"]
        where = f"mask of annotation {entry['id']} in {Path(sample['file_name']).name}"
        try:
            mask = decode_mask(segmentation, height=sample["height"], width=sample["width"], where=where)
        except DatasetError as error:
            issues.add(IssueKind.FORM, source, str(error))
            continue
        # Releases contain polygons too thin to cover a pixel center.
        if not mask.any() and not (released and isinstance(segmentation, list)):
            issues.add(IssueKind.EMPTY, source, f"{where} has no pixel")
