# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.tiny_model import tiny_model
from PIL import Image

import cmpf.factory
from cmpf.inference import FORMATS, MaskEnsembleSettings
from cmpf.predictor import TASKS, Predictor
from demo import demo

ROOT = Path(demo.__file__).parent.parent
WORDS = ["--vocabulary", "cat; dog, puppy; sky"]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    ensemble = MaskEnsembleSettings(alpha=0.2, score_threshold=0.5, published_pooling=False)
    return Predictor(model=tiny_model(), short_side=64, max_side=128, mask_ensemble=ensemble)


@pytest.fixture
def loaded(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """Replaces the loading of a model, and keeps what it was called with."""
    calls: list[tuple[str, list[str]]] = []

    def load(model: str, *, overrides: Sequence[str]) -> Predictor:
        calls.append((model, list(overrides)))
        return predictor

    monkeypatch.setattr(cmpf.factory, "load_predictor", load)
    return calls


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    for name in ("a/x.jpg", "b/x.jpg"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(noise).save(tmp_path / name)
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_flags_of_detectron2_reach_the_model(loaded: list[Any], photos: Path) -> None:
    out = photos / "out"
    code = demo.main(["--config-file", "my.yaml", "--input", str(photos / "a"), str(photos / "b/*.jpg"),
                      "--output", str(out), *WORDS, "--opts", "MODEL.WEIGHTS", "w.pth"])  # fmt: skip
    assert code == 0
    assert loaded == [("my.yaml", ["MODEL.WEIGHTS", "w.pth"])]
    assert names(out) == ["x.png", "x_2.png"]  # two images of one name


def test_every_format_is_written(loaded: list[Any], photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = photos / "out"
    assert demo.main(["--input", str(photos / "a/x.jpg"), "--output", str(out), *WORDS,
                      "--formats", *demo.FORMATS]) == 0  # fmt: skip
    assert names(out) == [
        *(
            "x.png",
            "x_instances.json",
            "x_instances.npz",
            "x_panoptic.json",
            "x_panoptic.png",
            "x_semantic.png",
        )
    ]
    assert str(out / "x_semantic.png") in capsys.readouterr().out


def test_a_threshold_leaves_weak_results_out(loaded: list[Any], photos: Path) -> None:
    base = ["--input", str(photos / "a/x.jpg"), "--formats", "coco", *WORDS, "--task", "instance"]
    for threshold, folder in (("0", "all"), ("1", "none")):
        assert demo.main([*base, "--confidence-threshold", threshold, "--output", str(photos / folder)]) == 0
    assert json.loads((photos / "all/x_instances.json").read_text())
    assert json.loads((photos / "none/x_instances.json").read_text()) == []


def test_kinds_and_the_ensemble_are_passed_on(
    loaded: list[Any], photos: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {}
    stream = predictor.stream
    monkeypatch.setattr(
        predictor, "stream", lambda images, **given: options.update(given) or stream(images, **given)
    )
    base = ["--input", str(photos / "a/x.jpg"), "--output", str(photos / "out"), *WORDS, "--task", "semantic"]
    assert demo.main([*base, "--stuff", "dog;", "--batch-size", "2"]) == 0
    assert options["vocabulary"].is_thing == (True, False, False)  # sky is stuff in training
    assert (options["task"], options["ensemble"], options["batch_size"]) == ("semantic", None, 2)
    assert demo.main([*base, "--things", "sky", "--ensemble"]) == 0
    assert options["vocabulary"].is_thing == (False, False, True)
    assert options["ensemble"] is True


def test_without_words_the_model_looks_for_what_it_learned(loaded: list[Any], photos: Path) -> None:
    assert (
        demo.main(["--input", str(photos / "a/x.jpg"), "--output", str(photos), "--formats", "instances"])
        == 0
    )
    assert np.load(photos / "x_instances.npz")["names"][0] == "red circle"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "nowhere.jpg"], "demo.py: nowhere.jpg: no such image"),
        (["--input", "nowhere-*.jpg"], "no such image"),
        (["--input", "SELF", "--vocabulary", "cat; cat"], "'cat' is repeated"),
        (["--input", "SELF", "--vocabulary", "cat", "--stuff", "dog"], "stuff names 'dog'"),
        (["--input", "SELF", "--batch-size", "0"], "batch_size must be at least 1"),
        (["--webcam", "--max-frames", "0"], "--max-frames must be at least 1, got 0"),
    ],
)
def test_errors_are_one_line_and_exit_code_1(
    loaded: list[Any], photos: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    given = [str(photos / "a/x.jpg") if text == "SELF" else text for text in arguments]
    assert demo.main([*given, "--output", str(photos / "out")]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (photos / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--input", "a.jpg", "--webcam"],
        ["--input", "a.jpg", "--task", "depth"],
        ["--input", "a.jpg", "--confidence-threshold", "7"],
        ["--input", "a.jpg", "--confidence-threshold", "high"],
        ["--input", "a.jpg", "--stuff", "a", "--things", "b"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        demo.main(arguments)
    assert caught.value.code == 2


def test_choices_are_those_of_the_library() -> None:
    assert demo.FORMATS == FORMATS
    assert set(demo.TASKS) == set(TASKS)


def test_the_script_shows_help_without_torch_and_finds_its_own_modules() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "demo/demo.py", "--help"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "examples:" in done.stdout
    assert "| torch\n" not in done.stderr.replace("|   ", "| ")
    missing = [sys.executable, "demo/demo.py", "--video-input", "nowhere.mp4"]
    done = subprocess.run(missing, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(
        ("demo.py: video and webcam need OpenCV", "demo.py: nowhere.mp4: no such video")
    )
