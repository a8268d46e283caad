# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
import math
from pathlib import Path

from cmpf.evaluation import format_results, save_results

RESULTS = {
    "shapes_val": {
        "panoptic": {"PQ": 44.126, "U_PQ": math.nan, "PQ-red circle": 50.0},
        "sem_seg": {"mIoU": 42.0},
    },
    "shapes_hard_val": {"panoptic": {"PQ": 8.5, "U_PQ": 7.0}},
}


def test_a_text_table_has_a_row_a_dataset_and_a_column_a_metric() -> None:
    expected = (
        "panoptic            PQ  U_PQ\n"
        "----------------------------\n"
        "shapes_val       44.13     -\n"
        "shapes_hard_val   8.50  7.00\n"
        "\n"
        "sem_seg      mIoU\n"
        "-----------------\n"
        "shapes_val  42.00\n"
    )
    assert format_results(RESULTS) == expected


def test_published_values_stand_below_with_the_difference() -> None:
    published = {"shapes_val": {"panoptic": {"PQ": 45.0}}}
    lines = format_results(RESULTS, published=published).splitlines()
    assert lines[3:5] == ["  published      45.00     -", "  difference     -0.87     -"]
    assert sum("published" in line for line in lines) == 1


def test_markdown_has_pipes() -> None:
    table = format_results({"a|b": {"sem_seg": {"mIoU": 1.0}}}, markdown=True)
    assert table == "| sem_seg | mIoU |\n|---|---:|\n| a\\|b | 1.00 |\n"


def test_nothing_to_print_is_said() -> None:
    assert format_results({}) == "no results\n"


def test_files_hold_everything_and_undefined_values_are_null(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    save_results(RESULTS, folder)
    saved = json.loads((folder / "results.json").read_text())
    assert saved["shapes_val"]["panoptic"] == {"PQ": 44.126, "U_PQ": None, "PQ-red circle": 50.0}
    assert "| shapes_hard_val | 8.50 | 7.00 |" in (folder / "results.md").read_text()
    assert sorted(path.name for path in folder.iterdir()) == ["results.json", "results.md"]


def test_saving_again_replaces_both_files(tmp_path: Path) -> None:
    save_results(RESULTS, tmp_path)
    save_results({"other": {"sem_seg": {"mIoU": 1.0}}}, tmp_path)
    assert list(json.loads((tmp_path / "results.json").read_text())) == ["other"]
    assert "shapes" not in (tmp_path / "results.md").read_text()
