# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Reading and writing of real videos needs cv2; what is made of the frames does not."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.tiny_model import tiny_model
from PIL import Image

import cmpf.factory
from cmpf.errors import CMPFError, ImageError
from cmpf.predictor import Predictor
from demo import demo, video

WORDS = ["--vocabulary", "red circle; sky", "--task", "panoptic"]
FRAMES = 7


def frame(number: int) -> np.ndarray:
    """A frame that tells its number by its brightness, (40, 57, 3): an odd side."""
    return np.full((40, 57, 3), 20 + 30 * number, np.uint8)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(model=tiny_model("no_ensemble"), short_side=32, max_side=64, mask_ensemble=None)


@pytest.fixture
def clip(tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that stands for a video of FRAMES frames, and a model."""
    monkeypatch.setattr(cmpf.factory, "load_predictor", lambda *_, **__: predictor)
    (tmp_path / "clip.mp4").write_bytes(b"video")
    return tmp_path / "clip.mp4"


class FakeCapture:
    """What cv2.VideoCapture gives; frames that were decoded are noted."""

    def __init__(self, source: str | int, total: int = FRAMES) -> None:
        self.next, self.total, self.decoded = 0, total, decoded

    def isOpened(self) -> bool:
        return True

    def get(self, key: str) -> float:
        return {"fps": 12.5, "count": FRAMES}[key]

    def grab(self) -> bool:
        self.next += 1
        return self.next <= self.total

    def retrieve(self) -> tuple[bool, np.ndarray]:
        decoded.append(self.next - 1)
        return True, frame(self.next - 1)

    def release(self) -> None:
        pass


decoded: list[int] = []


@pytest.fixture
def fake_cv2(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """cv2 with FakeCapture and no window; written videos are lists of brightness in `written`."""
    decoded.clear()

    class NoWindowError(Exception):
        pass

    def imshow(*_: Any) -> None:
        raise NoWindowError

    fake = SimpleNamespace(
        VideoCapture=FakeCapture, CAP_PROP_FPS="fps", CAP_PROP_FRAME_COUNT="count", COLOR_BGR2RGB=0,
        COLOR_RGB2BGR=1, cvtColor=lambda image, _: image, imshow=imshow, error=NoWindowError, written=[],
    )  # fmt: skip

    def write_video(path: Path, frames: Iterable[np.ndarray], *, fps: float) -> None:
        fake.written.append((path.name, [int(image[0, 0, 0]) for image in frames], fps))

    monkeypatch.setitem(sys.modules, "cv2", fake)
    monkeypatch.setattr(video, "write_video", write_video)
    return fake


def plain_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Overlays are the frames themselves, so that they tell their number."""
    from cmpf.inference import Prediction

    monkeypatch.setattr(Prediction, "plot", lambda self: Image.fromarray(self.image))


def run(clip: Path, *more: str) -> int:
    return demo.main(["--video-input", str(clip), "--output", str(clip.parent / "out"), *WORDS, *more])


def brightness(*numbers: int) -> list[int]:
    return [20 + 30 * number for number in numbers]


def test_frames_keep_their_order_and_rate_whatever_the_batch(
    clip: Path, fake_cv2: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain_frames(monkeypatch)
    for batch in ("1", "3"):
        assert run(clip, "--batch-size", batch) == 0
    assert fake_cv2.written == [("clip_overlay.mp4", brightness(*range(FRAMES)), 12.5)] * 2
    assert "7 frames at 12.5 a second, without sound" in capsys.readouterr().out
    assert not list((clip.parent / "out").glob("*.part"))


def test_a_stopped_run_goes_on_where_it_was(
    clip: Path, fake_cv2: SimpleNamespace, predictor: Predictor, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    plain_frames(monkeypatch)
    stream = predictor.stream

    def killed(*arguments: Any, **options: Any) -> Iterator[Any]:
        for number, prediction in enumerate(stream(*arguments, **options)):
            if number == 3:
                raise KeyboardInterrupt
            yield prediction

    monkeypatch.setattr(predictor, "stream", killed)
    assert run(clip) == 1
    assert fake_cv2.written == []
    monkeypatch.setattr(predictor, "stream", stream)
    decoded.clear()
    assert run(clip) == 0
    assert "going on: 3 frames are done" in capsys.readouterr().out
    assert decoded == [3, 4, 5, 6]
    assert fake_cv2.written == [("clip_overlay.mp4", brightness(*range(FRAMES)), 12.5)]


def test_other_words_start_anew(
    clip: Path, fake_cv2: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = clip.parent / "out" / "clip_overlay.mp4.part"
    part.mkdir(parents=True)
    video.save_jpeg(part / "frame_0000000.jpg", Image.fromarray(frame(0)))
    (part / "settings.json").write_text("{}")
    (part / "mine.txt").touch()
    (part / ".tmp-7-frame_0000001.jpg").touch()
    plain_frames(monkeypatch)
    assert run(clip) == 0
    assert decoded == list(range(FRAMES))
    assert [path.name for path in part.iterdir()] == ["mine.txt"]  # what others put there stays


def test_other_formats_are_written_frame_by_frame(clip: Path, fake_cv2: SimpleNamespace) -> None:
    assert run(clip, "--formats", "overlay", "panoptic", "--max-frames", "2") == 0
    names = sorted(path.name for path in (clip.parent / "out" / "clip_frames").iterdir())
    assert names == [f"frame_000000{number}_panoptic.{end}" for number in (0, 1) for end in ("json", "png")]
    assert len(fake_cv2.written[0][1]) == 2


def test_a_video_that_ends_early_is_told(
    clip: Path, fake_cv2: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fake_cv2, "VideoCapture", lambda source: FakeCapture(source, total=3))
    assert run(clip) == 0
    assert "says it has 7 frames, 3 could be read" in capsys.readouterr().out
    monkeypatch.setattr(fake_cv2, "VideoCapture", lambda source: FakeCapture(source, total=0))
    assert run(clip, "--confidence-threshold", "0.9") == 1
    assert "not one frame could be read" in capsys.readouterr().err


def test_a_camera_without_a_window_shows_its_latest_image_in_a_file(
    clip: Path, fake_cv2: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    out = clip.parent / "out"
    assert demo.main(["--webcam", "--max-frames", "2", "--output", str(out), *WORDS]) == 0
    assert [path.name for path in out.iterdir()] == ["webcam_latest.jpg"]
    assert "camera 0: 2 frames" in capsys.readouterr().out


def test_a_camera_ends_with_q_in_its_window(
    clip: Path, fake_cv2: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = iter([-1, -1, ord("q")])
    monkeypatch.setattr(fake_cv2, "imshow", lambda *_: None)
    fake_cv2.waitKey = lambda _: next(keys)
    assert demo.main(["--webcam", "1", *WORDS, "--output", str(clip.parent / "out")]) == 0
    assert "camera 1: 3 frames" in capsys.readouterr().out


def test_a_class_keeps_its_color_from_frame_to_frame(predictor: Predictor) -> None:
    from dataclasses import replace

    from cmpf.inference import Segment

    out = predictor.predict(frame(0), ["red circle", "sky", "sea"])
    sky = Segment(
        id=1, category="sky", category_id=1, isthing=False, score=0.9, area=2280, bbox=(0, 0, 57, 40)
    )
    colors = set()
    for others in ((), (replace(sky, id=2, category="red circle", category_id=0),)):
        ids = np.ones((40, 57), np.int32)
        ids[:4] = 2 if others else 0
        shown = replace(out, panoptic_result=(ids, (*others, sky)))
        image = np.asarray(shown.plot(opacity=1.0))
        colors.add(tuple(image[-40, 60]))
    assert len(colors) == 1


def test_a_missing_file_and_a_missing_cv2_are_named(
    clip: Path, fake_cv2: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ImageError, match=r"nowhere\.mp4: no such video"):
        video.Capture(Path("nowhere.mp4"))
    monkeypatch.setattr(FakeCapture, "isOpened", lambda self: False)
    with pytest.raises(ImageError, match="no video that OpenCV can read"):
        video.Capture(clip)
    with pytest.raises(ImageError, match="7: no such camera"):
        video.Capture(7)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(CMPFError, match=r'pip install "cmpf\[video\]"'):
        video.Capture(clip)


def test_a_real_video_is_read_written_and_read_again(clip: Path) -> None:
    pytest.importorskip("cv2", reason="opencv is not installed: pip install 'cmpf[video]'")
    source = clip.parent / "source.mp4"
    video.write_video(source, (frame(number) for number in range(FRAMES)), fps=10)
    capture = video.Capture(source)
    assert (capture.count, capture.fps) == (FRAMES, 10)
    images = [image for _, image in capture.frames()]
    assert all(image is not None and image.shape == (40, 58, 3) for image in images)  # even sides
    means = [float(image.mean()) for image in images if image is not None]
    assert means == pytest.approx(brightness(*range(FRAMES)), abs=6)  # lossy
    skipped = [number for number, image in video.Capture(source).frames(lambda n: n > 4) if image is not None]
    assert skipped == [5, 6]
    assert demo.main(["--video-input", str(source), "--output", str(clip.parent / "out"), *WORDS]) == 0
    assert video.Capture(clip.parent / "out" / "source_overlay.mp4").count == FRAMES
    (clip.parent / "text.mp4").write_text("no video")
    with pytest.raises(ImageError, match=r"text\.mp4: no video that OpenCV can read"):
        video.Capture(clip.parent / "text.mp4")
