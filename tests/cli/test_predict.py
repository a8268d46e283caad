# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.own_dataset import SOURCE
from helpers.tiny_model import tiny_model
from PIL import Image

import cmpf
from cmpf.cli import main
from cmpf.cli.dataset_names import dataset_name
from cmpf.data.catalog import get_vocabulary
from cmpf.predictor import Predictor


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Replaces cmpf.load by a model with random weights, and keeps what it was called with."""
    calls: dict[str, object] = {}
    predictor = Predictor(model=tiny_model("no_ensemble"), short_side=64, max_side=128, mask_ensemble=None)

    def load(model: str, *, device: str | None, weights: str | None) -> Predictor:
        calls.update(model=model, device=device, weights=weights)
        return predictor

    monkeypatch.setattr(cmpf, "load", load)
    return calls


def test_predict_writes_what_was_asked_for_and_says_where(
    photo: Path, loaded: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    out = photo.parent / "out"
    code = main(["predict", str(photo), "--vocabulary", "cat; dog; sky", "--output", str(out),
                 "--formats", "overlay", "semantic", "--device", "cpu"])  # fmt: skip
    assert code == 0
    assert sorted(p.name for p in out.iterdir()) == ["photo.png", "photo_semantic.png"]
    assert str(out / "photo.png") in capsys.readouterr().out
    assert loaded == {"model": "cmpf_tiny", "device": "cpu", "weights": None}


def test_json_output_is_one_object_a_picture(
    photo: Path, loaded: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    pattern = str(photo.parent / "*.png")
    assert main(["predict", pattern, "--vocabulary", "cat;dog", "--json", "--task", "panoptic",
                 "--output", str(photo.parent / "out")]) == 0  # fmt: skip
    (line,) = capsys.readouterr().out.splitlines()
    assert set(json.loads(line)) == {"image", "files", "found"}


@pytest.mark.parametrize("given", [str(SOURCE / "fruit_val.yaml"), "shapes_train"])
def test_the_classes_of_a_dataset_can_be_looked_for(
    photo: Path, loaded: dict[str, object], capsys: pytest.CaptureFixture[str], given: str
) -> None:
    command = ["predict", str(photo), "--vocabulary", given, "--output", str(photo.parent / "out")]
    assert main([*command, "--formats", "semantic", "--task", "semantic"]) == 0
    words = get_vocabulary(dataset_name(given)).names
    found = capsys.readouterr().out.partition(": ")[2].partition(" ->")[0]
    assert {part.split(" ", 1)[1] for part in found.split(", ")} <= set(words)
    assert main([*command, "--stuff", "wall"]) == 1
    assert capsys.readouterr().err == (
        f"cmpf: --stuff wall: the dataset {given} says what is stuff; leave it out\n"
    )


def test_a_missing_dataset_file_is_named(
    photo: Path, loaded: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(photo), "--vocabulary", "nowhere.yaml"]) == 1
    assert "nowhere.yaml: no such dataset file" in capsys.readouterr().err


def test_errors_are_one_line_and_exit_code_1(
    photo: Path, loaded: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "nowhere/*.jpg", "--vocabulary", "cat"]) == 1
    assert capsys.readouterr().err == (
        "cmpf: nowhere/*.jpg: no such picture; give files or a pattern that matches some\n"
    )
    assert main(["predict", str(photo), "--vocabulary", "cat;dog;cat"]) == 1
    message = capsys.readouterr().err
    assert "'cat' is repeated" in message
    assert message.count("\n") == 1


def test_debug_shows_the_traceback(photo: Path) -> None:
    with pytest.raises(cmpf.errors.CMPFError):
        main(["predict", "nowhere.jpg", "--vocabulary", "cat", "--debug"])


@pytest.mark.parametrize("argv", [[], ["predict"], ["predict", "a.jpg"], ["segment"]])
def test_wrong_usage_is_exit_code_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert "usage: cmpf" in capsys.readouterr().err


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["predict", "--help"])
    assert stop.value.code == 0
    assert "examples:" in capsys.readouterr().out
