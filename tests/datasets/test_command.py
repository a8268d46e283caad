# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The command line of every preparation, with a small one of the tests' own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from helpers.raw_datasets.ade20k import make_ade20k
from helpers.raw_datasets.common import photo, write_png
from PIL import Image

from cmpf.cli import prepare
from cmpf.data.datasets.readers import read_semantic
from cmpf.data.datasets.spec import DatasetSpec
from cmpf.data.preparation.files import (
    existing,
    files_by_stem,
    folder_items,
    link_or_copy,
    lookup_table,
    read_channels,
    read_uint8,
)
from cmpf.data.preparation.spec import Item, Preparation, Step
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import DatasetError
from cmpf.formats.label_map import write_labels

DATASETS = Path(__file__).resolve().parents[2] / "datasets"
NAMES = ("ant", "bee", "cat")
TABLE = lookup_table({1: 0, 2: 1}, default=255, size=256, dtype=np.uint8)


def convert(item: Item) -> None:
    write_labels(item.target, TABLE[read_uint8(item.source)])


def stop(item: Item) -> None:
    if item.source.stem == "bee":
        raise KeyboardInterrupt
    convert(item)


class Zoo(Preparation):
    """A zoo."""

    title, download = "Zoo", "https://zoo.example"
    images: ClassVar[dict[str, int]] = {"train": 3, "val": 3}
    convert = staticmethod(convert)

    def raw(self, root: Path, split: str) -> list[Path]:
        return [root / "zoo" / "raw" / split]

    def plan(self, root: Path, split: str) -> list[Step]:
        items = folder_items(root / "zoo" / "raw" / split, root / "zoo" / "labels" / split)
        return [Step(title=f"labels of {split}", items=items, convert=self.convert)]

    def parts(self, split: str) -> list[DatasetSpec]:
        spec = DatasetSpec(
            name=f"zoo_{split}",
            kind="semantic",
            folder="zoo",
            images=f"images/{split}",
            truth={"labels": f"labels/{split}"},
            reader=read_semantic,
            vocabulary=lambda: Vocabulary(classes=[["ant"], ["bee"]]),
            command="prepare the zoo",
            evaluators=("semantic",),
        )
        return [spec]


class LargerZoo(Zoo):
    images: ClassVar[dict[str, int]] = {"train": 4, "val": 3}


class StoppingZoo(Zoo):
    convert = staticmethod(stop)


def run(arguments: list[str], kind: str = "Zoo") -> int:
    """Exit code of a command line of prepare_zoo.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cmpf.data.preparation.get_preparation", lambda name: globals()[kind]())
        return prepare.main("zoo", arguments)


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
    assert run(["--root", str(root)]) == 0
    assert run([]) == 1
    assert str(root / "nowhere") in capsys.readouterr().err
    monkeypatch.delenv("DETECTRON2_DATASETS")
    root.joinpath("zoo").rename(root / "other")
    (root / "datasets").mkdir()
    (root / "other").rename(root / "datasets" / "zoo")
    monkeypatch.chdir(root)
    assert run(["--check"]) == 0


def test_counts_are_printed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--root", str(root), "--split", "val", "--jobs", "1"]) == 0
    assert capsys.readouterr().out == "labels of val: 3 created, 0 already existed, 0 failed\n"
    assert run(["--root", str(root), "--split", "val", "--check"]) == 0
    assert capsys.readouterr().out == "zoo_val, 3 images: opened every file, no issues\n"


def test_the_number_of_images_is_compared_with_the_release_or_the_option(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--root", str(root), "--jobs", "1"]
    assert run(arguments, "LargerZoo") == 0
    assert run([*arguments, "--check"], "LargerZoo") == 1
    captured = capsys.readouterr()
    assert (
        "wrong number of images (1): unpack or prepare what is missing; --images 0 accepts any number"
        in captured.out
    )
    assert f"  {root}/zoo/images/train: 3 images found, 4 expected\n" in captured.out
    assert captured.err == "Zoo: 1 issue\n"
    assert run([*arguments, "--check", "--images", "3"], "LargerZoo") == 0
    assert run([*arguments, "--check", "--images", "0"], "LargerZoo") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--jobs", "0"], "expected a whole number from 1, got 0"),
        (["--jobs", "many"], "expected a whole number from 1, got many"),
        (["--images", "-1"], "expected a whole number from 0, got -1"),
        (["--split", "test"], "invalid choice: 'test'"),
        (["--chek", "--root"], "expected one argument"),
    ],
)
def test_wrong_use_ends_with_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_only_the_preparation_that_has_an_option_offers_it(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("ade20k_full", "ade20k_panoptic"):
        with pytest.raises(SystemExit):
            prepare.main(name, ["--help"])
        text = capsys.readouterr().out
        assert ("--full-size" in text, "--exact-areas" in text) == (
            name == "ade20k_full",
            name == "ade20k_panoptic",
        )
    with pytest.raises(SystemExit):
        prepare.main("ade20k_semantic", ["--full-size"])
    assert "unrecognized arguments: --full-size" in capsys.readouterr().err


def test_an_empty_raw_folder_is_an_error_of_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (root / "zoo/raw/val").iterdir():
        path.unlink()
    assert run(["--root", str(root)]) == 1
    assert capsys.readouterr().err == f"error: {root}/zoo/raw/val: no *.png in it; unpack the release again\n"


def test_what_a_killed_run_left_is_swept_but_not_what_another_run_is_writing(root: Path) -> None:
    folder = root / "zoo" / "labels" / "val"
    folder.mkdir(parents=True)
    old, new = folder / ".tmp-1-ant.png", folder / ".tmp-2-bee.png"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    assert run(["--root", str(root), "--jobs", "1"]) == 0
    assert not old.exists()
    assert new.exists()
    assert run(["--root", str(root), "--check"]) == 0, "unfinished files are no orphans"


def test_a_run_that_is_stopped_goes_on_where_it_was(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--root", str(root), "--split", "val", "--jobs", "1"]
    assert run(arguments, "StoppingZoo") == 1
    assert "stopped; run the same command again to continue" in capsys.readouterr().err
    assert [path.name for path in (root / "zoo/labels/val").iterdir()] == ["ant.png"]
    assert run(arguments) == 0
    assert "2 created, 1 already existed" in capsys.readouterr().out


def test_of_many_issues_of_a_kind_twenty_are_named_or_all(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--root", str(root)]) == 0
    for number in range(23):
        write_png(root / "zoo/labels/val" / f"extra{number:02d}.png", np.zeros((4, 6)))
    capsys.readouterr()
    arguments = ["--root", str(root), "--check", "--split", "val"]
    assert run(arguments) == 1
    out = capsys.readouterr().out
    assert "zoo_val, 3 images: 23 issues" in out
    assert "without counterpart (23): " in out
    assert "extra19.png" in out
    assert "extra20.png" not in out
    assert "and 3 more; --all lists them" in out
    assert run([*arguments, "--all"]) == 1
    assert "extra22.png" in capsys.readouterr().out


def test_a_script_runs_from_any_folder_with_several_processes(tmp_path: Path) -> None:
    make_ade20k(tmp_path)
    script = DATASETS / "prepare_ade20k_semantic.py"
    command = [sys.executable, str(script), "--root", ".", "--jobs", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "labels of val: 3 created" in done.stdout
    labels = tmp_path / "ADEChallengeData2016/annotations_detectron2/validation/ADE_val_00000003.png"
    assert np.array(Image.open(labels))[0, 0] == 0


def test_label_maps_of_a_release_have_8_bits_and_palettes_count_by_index(tmp_path: Path) -> None:
    image = Image.new("P", (4, 3))
    image.putpalette([200, 100, 50] * 256)
    image.putdata(list(range(12)))
    image.save(tmp_path / "a.png")
    assert np.array_equal(read_uint8(tmp_path / "a.png"), np.arange(12).reshape(3, 4))
    for image in (Image.new("RGB", (4, 3)), Image.fromarray(np.ones((3, 4), np.uint16))):
        image.save(tmp_path / "b.png")
        with pytest.raises(
            DatasetError, match=r"b\.png: uint\d+ of shape .*; expected one channel of 8 bits"
        ):
            read_uint8(tmp_path / "b.png")


def test_channels_must_be_as_many_as_asked_for(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 3), (1, 2, 3, 4)).save(tmp_path / "a.png")
    assert read_channels(tmp_path / "a.png", 4)[0, 0].tolist() == [1, 2, 3, 4]
    with pytest.raises(DatasetError, match=r"a\.png: .*\(3, 4, 4\); expected 3 channels of 8 bits"):
        read_channels(tmp_path / "a.png", 3)


def test_stems_are_sorted_and_leave_hidden_and_other_files_out(tmp_path: Path) -> None:
    for name in ("b_x.png", "a_x.png", "a.png", ".tmp-1-c_x.png", "deep/d_x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert files_by_stem(tmp_path, "_x.png") == {"a": tmp_path / "a_x.png", "b": tmp_path / "b_x.png"}
    assert list(files_by_stem(tmp_path, "_x.png", recursive=True)) == ["a", "b", "d"]
    (tmp_path / "deep/a_x.png").touch()
    with pytest.raises(DatasetError, match=r"deep/a_x\.png: the same name as .*a_x\.png; keep one"):
        files_by_stem(tmp_path, "_x.png", recursive=True)
    with pytest.raises(DatasetError, match=r"no \*\.jpg in it; unpack"):
        files_by_stem(tmp_path, ".jpg")
    with pytest.raises(DatasetError, match="no such folder"):
        files_by_stem(tmp_path / "nowhere", ".png")


def test_existing_finds_files_in_several_folders(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a").touch()
    (tmp_path / "b").touch()
    asked = [tmp_path / "x" / "a", tmp_path / "b", tmp_path / "x" / "b", tmp_path / "y" / "a"]
    assert existing(asked) == {tmp_path / "x" / "a", tmp_path / "b"}


def test_a_table_has_the_default_where_nothing_is_known() -> None:
    table = lookup_table({1: 0, 3: 7}, default=255, size=5, dtype=np.uint8)
    assert table.tolist() == [255, 0, 255, 7, 255]
    assert table.dtype == np.uint8


def test_a_file_is_placed_as_a_link_or_else_as_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("content")
    link_or_copy(tmp_path / "a", tmp_path / "x" / "a")
    assert (tmp_path / "x" / "a").samefile(tmp_path / "a")

    def other_disk(source: Path, target: Path) -> None:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_disk)
    link_or_copy(tmp_path / "a", tmp_path / "x" / "a")
    assert (tmp_path / "x" / "a").read_text() == "content"
    assert not (tmp_path / "x" / "a").samefile(tmp_path / "a")
