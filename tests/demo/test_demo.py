# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""demo/demo.py: the flags of Detectron2's demo do what `cmpf predict` does, see tests/cli/test_predict.py."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmpf.formats.video import VideoReader, write_video
from demo import demo

ROOT = Path(demo.__file__).parent.parent
SETTINGS = ["--opts", "MODEL.WEIGHTS", str(ROOT / "cmpf/assets/cmpf_tiny_decoder.safetensors"),
            "MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", "64", "TEST.ENSEMBLE.ENABLED", "False"]  # fmt: skip


def test_images_are_segmented_by_the_model_of_a_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a/x.png", "b/x.png"):
        (tmp_path / name).parent.mkdir()
        Image.open(ROOT / "demo/shapes.jpg").resize((96, 64)).save(tmp_path / name)
    config, sources = ROOT / "configs/shapes/cmpf_tiny.yaml", (tmp_path / "a", tmp_path / "b/*.png")
    line = ["--config-file", str(config), "--input", *map(str, sources), "--output", str(tmp_path / "out")]
    line += ["--batch-size", "2", "--formats", "overlay", "instances"]
    assert demo.main([*line, *SETTINGS]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "x.png", "x_2.png", "x_2_instances.npz", "x_instances.npz",
    ]  # fmt: skip
    # Without words it looks for what the model was trained on.
    assert np.load(tmp_path / "out/x_instances.npz")["names"][0] == "red circle"
    assert str(tmp_path / "out/x_2.png") in capsys.readouterr().out


def test_a_video_becomes_a_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip, out = tmp_path / "clip.mp4", tmp_path / "out"
    write_video(clip, [np.full((40, 58, 3), 90, np.uint8)] * 3, rate=Fraction(10))
    line = ["--video-input", str(clip), "--vocabulary", "red circle; sky", "--output", str(out)]
    assert demo.main([*line, *SETTINGS]) == 0
    assert "3 frames at 10 a second, without sound" in capsys.readouterr().out
    assert VideoReader(out / "clip_overlay.mp4").count == 3


@pytest.mark.parametrize(
    "arguments", [[], ["--input", "a.jpg", "--webcam"], ["--video-input", "a.mp4", "--webcam"]]
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        demo.main(arguments)
    assert caught.value.code == 2


def test_the_script_shows_help_without_torch_and_finds_its_own_modules() -> None:
    code = "import runpy, sys; sys.modules['torch'] = None; sys.argv[1:] = ['--help']; "
    script = [sys.executable, "-c", f"{code}runpy.run_path('demo/demo.py', run_name='__main__')"]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "examples:" in done.stdout
    missing = [sys.executable, "demo/demo.py", "--input", "nowhere.jpg"]
    done = subprocess.run(missing, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("demo.py: nowhere.jpg: no such image")
