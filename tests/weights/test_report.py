# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import torch

from cmpf.weights.report import LoadReport, PartReport, compare


def test_a_report_reads_well_and_cuts_long_lists() -> None:
    report = LoadReport(
        loaded=("a",), missing=tuple("bcdefgh"), unexpected=(), mismatched=("x: 1 in the file, 2 here",)
    )
    assert str(report) == (
        "1 weights loaded; 7 missing in the file: b, c, d, e, f and 2 more; "
        "1 of another shape: x: 1 in the file, 2 here"
    )


def test_a_report_of_a_published_file_tells_the_parts_apart() -> None:
    report = LoadReport(
        loaded=("a", "b"),
        clip=PartReport(loaded=("visual.x",), unexpected=("attn_mask",)),
        sam=PartReport(unexpected=("image_encoder.y",)),
        ignored=("criterion.empty_weight",),
        naming="FrozenSeg",
    )
    assert str(report) == (
        "FrozenSeg naming: 2 weights loaded; "
        "frozen CLIP: 1 weights loaded; 1 in the file only, left out: attn_mask; "
        "frozen SAM: 0 weights loaded; 1 in the file only, left out: image_encoder.y; "
        "1 ignored: criterion.empty_weight"
    )


def test_names_and_shapes_are_compared() -> None:
    given = {"same": torch.zeros(2, 3), "other": torch.zeros(2), "stranger": torch.zeros(1)}
    own = {"same": torch.ones(2, 3), "other": torch.tensor(1.0), "absent": torch.zeros(1)}
    report = compare(given, own)
    assert report == PartReport(
        loaded=("same",),
        missing=("absent",),
        unexpected=("stranger",),
        mismatched=("other: 2 in the file, scalar here",),
    )
    assert not report.fits
    assert compare(own, own).fits
    assert compare({**own, "more": torch.zeros(1)}, own).fits
