# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""demo/demo.py: the flags of Detectron2's demo do what `cmpf predict` does, see tests/cli/test_predict.py."""

from __future__ import annotations

import argparse
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cmpf.config import get_cfg
from cmpf.data import get_vocabulary
from cmpf.factory.vocabularies import demo_vocabulary
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
    files = (path for path in (tmp_path / "out").glob("[ab]/*"))
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in files) == [
        "a/x.jpg", "a/x_instances.npz", "b/x.jpg", "b/x_instances.npz",
    ]  # fmt: skip
    # Without words it looks for what the model was trained on.
    assert np.load(tmp_path / "out/a/x_instances.npz")["names"][0] == "red circle"
    assert str(tmp_path / "out/b/x.jpg") in capsys.readouterr().out


def one_image(folder: Path) -> str:
    Image.open(ROOT / "demo/shapes.jpg").resize((96, 64)).save(folder / "a.png")
    return str(folder / "a.png")


def test_output_may_be_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = one_image(tmp_path), tmp_path / "out" / "b.jpg"
    assert demo.main(["--input", source, "--output", str(target), *SETTINGS]) == 0
    with Image.open(target) as image:
        assert image.format == "JPEG"
    assert [path.name for path in target.parent.iterdir()] == ["b.jpg"]
    assert demo.main(["--input", source, source, "--output", str(target), *SETTINGS]) == 1
    assert "a file holds the result of one image; give a folder for several" in capsys.readouterr().err
    assert demo.main(["--input", source, "--output", str(tmp_path / "b.xyz"), *SETTINGS]) == 1
    assert "unknown image format; use .png or .jpg" in capsys.readouterr().err
    assert not (tmp_path / "b.xyz").exists()


def test_without_output_the_result_is_shown_where_there_is_a_display(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[tuple[int, int]] = []
    monkeypatch.setattr(Image.Image, "show", lambda self, title=None: shown.append(self.size))
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.chdir(tmp_path)
    assert demo.main(["--input", one_image(tmp_path), *SETTINGS]) == 0
    assert len(shown) == 1
    assert "a.png: " in capsys.readouterr().out
    assert not (tmp_path / "output").exists()
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert demo.main(["--input", "a.png", *SETTINGS]) == 0
    assert len(list((tmp_path / "output/demo_predictions").glob("*.jpg"))) == len(shown) == 1


def test_a_model_trained_on_coco_looks_for_the_classes_of_the_published_demo() -> None:
    coco, shapes = "openvocab_coco_2017_train_panoptic_with_sem_seg", get_vocabulary("shapes_train")
    assert demo_vocabulary(shapes, get_cfg("cmpf_tiny")) is shapes
    words = demo_vocabulary(get_vocabulary(coco), get_cfg(overrides=["DATASETS.TRAIN", [coco]]))
    assert words.classes[:133] == get_vocabulary(coco).classes
    assert 1000 < words.num_classes < 133 + 150 + 1203  # without those that two of them have
    flags = dict(zip(words.names, words.is_thing, strict=True))
    assert (flags["zebra"], flags["sky"], flags["armoire"]) == (True, False, True)


def test_a_video_becomes_a_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip, out = tmp_path / "clip.mp4", tmp_path / "out"
    write_video(clip, [np.full((40, 58, 3), 90, np.uint8)] * 3, rate=Fraction(10))
    line = ["--video-input", str(clip), "--vocabulary", "red circle; sky", "--output", str(out)]
    assert demo.main([*line, *SETTINGS]) == 0
    assert "3 frames at 10 fps, without sound" in capsys.readouterr().out
    assert VideoReader(out / "clip_overlay.mp4").count == 3


@pytest.mark.parametrize(
    ("devices", "given", "expected"),
    [
        (3, (None, None), ("cuda:0,1,2", None)),
        (0, (None, None), ("cpu", 4)),
        (3, ("cuda:1", None), ("cuda:1", None)),
        (0, (None, 2), (None, 2)),
    ],
)
def test_parallel_uses_the_whole_machine_unless_told_how_much(
    monkeypatch: pytest.MonkeyPatch,
    devices: int,
    given: tuple[str | None, int | None],
    expected: tuple[str | None, int | None],
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setattr(demo, "usable_cores", lambda: 8)
    arguments = argparse.Namespace(device=given[0], processes=given[1])
    demo.use_all_devices(arguments)
    assert (arguments.device, arguments.processes) == expected


def test_parallel_writes_what_one_model_writes(tmp_path: Path) -> None:
    for name in "abc":
        Image.open(ROOT / "demo/shapes.jpg").resize((96, 64)).save(tmp_path / f"{name}.png")
    line = ["--input", str(tmp_path / "*.png"), "--formats", "semantic"]
    for output, more in (("one", []), ("many", ["--parallel", "--processes", "2"])):
        assert demo.main([*line, "--output", str(tmp_path / output), *more, *SETTINGS]) == 0
    files = sorted((tmp_path / "one").glob("*.png"))
    assert len(files) == 3
    assert all(file.read_bytes() == (tmp_path / "many" / file.name).read_bytes() for file in files)


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
