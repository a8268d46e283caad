# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf label from files to Parquet, in shards, again after a stop, and with images that cannot be read."""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pandas
import pytest
from helpers.labelling import (
    SMALL,
    WORDS,
    encoded,
    expected_records,
    labeler,
    picture,
    write_pictures,
    written_records,
)
from PIL import Image
from pycocotools.coco import COCO

import cmpf.integrations
from cmpf.cli import main
from cmpf.cli.models import SHAPES_ONLY
from cmpf.labelling import shards
from cmpf.labelling.inputs import Item
from cmpf.labelling.parquet import find_parts, read_metadata
from cmpf.labelling.record import ImageRecord, record_of

OPTIONS = ("--device", "cpu", "--opts", *map(str, SMALL))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real model, loaded once for all tests that do not change it."""
    monkeypatch.setattr(cmpf.integrations, "Labeler", lambda **options: labeler())


def label(*arguments: str | Path) -> int:
    return main(["label", *map(str, arguments), *OPTIONS])


def test_a_folder_becomes_a_table_that_says_what_made_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = write_pictures(tmp_path / "photos", 3), tmp_path / "out"
    assert label(photos, "--vocabulary", WORDS, "--output", out) == 0
    assert written_records(out) == expected_records(photos)
    said = capsys.readouterr()
    assert said.out.startswith("3 images, ")
    assert said.out.endswith(f" -> {out}\n")
    assert said.err == f"{SHAPES_ONLY}\n"  # that is for the tiny model alone
    about = read_metadata(out / "part-00000-of-00001.parquet")
    assert about["vocabulary"] == ["red circle", "blue square", "sky"]
    assert about["stuff"] == ["sky"]
    assert (about["model"], about["task"], about["cmpf"]) == ("cmpf_tiny", "all", cmpf.__version__)
    assert len(about["weights"]["trained"]) == 64
    assert len(pandas.read_parquet(out)) == 3  # a reader of folders sees the table only


@pytest.mark.usefixtures("loaded")
def test_shards_hold_what_one_run_finds_and_done_ones_are_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = write_pictures(tmp_path / "photos", 8), tmp_path / "out"
    for index in range(3):
        assert label(photos, "--vocabulary", WORDS, "--output", out, "--shard", f"{index}/3") == 0
    found = sorted(written_records(out), key=lambda record: record.uri)
    assert found == expected_records(photos)
    times = [part.stat().st_mtime_ns for part in find_parts(out)]
    capsys.readouterr()
    assert label(photos, "--vocabulary", WORDS, "--output", out, "--shard", "1/3") == 0
    assert capsys.readouterr().out == f"0 images, 1 shard already finished -> {out}\n"
    assert [part.stat().st_mtime_ns for part in find_parts(out)] == times


@pytest.mark.usefixtures("loaded")
def test_images_that_cannot_be_read_are_rows_and_the_exit_code_is_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = write_pictures(tmp_path / "photos", 2), tmp_path / "out"
    (photos / "0000b.png").write_bytes(encoded(0)[:100])
    (photos / "0000a.png").touch()
    assert label(photos, "--vocabulary", WORDS, "--output", out) == 1
    assert [bool(record.error) for record in written_records(out)] == [False, True, True, False]
    said = capsys.readouterr()
    assert "4 images, " in said.out
    assert "2 unreadable (see column error)" in said.out
    assert [
        line.partition(": ")[2].split(":")[0]
        for line in said.err.removeprefix(f"{SHAPES_ONLY}\n").splitlines()
    ] == [
        str(photos / "0000a.png"),
        str(photos / "0000b.png"),
    ]


@pytest.mark.usefixtures("loaded")
def test_after_a_stop_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = write_pictures(tmp_path / "photos", 5), tmp_path / "out"
    whole = type(labeler()).records

    def stopped(self: object, items: Iterator[Item]) -> Iterator[ImageRecord]:
        for number, record in enumerate(whole(self, items)):  # type: ignore[arg-type]
            if number == 2:
                raise KeyboardInterrupt
            yield record

    monkeypatch.setattr(type(labeler()), "records", stopped)
    assert label(photos, "--vocabulary", WORDS, "--output", out) == 1
    assert capsys.readouterr().err.endswith(
        "\nstopped after 2 images; run the same command again to resume\n"
    )
    assert not list(out.glob("*.parquet"))
    monkeypatch.setattr(type(labeler()), "records", whole)
    assert label(photos, "--vocabulary", WORDS, "--output", out) == 0
    assert capsys.readouterr().out.startswith("3 images, ")
    assert written_records(out) == expected_records(photos)


@pytest.mark.usefixtures("loaded")
def test_a_shard_that_the_disk_has_no_room_for_is_one_line_and_its_bad_images_count_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = write_pictures(tmp_path / "photos", 1), tmp_path / "out"
    (photos / "empty.png").touch()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "Error writing bytes to file")

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_parquet", full)
        assert label(photos, "--vocabulary", WORDS, "--output", out) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"cmpf: {out / 'part-00000-of-00001.parquet'}: cannot be written (")
    assert error.endswith("free disk space and run the same command again to resume")
    assert label(photos, "--vocabulary", WORDS, "--output", out) == 1
    assert (
        capsys.readouterr().out
        == f"0 images, 2 from an earlier run, 1 unreadable (see column error) -> {out}\n"
    )
    assert [bool(record.error) for record in written_records(out)] == [False, True]


@pytest.mark.usefixtures("loaded")
def test_another_task_into_the_same_folder_is_an_error_unless_it_is_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = write_pictures(tmp_path / "photos", 1), tmp_path / "out"
    words = (photos, "--vocabulary", WORDS, "--output", out)
    assert label(*words) == 0
    capsys.readouterr()
    assert label(*words, "--task", "panoptic") == 1
    assert capsys.readouterr().err == (
        f'cmpf: {out} holds results of another configuration: task "all" there, "panoptic" now; '
        "give another --output, or --overwrite to start over\n"
    )
    assert label(*words, "--shard", "0/2") == 1
    assert "shards 1 there, 2 now" in capsys.readouterr().err
    assert label(*words, "--task", "panoptic", "--overwrite") == 0


@pytest.mark.usefixtures("loaded")
def test_a_bucket_is_labelled(tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pipe("/bucket/a.png", encoded(0))
    assert label("memory://bucket/", "--vocabulary", WORDS, "--output", tmp_path / "out") == 0
    (record,) = written_records(tmp_path / "out")
    (there,) = labeler().records([Item("memory:///bucket/a.png", encoded(0))])
    assert record == there


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "--output", "out"], "the following arguments are required: --vocabulary"),
        (
            ["x", "--vocabulary", "cat", "--output", "out", "--shard", "3/3"],
            "expected I/N with I from 0 to N - 1",
        ),
        (
            ["x", "--vocabulary", "cat", "--output", "o", "--shard", "0/2", "--ray"],
            "--shard cannot be combined with --ray; use --shards N",
        ),
        (
            ["x", "--vocabulary", "cat", "--output", "out", "--workers", "2"],
            "--workers requires --ray",
        ),
        (
            ["x", "--vocabulary", "cat", "--output", "out", "--format", "coco"],
            "--format is only valid with cmpf label export",
        ),
        (["x", "--vocabulary", "cat", "--output", "out", "--shard", "a"], "such as 0/8, got a"),
        (
            ["x", "--vocabulary", "cat", "--output", "out", "--batch-size", "0"],
            "expected a whole number from 1, got 0",
        ),
    ],
)
def test_wrong_usage_is_said(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"2"):
        main(["label", *arguments])
    assert message in capsys.readouterr().err


def test_what_is_missing_is_said_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ("--vocabulary", "cat", "--output", str(tmp_path / "out"), "--model", "nowhere")
    assert main(["label", "nowhere/", *line]) == 1
    assert capsys.readouterr().err.startswith("cmpf: nowhere/: no such file (looked at")
    assert main(["label", "n" * 300, *line]) == 1
    assert "File name too long" in capsys.readouterr().err.partition("cannot be read")[2]
    assert main(["label", str(tmp_path), *line]) == 1
    assert "the output is inside the input" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["label", str(tmp_path), *line]) == 1
    assert capsys.readouterr().err == 'cmpf: Parquet files need pyarrow: pip install "cmpf[label]"\n'
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_every_image_is_there_once_after_five_kills(tmp_path: Path) -> None:
    photos, out = write_pictures(tmp_path / "photos", 300), tmp_path / "out"
    shutil.copy(photos / "0000.png", photos / "same.png")
    line = [
        sys.executable,
        "-m",
        "cmpf",
        "label",
        str(photos),
        "--vocabulary",
        WORDS,
        "--output",
        str(out),
        *OPTIONS,
    ]
    for kill in range(5):
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        journal = out / "_unfinished/part-00000-of-00001.jsonl"
        until = time.monotonic() + 120
        while time.monotonic() < until and (
            not journal.exists() or journal.read_bytes().count(b"\n") < 50 * (kill + 1)
        ):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not list(out.glob("*.parquet"))
    assert subprocess.run(line, check=False).returncode == 0
    found = written_records(out)
    assert found == expected_records(photos)
    assert replace(found[-1], uri="") == replace(found[0], uri="")


@pytest.mark.usefixtures("loaded")
def test_labels_become_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, out = write_pictures(tmp_path / "photos", 2), tmp_path / "out"
    assert label(photos, "--vocabulary", WORDS, "--output", out) == 0
    capsys.readouterr()
    assert main(["label", "export", str(out), "--format", "coco", "--output", str(tmp_path / "coco")]) == 0
    path = tmp_path / "coco/annotations/instances.json"
    assert capsys.readouterr().out == f"2 images -> {path}\n"
    coco = COCO(str(path))
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == ["0000.png", "0001.png"]
    instances = [segment for record in written_records(out) for segment in record.of_task("instance")]
    assert len(instances) == len(coco.getAnnIds()) > 0
    for segment, annotation in zip(instances, coco.loadAnns(coco.getAnnIds()), strict=True):
        assert (coco.annToMask(annotation) == segment.mask()).all()
    for line in (["export", str(out), "--output", "x"], ["export", "--format", "coco", "--output", "x"]):
        with pytest.raises(SystemExit, match=r"2"):
            main(["label", *line])
        assert "expected cmpf label export DIR --format FORMAT --output DIR" in capsys.readouterr().err


def test_tiles_are_those_of_predict_and_belong_to_the_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = write_pictures(tmp_path / "photos", 0), tmp_path / "out"
    Image.fromarray(picture(0, 96, 128)).save(photos / "0.png")
    assert label(photos, "--vocabulary", WORDS, "--output", out, "--tile", 64, "--overlap", "0.4") == 0
    (record,) = written_records(out)
    tiled = labeler().predictor.predict(
        photos / "0.png", labeler().vocabulary, task=["panoptic", "instance"], tile=64, overlap=0.4
    )
    assert record.segments == record_of(tiled, "").segments != expected_records(photos)[0].segments
    about = read_metadata(out / "part-00000-of-00001.parquet")
    assert (about["tile"], about["overlap"]) == (64, 0.4)
    assert label(photos, "--vocabulary", WORDS, "--output", out) == 1
    assert "tile 64 there, null now" in capsys.readouterr().err
    assert (
        label(photos, "--vocabulary", WORDS, "--output", tmp_path / "b", "--tile", 64, "--overlap", "0.7")
        == 1
    )
    assert "overlap" in capsys.readouterr().err
