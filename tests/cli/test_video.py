# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Videos, with real files: cmpf/formats/video.py reads and writes them, cmpf/cli/video.py segments their frames."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from helpers.tiny_model import tiny_model
from PIL import Image
from safetensors.torch import load_file, save_file

from cmpf.cli import main, video
from cmpf.cli.video import VideoReport, segment_camera, segment_video
from cmpf.errors import CMPFError, ImageError
from cmpf.formats import video as formats_video
from cmpf.formats.video import VideoReader, camera_input, write_video
from cmpf.inference import Prediction
from cmpf.predictor import Predictor
from cmpf.weights.download import checked_asset

FRAMES, RATE = 7, Fraction(25, 2)
ROOT = Path(__file__).resolve().parents[2]


def frame(number: int) -> np.ndarray:
    """A frame that tells its number by its brightness, (40, 57, 3): an odd side."""
    return np.full((40, 57, 3), 20 + 30 * number, np.uint8)


def numbers(images: Iterable[np.ndarray]) -> list[int]:
    """Numbers of frames, after a codec that loses a little."""
    return [round((float(image.mean()) - 20) / 30) for image in images]


def frames_of(path: Path) -> list[np.ndarray]:
    return [image for _, image in VideoReader(path).frames() if image is not None]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A video of FRAMES frames."""
    path = tmp_path / "clip.mp4"
    write_video(path, map(frame, range(FRAMES)), rate=RATE)
    return path


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(model=tiny_model("no_ensemble"), short_side=32, max_side=64, mask_ensemble=None)


@pytest.fixture
def plain(predictor: Predictor) -> Callable[..., Iterator[Prediction]]:
    """Segments frames and keeps nothing of it, so that overlays are the frames themselves."""

    def segment(frames: Iterable[np.ndarray], batch_size: int = 1) -> Iterator[Prediction]:
        words = ["red circle", "sky"]
        for found in predictor.stream(frames, words, task="panoptic", batch_size=batch_size):
            yield found.above(2.0)

    return segment


def run(clip: Path, segment: Any, **given: Any) -> VideoReport:
    usual = {
        "output": clip.parent / "out",
        "name": clip.stem,
        "formats": ["overlay"],
        "settings": {"words": "a"},
    }
    return segment_video(clip, segment=segment, **{**usual, "max_frames": None, **given})


def test_frames_keep_their_order_and_rate_whatever_the_batch(clip: Path, plain: Any) -> None:
    for batch in (1, 3):
        report = run(clip, lambda frames, size=batch: plain(frames, size))
        assert report == VideoReport(clip.parent / "out" / "clip_overlay.mp4", FRAMES, RATE, "")
        assert (VideoReader(report.file).count, VideoReader(report.file).rate) == (FRAMES, RATE)
        assert numbers(frames_of(report.file)) == list(range(FRAMES))
    assert [path.name for path in (clip.parent / "out").iterdir()] == ["clip_overlay.mp4"]


def test_a_stopped_run_goes_on_where_it_was(
    clip: Path, plain: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(frames: Iterable[np.ndarray]) -> Iterator[Prediction]:
        for number, prediction in enumerate(plain(frames)):
            if number == 3:
                raise KeyboardInterrupt
            yield prediction

    seen: list[np.ndarray] = []

    def noted(frames: Iterable[np.ndarray]) -> Iterator[Prediction]:
        return plain(seen.append(image) or image for image in frames)

    with pytest.raises(KeyboardInterrupt):
        run(clip, stopped)
    assert not (clip.parent / "out/clip_overlay.mp4").exists()
    report = run(clip, noted)
    assert numbers(seen) == [3, 4, 5, 6]
    assert numbers(frames_of(report.file)) == list(range(FRAMES))
    assert "resuming: 3 frames already finished" in capsys.readouterr().err


def test_other_words_start_anew(clip: Path, plain: Any) -> None:
    part = clip.parent / "out" / "clip_overlay.mp4.part"
    part.mkdir(parents=True)
    Image.fromarray(frame(0)).save(part / "frame_0000003.jpg")
    (part / "settings.json").write_text(json.dumps({"words": "b"}))
    (part / "mine.txt").touch()
    (part / ".tmp-7-frame_0000001.jpg").touch()
    assert numbers(frames_of(run(clip, plain).file)) == list(range(FRAMES))
    assert [path.name for path in part.iterdir()] == ["mine.txt"]  # what others put there stays


def test_other_formats_are_written_frame_by_frame(clip: Path, plain: Any) -> None:
    report = run(clip, plain, formats=["overlay", "panoptic"], max_frames=2)
    names = sorted(path.name for path in (clip.parent / "out" / "clip_frames").iterdir())
    assert names == [f"frame_000000{number}_panoptic.{end}" for number in (0, 1) for end in ("json", "png")]
    assert (report.frames, report.warning) == (2, "")


def test_a_video_that_is_cut_off_is_told(tmp_path: Path, plain: Any) -> None:
    whole, noise = tmp_path / "whole.mp4", np.random.default_rng(0)
    with av.open(str(whole), "w", options={"movflags": "faststart"}) as container:  # the index comes first
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(8):
            image = noise.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    content = whole.read_bytes()
    data = content.index(b"mdat") + 4
    cut, empty = tmp_path / "cut.mp4", tmp_path / "empty.mp4"
    cut.write_bytes(content[: (data + len(content)) // 2])
    empty.write_bytes(content[:data])
    report = run(cut, plain)
    assert 1 <= report.frames <= 5
    assert report.warning == f"{cut}: only {report.frames} of 8 frames could be read"
    with pytest.raises(ImageError, match=r"empty\.mp4: no frame could be read"):
        run(empty, plain)


def test_what_a_telephone_filmed_upright_is_read_upright(tmp_path: Path) -> None:
    path, lying = tmp_path / "phone.mp4", np.zeros((40, 64, 3), np.uint8)
    lying[:, :20] = 255  # the left side, on top after a turn to the right
    write_video(path, [lying] * 3, rate=Fraction(10))
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40  # of version 0: what precedes it has 40 bytes
    assert struct.unpack(">9i", content[matrix : matrix + 36]) == (
        1 << 16,
        0,
        0,
        0,
        1 << 16,
        0,
        0,
        0,
        1 << 30,
    )
    turned = (0, 1 << 16, 0, -1 << 16, 0, 0, 40 << 16, 0, 1 << 30)
    content[matrix : matrix + 36] = struct.pack(">9i", *turned)
    path.write_bytes(content)
    for image in frames_of(path):
        assert image.shape == (64, 40, 3)
        assert image[:16].min() > 200
        assert image[24:].max() < 50


def test_frames_of_odd_and_other_sizes_fit_into_one_video(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, [frame(0), np.full((80, 30, 3), 50, np.uint8)], rate=Fraction(10))
    images = frames_of(path)
    assert [image.shape for image in images] == [(40, 58, 3)] * 2
    assert numbers(images) == [0, 1]


def test_skipped_frames_are_counted_and_not_converted(clip: Path) -> None:
    found = list(VideoReader(clip).frames(skip=range(5)))
    assert [(number, image is not None) for number, image in found] == [(n, n > 4) for n in range(FRAMES)]


def sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, r"clip\.mp4: no such video \(looked at /.*\); check the path"),
        (
            lambda path: path.write_text("no video"),
            r"clip\.mp4: no video that FFmpeg can read \(.*Invalid data",
        ),
        (sound, r"clip\.mp4: there is sound in this file, but no video"),
    ],
)
def test_what_is_no_video_is_named(write: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    write(tmp_path / "clip.mp4")
    with pytest.raises(ImageError, match=message):
        VideoReader(tmp_path / "clip.mp4")


def test_without_pyav_the_command_that_installs_it_is_named(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(CMPFError, match=r'pip install "cmpf\[video\]"'):
        VideoReader(clip)


def test_a_camera_shows_its_latest_image_in_a_file(
    clip: Path, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats_video, "camera_input", lambda number: (str(clip), "mp4"))
    out = clip.parent / "out"
    assert segment_camera(3, segment=plain, output=out, max_frames=5) == 5
    assert [path.name for path in out.iterdir()] == [video.LATEST]
    assert numbers([np.asarray(Image.open(out / video.LATEST))]) == [4]

    def ended(frames: Iterable[np.ndarray]) -> Iterator[Prediction]:
        yield next(plain(frames))
        raise KeyboardInterrupt

    assert segment_camera(3, segment=ended, output=out, max_frames=None) == 1


def test_cameras_have_the_names_of_their_system(monkeypatch: pytest.MonkeyPatch) -> None:
    for system, names in (("linux", ("/dev/video1", "v4l2")), ("darwin", ("1", "avfoundation"))):
        monkeypatch.setattr(sys, "platform", system)
        assert camera_input(1) == names
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ImageError, match="1: cameras can be opened on Linux and macOS only"):
        camera_input(1)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(ImageError, match=r"63: no such camera .*try another number"):
        VideoReader(63)


def test_the_command_segments_images_and_videos_together_and_names_what_it_cannot_read(
    clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = clip.parent / "more", clip.parent / "out"
    folder.mkdir()
    write_video(folder / "clip.mp4", [frame(1)], rate=Fraction(5))
    (clip.parent / "bad.mp4").write_text("no video")
    Image.open(ROOT / "demo/shapes.jpg").resize((96, 64)).save(clip.parent / "shapes.png")
    sources = [str(clip.parent / name) for name in ("clip.mp4", "shapes.png", "bad.mp4", "more/*.mp4")]
    settings = ["--opts", "INPUT.MIN_SIZE_TEST", "64", "TEST.ENSEMBLE.ENABLED", "False"]
    command = ["predict", *sources, "--vocabulary", "red circle; sky", "--task", "panoptic", "--device", "cpu",
               "--max-frames", "2", "--output", str(out)]  # fmt: skip
    assert main([*command, "--json", *settings]) == 1
    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [line.get("frames") for line in lines] == [None, 2, 1]
    assert lines[2] == {
        "video": str(folder / "clip.mp4"),
        "files": [str(out / "more/clip_overlay.mp4")],
        "frames": 1,
    }
    assert "bad.mp4: no video that FFmpeg can read" in said.err
    assert sorted(path.name for path in out.iterdir()) == [
        ".cmpf",
        "clip_overlay.mp4",
        "more",
        "shapes.jpg",
    ]


def test_a_stopped_run_with_other_weights_starts_anew(
    clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    weights = clip.parent / "weights.safetensors"
    tensors = load_file(checked_asset("cmpf_tiny_decoder.safetensors"))
    command = ["predict", str(clip), "--vocabulary", "red circle", "--task", "panoptic", "--weights", str(weights),
               "--output", str(clip.parent / "out"), "--opts", "INPUT.MIN_SIZE_TEST", "64",
               "TEST.ENSEMBLE.ENABLED", "False"]  # fmt: skip
    for scale, resumed in ((1, False), (1, True), (2, False)):
        if not resumed:
            save_file({name: scale * value for name, value in tensors.items()}, weights)
        with monkeypatch.context() as patched:
            patched.setattr(video, "write_video", stop)
            assert main(command) == 1
        assert ("frames already finished" in capsys.readouterr().err) == resumed
