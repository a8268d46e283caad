# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from helpers.scripts import script

from cmpf.evaluation import save_results

collect_results = script("collect_results")

ADE = {"ade": {"panoptic": {"PQ": 25.0, "PQ-door": math.nan}, "sem_seg": {"mIoU": 34.0}}}
LVIS = {"lvis": {"segm": {"AP": 19.0, "APr": 17.5}}}


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """Two runs, each with a dataset of its own."""
    save_results(ADE, tmp_path / "a", protocols={"ade": {"protocol": "published", "words": "published"}})
    save_results(LVIS, tmp_path / "b")
    return [str(tmp_path / "a"), str(tmp_path / "b")]


def test_the_results_of_two_runs_become_one_table(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = tmp_path / "published.json"
    published.write_text(json.dumps({"ade": {"panoptic/PQ": 24.5}, "lvis": {"segm/APr": 1}}))
    output = tmp_path / "all"
    assert collect_results.main([*runs, "--output", str(output), "--published", str(published)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["dataset", "PQ", "AP", "APr", "mIoU"]
    assert lines[2].split() == ["ade", "25.00", "-", "-", "34.00"]
    assert lines[3].split() == ["published", "24.50", "-", "-", "-"]
    assert lines[4].split() == ["difference", "+0.50", "-", "-", "-"]
    assert lines[5].split() == ["lvis", "-", "19.00", "17.50", "-"]
    saved = json.loads((output / "results.json").read_text())
    # What does not say how it was measured stands beside no published figure.
    assert lines[6:10] == [
        "",
        "dataset                    protocol",
        "-" * 35,
        "ade                       published",
    ]
    assert lines[10].split(maxsplit=1) == ["lvis", "not stated: not comparable"]
    assert list(saved) == ["ade", "lvis", "protocol"]
    assert saved["protocol"]["ade"] == {"protocol": "published", "words": "published"}
    assert saved["ade"]["panoptic"] == {"PQ": 25.0, "PQ-door": None}
    assert "| lvis | - | 19.00 | 17.50 | - |" in (output / "results.md").read_text()


def test_a_dataset_twice_with_equal_numbers_is_one(runs: list[str], tmp_path: Path) -> None:
    assert collect_results.main([*runs, runs[0], "--output", str(tmp_path / "all")]) == 0
    assert list(json.loads((tmp_path / "all" / "results.json").read_text())) == ["ade", "lvis", "protocol"]


def test_a_dataset_twice_with_other_numbers_is_an_error_that_names_both(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_results({"ade": {"panoptic": {"PQ": 26.0}}}, tmp_path / "c")
    assert collect_results.main([*runs, str(tmp_path / "c"), "--output", str(tmp_path / "all")]) == 1
    shown = capsys.readouterr().err
    assert f"{tmp_path / 'a' / 'results.json'} and {tmp_path / 'c' / 'results.json'}" in shown
    assert "different numbers for ade" in shown
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no results; the evaluation has not ended"),
        ('{"ade": {"panop', "no whole JSON file"),
        ('{"ade": 3}', "not of the form dataset: task: metric: number"),
        ("[]", "not of the form"),
    ],
)
def test_unfinished_and_foreign_files_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "results.json").write_text(text)
    assert collect_results.main([str(tmp_path), "--output", str(tmp_path / "all")]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {tmp_path / 'results.json'}")
    assert message in shown


def test_published_values_of_another_form_are_refused(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = tmp_path / "published.json"
    published.write_text('{"ade": {"panoptic/PQ": "high"}}')
    arguments = [*runs, "--output", str(tmp_path / "all"), "--published", str(published)]
    assert collect_results.main(arguments) == 1
    assert f'{published}: not of the form dataset: "task/metric": number' in capsys.readouterr().err
    with pytest.raises(ValueError, match="not of the form"):
        collect_results.main([*arguments, "--debug"])
