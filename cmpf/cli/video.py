# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf predict on videos and cameras. A .part folder holds the finished frames, from which a stopped run resumes."""

from __future__ import annotations

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
from tqdm import tqdm

from cmpf.cli.command import DONE, FAILED
from cmpf.common.files import TEMPORARY, write_text
from cmpf.errors import ImageError
from cmpf.formats.image import open_image, write_image
from cmpf.formats.video import Frame, VideoReader, write_video
from cmpf.inference import Prediction
from cmpf.labelling.configuration import run_configuration

if TYPE_CHECKING:
    from cmpf.cli.predict_request import PredictRequest
    from cmpf.labelling.sources import FoundSources

# Yields one prediction per frame, in order.
Segment: TypeAlias = Callable[[Iterable[Frame]], Iterator[Prediction]]
SETTINGS = "settings.json"
JPEG_QUALITY = 95
LATEST = "webcam_latest.jpg"


@dataclass(frozen=True)
class VideoReport:
    """The result of a video.

    file: video of overlays.
    frames: number of frames.
    rate: frames per second.
    warning: "" = none.
    """

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
    """Segments a video into NAME_overlay.mp4; writes formats other than overlay for each frame to NAME_frames/.

    Args:
        output: output folder.
        name: prefix of the result files.
        formats: formats of Prediction.save.
        settings: what the results depend on besides the file; frames of a run with other settings are discarded.
        max_frames: maximum number of frames; None = all.
    Raises:
        CMPFError: PyAV is not installed.
        ImageError: the video does not exist, or no frame can be read.
    """
    reader, target = VideoReader(path), output / f"{name}_overlay.mp4"
    state = path.stat()
    part = _prepare_part(target, {"video": [str(path.absolute()), state.st_size, state.st_mtime], **settings})
    done = {int(file.stem.removeprefix("frame_")) for file in part.glob("frame_*.jpg")}
    if done:
        tqdm.write(f"resuming: {len(done)} frames already finished", file=sys.stderr)
    numbers: deque[int] = deque()

    def unfinished_frames() -> Iterator[Frame]:
        for number, frame in islice(reader.frames(skip=done), max_frames):
            if frame is not None:
                numbers.append(number)
                yield frame

    expected = min(reader.count or max_frames or 0, max_frames or reader.count)
    frame_formats = [format_ for format_ in formats if format_ != "overlay"]
    with tqdm(total=expected or None, initial=len(done), unit="frame", disable=None) as progress:
        for prediction in segment(unfinished_frames()):
            frame_name = f"frame_{numbers.popleft():07d}"
            if frame_formats:
                prediction.save(output / f"{name}_frames", frame_formats, name=frame_name)
            # Last, because this file marks the frame as finished.
            write_image(part / f"{frame_name}.jpg", prediction.plot(), quality=JPEG_QUALITY)
            progress.update()
    return _join_frames(reader, path, part, target, expected)


class Videos:
    """Loads the model and segments the videos or the camera of a command line.

    Args:
        formats: formats of Prediction.save.
    """

    def __init__(self, request: PredictRequest, formats: Sequence[str]) -> None:
        self.request, self.arguments, self.formats = request, request.arguments, formats
        self.predictor, self.vocabulary = request.load()

    def stream(self, frames: Iterable[Frame], batch_size: int | None = None) -> Iterator[Prediction]:
        """Yields one prediction per frame.

        Args:
            batch_size: None = --batch-size.
        """
        batch_size = batch_size or self.arguments.batch_size or 1
        options = self.request.predict_options
        return self.predictor.stream(frames, self.vocabulary, batch_size=batch_size, **options)

    def files(self, found: FoundSources) -> int:
        """Segments videos, prints errors, and returns the exit code."""
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
        """Segments the images of a camera until Ctrl-C, and returns the exit code."""
        arguments = self.arguments
        count = segment_camera(
            arguments.webcam,
            segment=partial(self.stream, batch_size=1),  # minimum latency
            output=arguments.output,
            max_frames=arguments.max_frames,
        )
        print(f"camera {arguments.webcam}: {count} frames")
        return DONE

    def settings(self) -> dict[str, Any]:
        """What the results of a video depend on besides the file."""
        options = self.request.settings() | {"formats": sorted(self.formats)}
        return run_configuration(self.predictor, self.vocabulary, **options)

    def _file(self, path: Path, name: str) -> None:
        """Segments a video and prints where the result is."""
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
            rate = f"{float(report.rate):g} fps, without sound"
            print(f"{path}: {report.frames} frames at {rate} -> {report.file}")


def segment_camera(number: int, *, segment: Segment, output: Path, max_frames: int | None) -> int:
    """Segments the images of a camera until Ctrl-C; each result replaces OUTPUT/webcam_latest.jpg.

    Returns:
        The number of frames.
    """
    frames = (frame for _, frame in islice(VideoReader(number).frames(), max_frames) if frame is not None)
    count = 0
    try:
        for prediction in tqdm(segment(frames), unit="frame", disable=None):
            write_image(output / LATEST, prediction.plot(), quality=JPEG_QUALITY)
            count += 1
    except KeyboardInterrupt:
        pass  # the normal end
    return count


def _join_frames(reader: VideoReader, path: Path, part: Path, target: Path, expected: int) -> VideoReport:
    """Encodes the finished frames as a video and removes them."""
    frames = sorted(part.glob("frame_*.jpg"))
    if not frames:
        raise ImageError(f"{path}: no frame could be read; is the video complete?")
    write_video(target, (np.asarray(open_image(frame)) for frame in frames), rate=reader.rate)
    _clear_part(part)
    incomplete = reader.count and len(frames) < expected * 0.99
    warning = f"{path}: only {len(frames)} of {reader.count} frames could be read" if incomplete else ""
    return VideoReport(target, len(frames), reader.rate, warning)


def _prepare_part(target: Path, settings: Mapping[str, Any]) -> Path:
    """Creates the folder of finished frames; removes frames made with other settings."""
    part = target.with_name(f"{target.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    text, file = json.dumps(settings), part / SETTINGS
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        for frame in part.glob("frame_*.jpg"):
            frame.unlink()
        write_text(file, text)
    return part


def _clear_part(part: Path) -> None:
    """Removes the folder of frames, but no other files in it."""
    unfinished = part.glob(f"{TEMPORARY}*")  # temporary files of a killed run
    for file in [*part.glob("frame_*.jpg"), *unfinished, part / SETTINGS]:
        file.unlink(missing_ok=True)
    if not any(part.iterdir()):
        part.rmdir()
