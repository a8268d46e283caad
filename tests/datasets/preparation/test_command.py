# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.raw_datasets.ade20k import make_ade20k
from helpers.raw_datasets.common import photo, write_png
from helpers.raw_datasets.scripts import DATASETS
from PIL import Image
from preparation import (
    Check,
    Item,
    Preparation,
    Step,
    check_labels,
    folder_items,
    lookup_table,
    read_labels,
    run,
    stems,
    write_labels,
)

NAMES = ("ant", "bee", "cat")
TABLE = lookup_table({1: 0, 2: 1}, default=255, size=256, dtype=np.uint8)


def plan(root: Path, split: str) -> list[Step]:
    items = folder_items(root / "zoo" / "raw" / split, root / "zoo" / "labels" / split)
    return [Step(title=f"labels of {split}", items=items, convert=convert)]


def convert(item: Item) -> None:
    write_labels(item.target, TABLE[read_labels(item.source)])


def stop(item: Item) -> None:
    if item.source.stem == "bee":
        raise KeyboardInterrupt
    convert(item)


def checks(root: Path, split: str) -> list[Check]:
    images = stems(root / "zoo" / "images" / split, ".jpg")
    labels = stems(root / "zoo" / "labels" / split, ".png")
    return [check_labels(title=f"labels of {split}", images=images, labels=labels, allowed={0, 1, 255})]


def preparation(**changes: object) -> Preparation:
    fields = {
        "script": "prepare_zoo.py",
        "title": "Zoo",
        "description": "A zoo.",
        "download": "https://zoo.example",
        "images": {"train": 3, "val": 3},
        "raw": lambda root, split: [root / "zoo" / "raw" / split],
        "plan": plan,
        "prepared": lambda root, split: [root / "zoo" / "labels" / split],
        "checks": checks,
    }
    return Preparation(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for seed, name in enumerate(NAMES):
            photo(tmp_path / "zoo" / "images" / split / f"{name}.jpg", seed=seed, height=4, width=6)
            write_png(tmp_path / "zoo" / "raw" / split / f"{name}.png", np.full((4, 6), seed))
    return tmp_path


def test_the_root_is_the_option_then_the_variable_then_the_folder_datasets(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root / "nowhere"))
    assert run(preparation(), ["--root", str(root)]) == 0
    assert run(preparation(), []) == 1
    assert str(root / "nowhere") in capsys.readouterr().err
    monkeypatch.delenv("DETECTRON2_DATASETS")
    root.joinpath("zoo").rename(root / "other")
    (root / "datasets").mkdir()
    (root / "other").rename(root / "datasets" / "zoo")
    monkeypatch.chdir(root)
    assert run(preparation(), ["--check"]) == 0


def test_counts_are_printed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(preparation(), ["--root", str(root), "--split", "val", "--jobs", "1"]) == 0
    assert capsys.readouterr().out == "labels of val: 3 made, 0 were there, 0 failed\n"
    assert run(preparation(), ["--root", str(root), "--split", "val", "--check"]) == 0
    assert capsys.readouterr().out == "labels of val: whole, 3 images\n"


def test_the_number_of_images_is_compared_with_the_release_or_the_option(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    larger = preparation(images={"train": 4, "val": 3})
    arguments = ["--root", str(root), "--jobs", "1"]
    assert run(larger, arguments) == 0
    assert run(larger, [*arguments, "--check"]) == 1
    captured = capsys.readouterr()
    assert "number of images: 1\n    3 found, 4 expected (--images 0 accepts any number)" in captured.out
    assert captured.err == "Zoo: 1 issues\n"
    assert run(larger, [*arguments, "--check", "--images", "3"]) == 0
    assert run(larger, [*arguments, "--check", "--images", "0"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--jobs", "0"], "expected a whole number > 0, got 0"),
        (["--jobs", "many"], "expected a whole number, got 'many'"),
        (["--images", "-1"], "expected a whole number, got '-1'"),
        (["--split", "test"], "invalid choice: 'test'"),
        (["--chek", "--root"], "expected one argument"),
    ],
)
def test_wrong_use_ends_with_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(preparation(), arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_an_empty_raw_folder_is_an_error_of_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (root / "zoo/raw/val").iterdir():
        path.unlink()
    assert run(preparation(), ["--root", str(root)]) == 1
    assert capsys.readouterr().err == f"error: {root}/zoo/raw/val: no *.png in it; unpack the release again\n"


def test_what_a_killed_run_left_is_swept_but_not_what_another_run_is_writing(root: Path) -> None:
    folder = root / "zoo" / "labels" / "val"
    folder.mkdir(parents=True)
    old, new = folder / ".tmp-1-ant.png", folder / ".tmp-2-bee.png"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    assert run(preparation(), ["--root", str(root), "--jobs", "1"]) == 0
    assert not old.exists()
    assert new.exists()
    assert run(preparation(), ["--root", str(root), "--check"]) == 0, "unfinished files are no orphans"


def test_a_run_that_is_stopped_goes_on_where_it_was(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def stopping(root: Path, split: str) -> list[Step]:
        (step,) = plan(root, split)
        return [Step(title=step.title, items=step.items, convert=stop)]

    arguments = ["--root", str(root), "--split", "val", "--jobs", "1"]
    assert run(preparation(plan=stopping), arguments) == 1
    assert "stopped; the same command goes on where it was" in capsys.readouterr().err
    assert [path.name for path in (root / "zoo/labels/val").iterdir()] == ["ant.png"]
    assert run(preparation(), arguments) == 0
    assert "2 made, 1 were there" in capsys.readouterr().out


def test_of_many_issues_of_a_kind_a_hundred_are_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(preparation(), ["--root", str(root)]) == 0
    for number in range(103):
        write_png(root / "zoo/labels/val" / f"extra{number:03d}.png", np.zeros((4, 6)))
    capsys.readouterr()
    assert run(preparation(), ["--root", str(root), "--check"]) == 1
    out = capsys.readouterr().out
    assert "labels of val: 103 issues, 3 images" in out
    assert "label maps without image: 103" in out
    assert "extra099.png" in out
    assert "extra100.png" not in out
    assert "and 3 more" in out


def test_a_script_runs_from_any_folder_with_several_processes(tmp_path: Path) -> None:
    make_ade20k(tmp_path)
    script = DATASETS / "prepare_ade20k_semantic.py"
    command = [sys.executable, str(script), "--root", ".", "--jobs", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "labels of val: 3 made" in done.stdout
    labels = tmp_path / "ADEChallengeData2016/annotations_detectron2/validation/ADE_val_00000003.png"
    assert np.array(Image.open(labels))[0, 0] == 0
