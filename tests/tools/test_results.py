# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from helpers.evaluation_data import write_ids
from helpers.lvis_reference import random_lvis
from helpers.scripts import script
from PIL import Image

from cmpf.evaluation import save_results

evaluate_predictions = script("evaluate_predictions")


def run(*arguments: object) -> int:
    return evaluate_predictions.main([str(argument) for argument in arguments])


@pytest.fixture
def semantic(tmp_path: Path) -> list[object]:
    """Flags for one image with half of its pixels right; two classes of the three are there."""
    for side, labels in (("gt", [[0, 0, 1, 1]]), ("pred", [[0, 1, 1, 0]])):
        (tmp_path / side).mkdir()
        Image.fromarray(np.array(labels, dtype=np.uint8)).save(tmp_path / side / "x.png")
    folders = ("--gt-dir", tmp_path / "gt", "--pred-dir", tmp_path / "pred")
    return ["--task", "semantic", *folders, "--num-classes", 3, "--ignore-label", 255]


def test_semantic_numbers_are_printed_and_written(
    semantic: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "names.txt").write_text("road\ncar\nsky\n")
    target = tmp_path / "numbers.json"
    assert run(*semantic, "--names", tmp_path / "names.txt", "--json", target) == 0
    # each class: 1 right of union 3
    saved = json.loads(target.read_text())
    assert saved["sem_seg"]["mIoU"] == saved["sem_seg"]["IoU-car"] == pytest.approx(100 / 3)
    assert saved["sem_seg"]["IoU-sky"] is None
    assert {"mIoU_union", "fwIoU", "mACC", "pACC"} <= set(saved["sem_seg"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["dataset", "mIoU", "fwIoU"]
    assert lines[2].split() == ["pred", "33.33", "33.33"]


def test_panoptic_numbers_are_written(tmp_path: Path) -> None:
    for side in ("gt", "pred"):
        (tmp_path / side).mkdir()
        write_ids(tmp_path / side / "1.png", np.array([[5, 5], [0, 7]]))
        infos = [{"id": i, "category_id": c, "iscrowd": 0, "area": a} for i, c, a in ((5, 1, 2), (7, 3, 1))]
        annotation = {"image_id": 1, "file_name": "1.png", "segments_info": infos}
        categories = [{"id": 1, "name": "cat", "isthing": 1}, {"id": 3, "name": "sky", "isthing": 0}]
        document = {"annotations": [annotation], "categories": categories}
        (tmp_path / f"{side}.json").write_text(json.dumps(document))
    truth = ("--gt-json", tmp_path / "gt.json", "--gt-dir", tmp_path / "gt")
    found = ("--pred-json", tmp_path / "pred.json", "--pred-dir", tmp_path / "pred")
    assert run("--task", "panoptic", *truth, *found, "--json", tmp_path / "numbers.json") == 0
    saved = json.loads((tmp_path / "numbers.json").read_text())
    assert list(saved) == ["panoptic"]
    names = ("PQ", "SQ", "RQ", "PQ_th", "SQ_th", "RQ_th", "PQ_st", "SQ_st", "RQ_st", "PQ-cat", "PQ-sky")
    assert {name: saved["panoptic"][name] for name in names} == dict.fromkeys(names, 100)


@pytest.mark.parametrize("task", ["instance", "lvis"])
@pytest.mark.parametrize("iou_type", [None, "segm", "bbox"])
def test_instance_numbers_are_written_under_their_geometry(
    tmp_path: Path, task: str, iou_type: str | None
) -> None:
    truth, _ = random_lvis(0, images=2)
    truth["annotations"] = [{**annotation, "iscrowd": 0} for annotation in truth["annotations"]]
    perfect = [{**a, "score": 0.5} for a in truth["annotations"]]
    for name, content in (("gt.json", truth), ("pred.json", perfect)):
        (tmp_path / name).write_text(json.dumps(content))
    files = ("--gt-json", tmp_path / "gt.json", "--pred-json", tmp_path / "pred.json")
    flag = ("--iou-type", iou_type) if iou_type else ()
    assert run("--task", task, *files, *flag, "--json", tmp_path / "numbers.json") == 0
    saved = json.loads((tmp_path / "numbers.json").read_text())
    assert list(saved) == [iou_type or "segm"]
    metrics = saved[iou_type or "segm"]
    assert metrics["AP"] == pytest.approx(100)
    assert {"AP50", "AP75", "APs", "APm", "APl"} <= set(metrics)
    assert ("APr" in metrics and "APc" in metrics and "APf" in metrics) == (task == "lvis")


def test_issues_are_one_line_and_leave_no_file(
    semantic: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pred" / "x.png").unlink()
    assert run(*semantic, "--json", tmp_path / "numbers.json") == 1
    shown = capsys.readouterr().err
    assert shown == f"error: {tmp_path / 'pred'}: no label map (.png, .tif, .tiff, .bmp) in it\n"
    assert not (tmp_path / "numbers.json").exists()
    with pytest.raises(ValueError, match="no label map"):
        run(*semantic, "--debug")


def test_a_file_that_cannot_be_written_is_named_in_one_line(
    semantic: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*semantic, "--json", tmp_path) == 1  # a folder
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"error: {tmp_path}: Is a directory (--debug shows where)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--task", "panoptic", "--gt-json", "a"),
            "--task panoptic also needs --gt-dir, --pred-json, --pred-dir",
        ),
        (("--task", "semantic", "--gt-dir", "a", "--pred-dir", "b"), "needs --num-classes, --ignore-label"),
        (("--task", "lvis", "--gt-json", "a"), "--task lvis also needs --pred-json"),
        (
            ("--task", "instance", "--gt-json", "a", "--pred-json", "b", "--names", "c"),
            "--names do not belong to --task instance",
        ),
        (("--task", "semantic", "--num-classes", "0"), "must be from 1 to 65535, got 0"),
        (("--task", "semantic", "--ignore-label", "-1"), "must be from 0 to 65535, got -1"),
        (("--task", "other"), "invalid choice: 'other'"),
    ],
)
def test_wrong_flags_are_usage_errors(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


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
        (None, "no results; the evaluation has not finished"),
        ('{"ade": {"panop', "not a complete JSON file"),
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
