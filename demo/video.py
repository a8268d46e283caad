# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Videos and webcams of the demo. Frames that are done lie in a .part folder, so that a stopped run goes on."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from cmpf.common.files import TEMPORARY, replacing, write_text
from cmpf.errors import CMPFError, ImageError
from cmpf.inference import Prediction
from cmpf.predictor import Predictor

Frame = NDArray[np.uint8]  # (H, W, 3) RGB
SETTINGS = "settings.json"
JPEG_QUALITY = 95
DEFAULT_FPS = 25.0  # of files that do not say
WINDOW = "CMPF (q ends)"
LATEST = "webcam_latest.jpg"


def check_cv2() -> Any:
    """The module cv2.

    Raises:
        CMPFError: it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise CMPFError('video and webcam need OpenCV: pip install "cmpf[video]"') from error
    return cv2


class Capture:
    """Frames of a video file or a camera, in their order.

    Args:
        source: path, or number of a camera.
    Attributes:
        fps: frames a second. count: how many frames a file says it has, 0 = unknown.
    Raises:
        ImageError: it cannot be opened.
    """

    def __init__(self, source: Path | int) -> None:
        cv2 = check_cv2()
        self._cv2 = cv2
        self.source = source
        if isinstance(source, Path) and not source.is_file():
            raise ImageError(f"{source}: no such video (looked at {source.absolute()}); check the path")
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        if not self._capture.isOpened():
            what = (
                "no such camera; try another number"
                if isinstance(source, int)
                else "no video that OpenCV can read"
            )
            raise ImageError(f"{source}: {what}")
        fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.fps = fps if 0 < fps < 1000 else DEFAULT_FPS
        self.count = (
            0 if isinstance(source, int) else max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        )

    def frames(self, wanted: Any = None) -> Iterator[tuple[int, Frame | None]]:
        """Number and pixels of each frame; None for those that `wanted(number)` refuses, which are not decoded."""
        number = 0
        try:
            while self._capture.grab():
                if wanted is not None and not wanted(number):
                    yield number, None
                else:
                    read, frame = self._capture.retrieve()
                    if not read:
                        break
                    yield number, self._cv2.cvtColor(frame, self._cv2.COLOR_BGR2RGB)
                number += 1
        finally:
            self._capture.release()


def run_video(arguments: argparse.Namespace, predictor: Predictor, options: dict[str, Any]) -> int:
    """Segments a video into NAME_overlay.mp4; other formats are written frame by frame into NAME_frames/."""
    path = Path(arguments.video_input).expanduser()
    target = arguments.output / f"{path.stem}_overlay.mp4"
    capture = Capture(path)
    part = prepare_part(target, run_settings(arguments, path, options))
    done = {file.stem for file in part.glob("frame_*.jpg")}
    if done:
        print(f"going on: {len(done)} frames are done")
    numbers: deque[int] = deque()
    expected = min(capture.count or 10**9, arguments.max_frames or 10**9)

    def missing() -> Iterator[Frame]:
        frames = capture.frames(lambda number: frame_name(number) not in done)
        for number, frame in islice(frames, arguments.max_frames):
            if frame is not None:
                numbers.append(number)
                yield frame

    progress = tqdm(
        total=expected if expected < 10**9 else None, initial=len(done), unit="frame", disable=None
    )
    with progress:
        for prediction in predictor.stream(missing(), **options):
            _save_frame(prediction, arguments, part, numbers.popleft())
            progress.update()
    frames = sorted(part.glob("frame_*.jpg"))
    if not frames:
        raise ImageError(f"{path}: not one frame could be read; is it a whole video?")
    if capture.count and len(frames) < min(expected, capture.count) * 0.99:
        print(f"warning: {path} says it has {capture.count} frames, {len(frames)} could be read")
    write_video(target, (np.asarray(Image.open(frame)) for frame in frames), fps=capture.fps)
    clear_part(part)
    print(f"{path}: {len(frames)} frames at {capture.fps:g} a second, without sound -> {target}")
    return 0


def run_settings(arguments: argparse.Namespace, path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Everything that the frames depend on."""
    state = path.stat()
    vocabulary = options["vocabulary"]
    return {
        "video": [str(path.absolute()), state.st_size, state.st_mtime],
        "config": [arguments.config_file, *map(str, arguments.opts)],
        "words": hashlib.sha256(repr((vocabulary.classes, vocabulary.is_thing)).encode()).hexdigest(),
        "task": arguments.task,
        "ensemble": arguments.ensemble,
        "threshold": arguments.confidence_threshold,
        "formats": sorted(arguments.formats),
    }


def prepare_part(target: Path, settings: dict[str, Any]) -> Path:
    """The folder of finished frames, emptied when they were made with other settings."""
    part = target.with_name(f"{target.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    text = json.dumps(settings)
    file = part / SETTINGS
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        for frame in part.glob("frame_*.jpg"):
            frame.unlink()
        write_text(file, text)
    return part


def clear_part(part: Path) -> None:
    """Removes the folder of frames, but nothing that others put there."""
    unfinished = part.glob(f"{TEMPORARY}*")  # of a run that was killed
    for file in [*part.glob("frame_*.jpg"), *unfinished, part / SETTINGS]:
        file.unlink(missing_ok=True)
    if not any(part.iterdir()):
        part.rmdir()


def frame_name(number: int) -> str:
    """Name of a frame's files; sorts as the numbers do."""
    return f"frame_{number:07d}"


def _save_frame(prediction: Prediction, arguments: argparse.Namespace, part: Path, number: int) -> None:
    """The overlay comes last: where it is, the frame is done."""
    from demo.demo import confident

    kept = confident(prediction, arguments)
    formats = [name for name in arguments.formats if name != "overlay"]
    if formats:
        stem = Path(arguments.video_input).stem
        kept.save(arguments.output / f"{stem}_frames", formats, name=frame_name(number))
    save_jpeg(part / f"{frame_name(number)}.jpg", kept.plot())


def save_jpeg(path: Path, image: Image.Image) -> None:
    """Writes an image, whole or not at all."""
    with replacing(path) as temporary:
        image.save(temporary, quality=JPEG_QUALITY)


def write_video(path: Path, frames: Iterable[Frame], *, fps: float) -> None:
    """Writes an MP4 of frames of one size, whole or not at all; odd sides get one more row or column."""
    cv2 = check_cv2()
    writer = None
    with replacing(path) as temporary:
        try:
            for frame in frames:
                height, width = frame.shape[:2]
                even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
                if writer is None:
                    code = cv2.VideoWriter.fourcc(*"mp4v")
                    writer = cv2.VideoWriter(str(temporary), code, fps, (even.shape[1], even.shape[0]))
                    if not writer.isOpened():
                        raise CMPFError(f"{path}: OpenCV cannot write MP4 here; check the folder's rights")
                writer.write(cv2.cvtColor(even, cv2.COLOR_RGB2BGR))
        finally:
            if writer is not None:
                writer.release()


def run_camera(arguments: argparse.Namespace, predictor: Predictor, options: dict[str, Any]) -> int:
    """Segments what a camera sees until q or Ctrl-C: in a window, or in an image that is replaced all the time."""
    from demo.demo import confident

    capture = Capture(arguments.webcam)
    images = (frame for _, frame in islice(capture.frames(), arguments.max_frames) if frame is not None)
    options = {**options, "batch_size": 1}  # a live image does not wait for others
    seen = 0
    try:
        for prediction in tqdm(predictor.stream(images, **options), unit="frame", disable=None):
            seen += 1
            image = confident(prediction, arguments).plot()
            if not show(image, arguments.output / LATEST):
                break
    except KeyboardInterrupt:
        pass  # the usual way to end it
    print(f"camera {arguments.webcam}: {seen} frames")
    return 0


def show(image: Image.Image, file: Path) -> bool:
    """Shows an image in a window; where OpenCV has none (opencv-python-headless), writes it to a file.

    Returns:
        Whether to go on.
    """
    cv2 = check_cv2()
    try:
        cv2.imshow(WINDOW, cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2BGR))
        return bool(cv2.waitKey(1) & 0xFF != ord("q"))
    except cv2.error:
        save_jpeg(file, image)
        return True
