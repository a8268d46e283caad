# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Reads frames from video files and cameras and writes MP4 files, with PyAV (extra: video)."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmpf.common.files import replacing
from cmpf.errors import CMPFError, ImageError

Frame = NDArray[np.uint8]  # (H, W, 3) RGB
# Suffixes of files that are read as videos.
VIDEO_SUFFIXES = (
    ".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".ogv",
    ".3gp",
)  # fmt: skip
DEFAULT_RATE = Fraction(25)  # frames per second of files that do not state a rate
MAX_RATE = 1000  # a higher rate is taken for damaged metadata
# H.264 plays in browsers; MPEG-4 is the fallback for FFmpeg builds without it.
ENCODERS = ({"name": "libx264", "options": {"crf": "20"}}, {"name": "mpeg4", "options": {"qscale": "3"}})


def is_video(path: str | Path) -> bool:
    """Whether a path has the suffix of a video file."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def import_av() -> Any:
    """Imports and returns the av module.

    Raises:
        CMPFError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise CMPFError('video and webcam need PyAV: pip install "cmpf[video]"') from error
    return av


class VideoReader:
    """Reads frames from a video file or a camera, rotated upright.

    Args:
        source: path of a file, or camera number.
    Attributes:
        rate: frames per second.
        count: number of frames according to the file, 0 = unknown.
    Raises:
        CMPFError: PyAV is not installed.
        ImageError: the source cannot be opened or has no video stream.
    """

    def __init__(self, source: Path | int) -> None:
        self._av = import_av()
        if isinstance(source, Path) and not source.is_file():
            raise ImageError(f"{source}: no such video (looked at {source.absolute()}); check the path")
        file, format = camera_input(source) if isinstance(source, int) else (str(source), None)
        try:
            self._container = self._av.open(file, format=format)
        except (self._av.error.FFmpegError, ValueError) as error:
            if isinstance(source, int):
                raise ImageError(f"{source}: no such camera ({file}: {error}); try another number") from error
            raise ImageError(f"{source}: no video that FFmpeg can read ({error})") from error
        if not self._container.streams.video:
            self._container.close()
            raise ImageError(f"{source}: there is sound in this file, but no video")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        rate = self._stream.average_rate
        self.rate = rate if rate is not None and 0 < rate < MAX_RATE else DEFAULT_RATE
        self.count = 0 if isinstance(source, int) else int(self._stream.frames)

    def frames(self, *, skip: Iterable[int] = ()) -> Iterator[tuple[int, Frame | None]]:
        """Yields (frame number, pixels); pixels are None for the numbers in `skip`, whose frames are not converted.

        A truncated or damaged file ends at the first frame that cannot be decoded.
        """
        skipped = frozenset(skip)
        with self._container:
            decoded = enumerate(self._container.decode(self._stream))
            while True:
                try:
                    number, frame = next(decoded)
                except (StopIteration, self._av.error.FFmpegError):
                    return
                yield number, None if number in skipped else _upright(frame)


def camera_input(number: int) -> tuple[str, str]:
    """Device name and FFmpeg input format of a camera.

    Raises:
        ImageError: cameras of this system cannot be opened by number.
    """
    if sys.platform.startswith("linux"):
        return f"/dev/video{number}", "v4l2"
    if sys.platform == "darwin":
        return str(number), "avfoundation"
    raise ImageError(f"{number}: cameras can be opened on Linux and macOS only; record a file and give it")


def write_video(path: Path, frames: Iterable[Frame], *, rate: Fraction) -> None:
    """Writes an MP4 file atomically.

    All frames are scaled to the size of the first one; an odd side is padded by one row or column, since the codecs
    need even sides.

    Args:
        rate: frames per second.
    """
    av = import_av()
    encoder = next(encoder for encoder in ENCODERS if encoder["name"] in av.codecs_available)
    stream = None
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        for frame in frames:
            height, width = frame.shape[:2]
            even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            if stream is None:
                stream = container.add_stream(encoder["name"], rate=rate, options=encoder["options"])
                stream.height, stream.width, stream.pix_fmt = *even.shape[:2], "yuv420p"
            image = av.VideoFrame.from_ndarray(even, format="rgb24")
            container.mux(stream.encode(image.reformat(stream.width, stream.height, stream.pix_fmt)))
        if stream is not None:
            container.mux(stream.encode(None))


def _upright(frame: Any) -> Frame:
    """Pixels of a frame after the rotation in its metadata, which phones write for portrait videos."""
    pixels: Frame = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
