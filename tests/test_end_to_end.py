# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What users type, one after the other, with the installed command and the tiny model; nothing is replaced."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmpf.export import load_exported
from cmpf.formats.video import VideoReader, write_video

ROOT = Path(__file__).resolve().parents[1]
COMMAND = Path(sys.executable).with_name("cmpf")
# In place of a training of minutes.
SHORT = (
    *(
        "SOLVER.MAX_ITER",
        "8",
        "SOLVER.IMS_PER_BATCH",
        "2",
        "SOLVER.CHECKPOINT_PERIOD",
        "1",
        "NUM_THREADS",
        "1",
    ),
    *("INPUT.IMAGE_SIZE", "128", "MODEL.DEVICE", "cpu", "TEST.ENSEMBLE.POINTS_PER_SIDE", "2"),
)
WORDS = "red circle; unicorn; sky"


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command in a folder, with the modules of this checkout."""
    own = {"DETECTRON2_DATASETS": str(folder / "datasets"), "CMPF_CACHE": str(folder / "cache")}
    return subprocess.Popen(
        [str(COMMAND), *arguments],
        cwd=folder,
        env={**os.environ, **own, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, *arguments: str) -> str:
    """What a command that ends well prints."""
    process = start(folder, *arguments)
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    return out


def results(folder: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads((folder / "results.json").read_text())["shapes_val"]
    return found


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small ShapeWorld, and in output/mine a training that was stopped and resumed."""
    folder = tmp_path_factory.mktemp("user")
    world = ["--out", str(folder / "datasets/shapeworld"), "--train", "6", "--val", "1", "--jobs", "1"]
    subprocess.run(
        [sys.executable, "-m", "cmpf.shapeworld", *world], cwd=ROOT, check=True, capture_output=True
    )
    train = ("train", "--config-file", "shapes/cmpf_tiny")
    settings = ("OUTPUT_DIR", "output/mine", *SHORT)
    process = start(folder, *train, *settings)
    while process.poll() is None and not (folder / "output/mine/model_0000001.safetensors").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "SIGTERM: stopped after iteration" in out
    assert "Resume with: cmpf train --config-file shapes/cmpf_tiny --resume" in out
    assert not (folder / "output/mine/model_final.safetensors").exists()
    run(folder, *train, "--resume", *settings)
    return folder


def test_a_stopped_and_resumed_training_counts_every_iteration_once_and_is_evaluated(workplace: Path) -> None:
    lines = [json.loads(line) for line in (workplace / "output/mine/metrics.json").read_text().splitlines()]
    iterations = [line["iteration"] for line in lines if "loss_ce" in line]
    assert iterations == sorted(set(iterations))
    assert iterations[-1] == 8
    tasks = results(workplace / "output/mine")
    assert {"panoptic", "segm", "sem_seg"} <= set(tasks)
    assert {"PQ", "S_PQ", "U_PQ"} <= set(tasks["panoptic"])


def test_evaluating_the_folder_of_a_training_gives_its_results(workplace: Path) -> None:
    run(workplace, "eval", "--model", "output/mine", "--output", "output/eval", *SHORT[-4:])
    assert results(workplace / "output/eval") == results(workplace / "output/mine")


def test_images_and_videos_are_segmented_by_the_trained_model(workplace: Path) -> None:
    with Image.open(ROOT / "demo/shapes.jpg") as image:
        image.resize((160, 120)).save(workplace / "photo.png")
    write_video(workplace / "clip.mp4", [np.full((48, 64, 3), 90, np.uint8)] * 2, rate=Fraction(10))
    out = run(
        workplace,
        *("predict", "photo.png", "clip.mp4", "--vocabulary", WORDS, "--model", "output/mine", "--json"),
        *("--output", "found", "--formats", "overlay", "semantic", "--opts", "INPUT.MIN_SIZE_TEST", "64"),
    )
    image_line, video_line = (json.loads(line) for line in out.splitlines())
    assert image_line["files"] == ["found/photo.jpg", "found/photo_semantic.png"]
    assert set(image_line["found"]) <= {"red circle", "unicorn", "sky"}
    assert video_line == {"video": "clip.mp4", "files": ["found/clip_overlay.mp4"], "frames": 2}
    with Image.open(workplace / "found/photo_semantic.png") as labels:
        assert labels.size == (160, 120)
    assert VideoReader(workplace / "found/clip_overlay.mp4").count == 2
    assert len(list((workplace / "found/clip_frames").glob("*_semantic.png"))) == 2


def test_the_exported_model_predicts_with_the_words_that_were_written_beside_it(workplace: Path) -> None:
    out = run(
        workplace,
        *("export", "--model", "output/mine", "--format", "torch-export", "--output", "mine.pt2"),
        *("--no-dynamic", "--image-size", "64", "96", "--vocabulary", WORDS),
    )
    assert (
        out.index("not in the exported file, or fixed:\n")
        < out.index("OpenSeg Ensemble")
        < out.index("mine.pt2 (")
    )
    exported = load_exported(workplace / "mine.pt2", words=workplace / "mine.words.safetensors")
    found = exported.predict(np.full((64, 96, 3), 90, np.uint8), WORDS)
    assert found.panoptic.shape == (64, 96)
    assert found.names == ("red circle", "unicorn", "sky")
