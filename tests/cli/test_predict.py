# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.own_dataset import SOURCE
from PIL import Image

from cmpf.cli import main, make_parser, predict_options
from cmpf.cli.datasets import dataset_name
from cmpf.cli.models import SHAPES_ONLY
from cmpf.data.datasets.catalog import get_vocabulary
from cmpf.errors import ImageError
from cmpf.inference import settings
from cmpf.labelling import writers


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)).save(path)
    return path


def run(*arguments: str) -> int:
    """cmpf predict with the tiny model at a small size, without SAM's own masks."""
    small = ("INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "128", "TEST.ENSEMBLE.ENABLED", "False")
    return main(["predict", *arguments, "--device", "cpu", "--opts", *small, "NUM_THREADS", "1"])


def shown(folder: Path) -> list[str]:
    """Files of a folder but for the journal and the like."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and ".cmpf" not in path.parts
    )


def test_predict_writes_what_was_asked_for_and_says_where(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = photo.parent / "out"
    words = ("--vocabulary", "cat; dog; sky")
    assert run(str(photo), *words, "--output", str(out), "--formats", "overlay", "semantic") == 0
    assert shown(out) == ["photo.jpg", "photo_semantic.png"]
    assert str(out / "photo.jpg") in capsys.readouterr().out


def test_json_output_is_one_object_an_image(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pattern = str(photo.parent / "*.png")
    output = ("--output", str(photo.parent / "out"))
    assert run(pattern, "--vocabulary", "cat;dog", "--json", "--task", "panoptic", *output) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert set(json.loads(line)) == {"image", "files", "found"}


@pytest.mark.parametrize("given", [str(SOURCE / "fruit_val.yaml"), "shapes_train"])
def test_the_classes_of_a_dataset_can_be_looked_for(
    photo: Path, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    output = ("--output", str(photo.parent / "out"), "--formats", "semantic", "--task", "semantic")
    assert run(str(photo), "--vocabulary", given, *output) == 0
    words = get_vocabulary(dataset_name(given)).names
    found = capsys.readouterr().out.partition(": ")[2].partition(" ->")[0]
    assert {part.split(" ", 1)[1] for part in found.split(", ")} <= set(words)


def test_a_missing_dataset_file_is_named(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(photo), "--vocabulary", "nowhere.yaml") == 1
    assert "nowhere.yaml: no such dataset file" in capsys.readouterr().err


def test_errors_are_one_line_and_exit_code_1(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Said before the model is loaded, which would be an error, too.
    assert run("nowhere/*.jpg", "--vocabulary", "cat", "--model", "nowhere") == 1
    message = capsys.readouterr().err
    assert message.startswith("cmpf: nowhere/*.jpg: no such image")
    assert message.count("\n") == 1
    assert run(str(photo), "--vocabulary", "") == 1
    assert "the vocabulary is empty" in capsys.readouterr().err
    assert run(str(photo), "--vocabulary", "cat;dog;cat") == 1
    message = capsys.readouterr().err
    assert "'cat' is repeated" in message
    assert message.count("\n") == 1


def test_images_of_one_name_in_two_folders_do_not_replace_each_other(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = photo.parent / "more", photo.parent / "out"
    folder.mkdir()
    shutil.copy(photo, folder / photo.name)
    assert run(str(photo), str(folder), "--vocabulary", "cat; dog", "--output", str(out)) == 0
    assert shown(out) == ["more/photo.jpg", "photo.jpg"]
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2
    assert said.err.startswith("2 images in ")  # no progress bar where there is no terminal
    assert said.err.endswith(f" s each. Results saved to {out}\n{SHAPES_ONLY}\n")


@pytest.mark.parametrize("batch", ["1", "2"])
def test_a_damaged_image_is_named_and_the_others_are_done(
    batch: str, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = photo.parent / "out"
    (photo.parent / "broken.png").write_bytes(photo.read_bytes()[:60])
    words = ("--vocabulary", "cat; dog")
    command = (str(photo.parent), *words, "--output", str(out), "--json", "--batch-size", batch)
    assert run(*command) == 1
    said = capsys.readouterr()
    assert [json.loads(line)["image"] for line in said.out.splitlines()] == [str(photo)]
    assert said.err.startswith(f"cmpf: {photo.parent / 'broken.png'}")
    assert "; 1 failed. Results saved to " in said.err
    assert shown(out) == ["errors.csv", "photo.jpg"]
    with (out / "errors.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["image"] == str(photo.parent / "broken.png")
    assert "broken.png: damaged or truncated" in row["error"]
    with pytest.raises(ImageError):
        run(*command, "--debug")


def test_stopping_while_a_file_is_written_leaves_no_half_file(
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(image: Image.Image, path: Path, **options: Any) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    out = photo.parent / "out"
    assert run(str(photo), "--vocabulary", "cat; dog", "--output", str(out)) == 1
    assert capsys.readouterr().err == "stopped\n"
    assert shown(out) == []


def test_the_ensemble_can_be_switched_on_where_the_configuration_has_it_off(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", str(photo), "--vocabulary", "red circle; bamboo", "--task", "semantic"]
    model = ["--device", "cpu", "--model", "shapes/no_ensemble.yaml", "--formats", "semantic"]
    model += ["--output", str(photo.parent / "out")]
    assert main([*command, *model, "--ensemble", "--opts", "INPUT.MIN_SIZE_TEST", "64"]) == 0
    assert (photo.parent / "out" / "photo_semantic.png").is_file()
    assert main([*command, *model, "--opts", "TEST.ENSEMBLE.ENABLD", "True"]) == 1
    assert "did you mean TEST.ENSEMBLE.ENABLED" in capsys.readouterr().err


def test_choices_and_formats_are_those_of_the_library() -> None:
    assert predict_options.TASKS == settings.TASKS
    assert set(predict_options.FORMATS) == set(writers.FORMATS)


@pytest.mark.parametrize(
    ("options", "stuff"),
    [([], ["sky"]), (["--stuff", "cat"], ["cat", "sky"]), (["--things", "sky"], ["cat", "dog"])],
)
def test_things_and_stuff_can_be_named(photo: Path, options: list[str], stuff: list[str]) -> None:
    words, output = ("--vocabulary", "cat; dog; sky"), ("--output", str(photo.parent / "out"))
    assert run(str(photo), *words, *output, *options) == 0
    manifest = json.loads((photo.parent / "out/.cmpf/manifest.json").read_text())
    assert (
        manifest["stuff"] == stuff
    )  # sky is stuff in COCO, cat and dog are things; --things names all of them


def test_a_threshold_leaves_weak_results_out_by_either_name(photo: Path) -> None:
    base = (str(photo), "--formats", "coco", "--vocabulary", "cat; dog", "--multi-label", "--nms", "1")
    for option, threshold, folder in (("--min-score", "0", "all"), ("--confidence-threshold", "1", "none")):
        assert run(*base, option, threshold, "--output", str(photo.parent / folder)) == 0
    found = {
        folder: json.loads((photo.parent / folder / "annotations/instances.json").read_text())["annotations"]
        for folder in ("all", "none")
    }
    assert len(found["all"]) > 1
    assert found["none"] == []


@pytest.mark.parametrize(
    "argv",
    [
        ["predict"],
        ["predict", "a.jpg"],
        ["predict", "--vocabulary", "cat"],
        ["predict", "a.jpg", "--vocabulary", "cat", "--webcam"],
        ["predict", "a.jpg", "--vocabulary", "cat", "--stuff", "a", "--things", "b"],
        ["predict", "a.jpg", "--vocabulary", "cat", "--confidence-threshold", "7"],
        ["predict", "a.jpg", "--vocabulary", "cat", "--confidence-threshold", "high"],
        ["predict", "a.jpg", "--vocabulary", "cat", "--batch-size", "0"],
        ["predict", "a.jpg", "--vocabulary", "cat", "--max-frames", "some"],
    ],
)
def test_wrong_usage_is_exit_code_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert "usage: cmpf" in capsys.readouterr().err


def test_options_may_stand_before_and_behind_the_images() -> None:
    for line in (
        ["--vocabulary", "cat", "a.jpg", "b.jpg", "--json"],
        ["a.jpg", "b.jpg", "--vocabulary", "cat"],
    ):
        assert make_parser().parse_args(["predict", *line]).images == ["a.jpg", "b.jpg"]
    assert make_parser().parse_args(["predict", "--webcam", "--vocabulary", "cat"]).webcam == 0
