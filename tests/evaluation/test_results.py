# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from cmpf.errors import EvaluationError
from cmpf.evaluation import clear_results, format_results, read_results, save_results, verify_results

RESULTS = {
    "shapes_val": {
        "panoptic": {"PQ": 44.126, "U_PQ": math.nan, "PQ-red circle": 50.0},
        "sem_seg": {"mIoU": 42.0},
    },
    "shapes_hard_val": {"panoptic": {"PQ": 8.5, "U_PQ": 7.0}},
}


def test_headlines_of_all_datasets_come_first_and_then_a_table_a_task() -> None:
    expected = (
        "dataset             PQ  U_PQ   mIoU\n"
        "-----------------------------------\n"
        "shapes_val       44.13     -  42.00\n"
        "shapes_hard_val   8.50  7.00      -\n"
        "\n"
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
    published = {"shapes_val": {"panoptic/PQ": 45.0, "segm/AP": 9.0}, "elsewhere": {"panoptic/PQ": 1.0}}
    lines = format_results(RESULTS, published=published).splitlines()
    assert lines[0].split() == ["dataset", "PQ", "U_PQ", "mIoU"]  # nobody measured AP here
    assert [line.split() for line in lines[3:5]] == [
        ["published", "45.00", "-", "-"],
        ["difference", "-0.87", "-", "-"],
    ]
    assert sum("published" in line for line in lines) == 1


def test_a_published_metric_gets_a_column_of_its_own() -> None:
    results = {"a": {"panoptic": {"PQ": 1.0, "SQ": 80.0}}}
    lines = format_results(results, published={"a": {"panoptic/SQ": 81.0}}).splitlines()
    assert [line.split() for line in lines[:5]][::2] == [
        ["dataset", "PQ", "SQ"],
        ["a", "1.00", "80.00"],
        ["difference", "-", "-1.00"],
    ]


def test_columns_of_one_name_keep_their_task() -> None:
    results = {"a": {"segm": {"AP": 30.0}, "bbox": {"AP": 32.0}}}
    lines = format_results(results, published={"a": {"bbox/AP": 31.0}}).splitlines()
    assert lines[0].split() == ["dataset", "segm/AP", "bbox/AP"]
    assert lines[2].split() == ["a", "30.00", "32.00"]


def test_tasks_without_a_headline_have_their_own_table_only() -> None:
    assert format_results({"a": {"bbox": {"AP": 3.0}}}).splitlines()[0].split() == ["bbox", "AP"]


def test_markdown_has_pipes() -> None:
    table = format_results({"a|b": {"sem_seg": {"mACC": 1.0}}}, markdown=True)
    assert table == "| sem_seg | mACC |\n|---|---:|\n| a\\|b | 1.00 |\n"


def test_nothing_to_print_is_said() -> None:
    assert format_results({}) == "no results\n"


def test_files_hold_everything_and_undefined_values_are_null(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    save_results(RESULTS, folder)
    saved = json.loads((folder / "results.json").read_text())
    assert saved["shapes_val"]["panoptic"] == {"PQ": 44.126, "U_PQ": None, "PQ-red circle": 50.0}
    assert "| shapes_hard_val | 8.50 | 7.00 | - |" in (folder / "results.md").read_text()
    assert sorted(path.name for path in folder.iterdir()) == ["results.json", "results.md"]


def test_saving_again_replaces_both_files(tmp_path: Path) -> None:
    save_results(RESULTS, tmp_path)
    save_results({"other": {"sem_seg": {"mIoU": 1.0}}}, tmp_path)
    assert list(json.loads((tmp_path / "results.json").read_text())) == ["other"]
    assert "shapes" not in (tmp_path / "results.md").read_text()


def test_a_failure_between_the_two_files_leaves_no_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(results: object) -> str:
        raise OSError("disk full")

    monkeypatch.setattr("cmpf.evaluation.results.json_text", full)
    with pytest.raises(OSError, match="disk full"):
        save_results(RESULTS, tmp_path)
    assert not (tmp_path / "results.json").exists()


def test_clearing_removes_both_files_and_nothing_else(tmp_path: Path) -> None:
    save_results(RESULTS, tmp_path)
    (tmp_path / "log.txt").write_text("kept")
    clear_results(tmp_path)
    clear_results(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["log.txt"]


MEASURED = {"a": {"panoptic": {"PQ": 40.0, "SQ": math.nan}}, "b": {"sem_seg": {"mIoU": 30.0}}}


def test_expected_results_within_their_tolerance_pass() -> None:
    # |40 - 40.5| = 0.5; the task of another dataset than the first is written with its name
    verify_results(MEASURED, [("panoptic", "PQ", 40.5, 0.5), ("b/sem_seg", "mIoU", 30.0, 0.0)])
    verify_results(MEASURED, [])


def test_every_other_result_is_named() -> None:
    expected = [("panoptic", "PQ", 40.6, 0.5), ("panoptic", "SQ", 1.0, 5.0), ("sem_seg", "mIoU", 30.0, 1.0)]
    with pytest.raises(EvaluationError) as caught:
        verify_results(MEASURED, expected)
    assert str(caught.value) == (
        "the results are not those of TEST.EXPECTED_RESULTS: panoptic/PQ is 40.0000, not 40.6 ± 0.5; "
        "panoptic/SQ is nan, not 1 ± 5; sem_seg/mIoU was not measured"
    )


def test_published_figures_stand_beside_results_of_the_published_protocol_alone(tmp_path: Path) -> None:
    results = {"ade": {"panoptic": {"PQ": 25.0}}, "voc": {"sem_seg": {"mIoU": 80.0}}}
    published = {"ade": {"panoptic/PQ": 24.5}, "voc": {"sem_seg/mIoU": 81.0}}
    protocols = {"ade": {"protocol": "published"}, "voc": {"protocol": "own words: not comparable"}}
    table = format_results(results, published=published, protocols=protocols)
    assert "24.50" in table
    assert "81.00" not in table
    assert table.count("difference") == 1
    assert any(line.split() == ["ade", "published"] for line in table.splitlines())
    assert ["voc", "own words: not comparable"] in [line.split(maxsplit=1) for line in table.splitlines()]
    save_results(results, tmp_path, published=published, protocols=protocols)
    assert "| voc | own words: not comparable |" in (tmp_path / "results.md").read_text()
    assert read_results(tmp_path / "results.json") == (results, protocols)
