# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf predict on videos and cameras. Frames that are done lie in a .part folder, so that a stopped run goes on."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image
from tqdm import tqdm

from cmpf.cli.command import DONE, FAILED
from cmpf.common.files import TEMPORARY, replacing, write_text
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import ImageError
from cmpf.formats.image import open_image
from cmpf.formats.video import Frame, VideoReader, write_video
from cmpf.inference import Prediction

if TYPE_CHECKING:
    from cmpf.labelling.sources import FoundSources
    from cmpf.predictor import Predictor

Segment: TypeAlias = Callable[
    [Iterable[Frame]], Iterator[Prediction]
]  # one prediction a frame, in their order
SETTINGS = "settings.json"
JPEG_QUALITY = 95
LATEST = "webcam_latest.jpg"


@dataclass(frozen=True)
class VideoReport:
    """What became of a video: the file of overlays, how many frames a second it has and how many, and a warning."""

    file: Path
    frames: int
    rate: Fraction
    warning: str


def segment_video(
    path: Path,
    *,
    segment: Segment,
    output: Path,
    name: str,
    formats: Sequence[str],
    settings: Mapping[str, Any],
    max_frames: int | None,
) -> VideoReport:
    """Segments a video into NAME_overlay.mp4; formats other than overlay are written frame by frame to NAME_frames/.

    Args:
        output: folder of the results.
        settings: everything beside the file that the frames depend on; a run with other settings starts anew.
        max_frames: how many frames are read; None = all.
    Raises:
        CMPFError: PyAV is not installed. ImageError: no such video, or not one frame could be read.
    """
    reader, target = VideoReader(path), output / f"{name}_overlay.mp4"
    state = path.stat()
    part = _prepare_part(target, {"video": [str(path.absolute()), state.st_size, state.st_mtime], **settings})
    done = {int(file.stem.removeprefix("frame_")) for file in part.glob("frame_*.jpg")}
    if done:
        tqdm.write(f"going on: {len(done)} frames are done", file=sys.stderr)
    numbers: deque[int] = deque()

    def missing() -> Iterator[Frame]:
        for number, frame in islice(reader.frames(skip=done), max_frames):
            if frame is not None:
                numbers.append(number)
                yield frame

    expected = min(reader.count or max_frames or 0, max_frames or reader.count)
    others = [kind for kind in formats if kind != "overlay"]
    with tqdm(total=expected or None, initial=len(done), unit="frame", disable=None) as progress:
        for prediction in segment(missing()):
            frame_name = f"frame_{numbers.popleft():07d}"  # sorts as the numbers do
            if others:
                prediction.save(output / f"{name}_frames", others, name=frame_name)
            _save_jpeg(part / f"{frame_name}.jpg", prediction.plot())  # last: where it is, the frame is done
            progress.update()
    return _join(reader, path, part, target, expected)


class Videos:
    """Videos and cameras of a command line, with a loaded model.

    Args:
        words: the classes. predict: arguments of Predictor.stream. formats: of Prediction.save.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        predictor: Predictor,
        words: Vocabulary,
        predict: Mapping[str, Any],
        formats: Sequence[str],
    ) -> None:
        self.arguments, self.predictor, self.words = arguments, predictor, words
        self.predict, self.formats = predict, formats

    def stream(self, frames: Iterable[Frame], size: int | None = None) -> Iterator[Prediction]:
        """One prediction a frame."""
        size = size or self.arguments.batch_size or 1
        return self.predictor.stream(frames, self.words, batch_size=size, **self.predict)

    def files(self, found: FoundSources) -> int:
        """Segments videos, names those that cannot be read, and returns the exit code."""
        code = DONE
        for source in found.sources(found.videos):
            try:
                self._file(Path(source.location), source.name)
            except ImageError as error:
                if self.arguments.debug:
                    raise
                print(f"cmpf: {error}", file=sys.stderr)
                code = FAILED
        return code

    def camera(self) -> int:
        """Segments what a camera sees until Ctrl-C, and returns the exit code."""
        arguments = self.arguments
        seen = segment_camera(
            arguments.webcam,
            segment=partial(self.stream, size=1),  # a live image does not wait for others
            output=arguments.output,
            max_frames=arguments.max_frames,
        )
        print(f"camera {arguments.webcam}: {seen} frames")
        return DONE

    def settings(self) -> dict[str, Any]:
        """Everything beside the file that the frames of a video depend on."""
        names = ("model", "weights", "plugin", "opts")
        given = {name: getattr(self.arguments, name) for name in names}
        sought = hashlib.sha256(repr((self.words.classes, self.words.is_thing)).encode()).hexdigest()
        return {**given, **self.predict, "formats": sorted(self.formats), "words": sought}

    def _file(self, path: Path, name: str) -> None:
        """Segments a video and says where the result is."""
        arguments = self.arguments
        report = segment_video(
            path,
            segment=self.stream,
            output=arguments.output,
            name=name,
            formats=self.formats,
            settings=self.settings(),
            max_frames=arguments.max_frames,
        )
        if report.warning:
            print(f"warning: {report.warning}", file=sys.stderr)
        if arguments.json:
            line = {"video": str(path), "files": [str(report.file)], "frames": report.frames}
            print(json.dumps(line, ensure_ascii=False))
        else:
            rate = f"{float(report.rate):g} a second, without sound"
            print(f"{path}: {report.frames} frames at {rate} -> {report.file}")


def segment_camera(number: int, *, segment: Segment, output: Path, max_frames: int | None) -> int:
    """Segments what a camera sees, into an image that is replaced all the time, until Ctrl-C.

    Returns:
        How many frames were seen.
    """
    frames = (frame for _, frame in islice(VideoReader(number).frames(), max_frames) if frame is not None)
    seen = 0
    try:
        for prediction in tqdm(segment(frames), unit="frame", disable=None):
            _save_jpeg(output / LATEST, prediction.plot())
            seen += 1
    except KeyboardInterrupt:
        pass  # the usual way to end it
    return seen


def _join(reader: VideoReader, path: Path, part: Path, target: Path, expected: int) -> VideoReport:
    """Makes a video of the finished frames."""
    frames = sorted(part.glob("frame_*.jpg"))
    if not frames:
        raise ImageError(f"{path}: not one frame could be read; is it a whole video?")
    write_video(target, (np.asarray(open_image(frame)) for frame in frames), rate=reader.rate)
    _clear_part(part)
    cut = reader.count and len(frames) < expected * 0.99
    warning = f"{path} says it has {reader.count} frames, {len(frames)} could be read" if cut else ""
    return VideoReport(target, len(frames), reader.rate, warning)


def _prepare_part(target: Path, settings: Mapping[str, Any]) -> Path:
    """The folder of finished frames, emptied when they were made with other settings."""
    part = target.with_name(f"{target.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    text, file = json.dumps(settings), part / SETTINGS
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        for frame in part.glob("frame_*.jpg"):
            frame.unlink()
        write_text(file, text)
    return part


def _clear_part(part: Path) -> None:
    """Removes the folder of frames, but nothing that others put there."""
    unfinished = part.glob(f"{TEMPORARY}*")  # of a run that was killed
    for file in [*part.glob("frame_*.jpg"), *unfinished, part / SETTINGS]:
        file.unlink(missing_ok=True)
    if not any(part.iterdir()):
        part.rmdir()


def _save_jpeg(path: Path, image: Image.Image) -> None:
    """Writes an image, whole or not at all."""
    with replacing(path) as temporary:
        image.save(temporary, quality=JPEG_QUALITY)
