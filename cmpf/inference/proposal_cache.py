# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Disk cache of SAM's mask proposals (paper: OpenSeg Ensemble): one .npz file per image, without pickle.

A file stores the mask logits at SAM's own resolution, bit-exact. The float32 values are split into four byte planes,
which deflate compresses to 78 percent of their size, against 90 percent unsplit (tiny SAM on ShapeWorld).
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cmpf.common.files import replacing
from cmpf.encoders.sam_proposals import Proposals
from cmpf.errors import EvaluationError, ImageError, summary

FORMAT, VERSION = "cmpf-sam-masks", 2
FLOAT_BYTES = 4
MAX_HEADER, MAX_LOGITS = 2**20, 2**30  # bytes; 1,000 masks of 256 x 256 take a quarter of MAX_LOGITS
# Exceptions of numpy and zipfile for files that are truncated, of another format, or contain Python objects.
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,  # zipfile: the file is encrypted or uses an unknown compression method
    MemoryError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
Settings = Mapping[str, "str | int | float | None"]


class ProposalCache:
    """Mask proposals in a folder, keyed by the hash of the image file and the size of the network's input.

    The key is independent of paths: images with the same name do not collide, an image that several datasets share is
    stored once, and datasets can be moved.

    Args:
        folder: folder of the files, created by the first store.
        settings: all settings that determine the masks, by their user-visible names. None as a value means any value
            that is the same in all files (the weights hash of a SAM that is not loaded).
        command: command that creates the files, for messages.
    """

    def __init__(self, *, folder: str | Path, settings: Settings, command: str) -> None:
        self.folder = Path(folder).expanduser()
        self.settings = dict(settings)
        self.command = command

    def path(self, image: str | Path, input_size: tuple[int, int]) -> Path:
        """Path of the masks of an image at an unpadded input size (H, W); the file may not exist.

        Raises:
            ImageError: the image cannot be read.
        """
        return self.folder / f"{_digest(image)}_{input_size[0]}x{input_size[1]}.npz"

    def holds(self, image: str | Path, input_size: tuple[int, int]) -> bool:
        """Whether the cache has a readable file for an image; a damaged file counts as missing.

        Raises:
            EvaluationError: they were made with other settings. ImageError: the image cannot be read.
        """
        path = self.path(image, input_size)
        try:
            header, _ = _read(path, input_size)
        except UNREADABLE:
            return False
        self._check_settings(path, header["settings"])
        return True

    def load(self, image: str | Path, *, input_size: tuple[int, int]) -> Proposals:
        """Loads the masks of an image onto the CPU.

        Raises:
            EvaluationError: they are missing, damaged, or were made with other settings; the message says what to do.
            ImageError: the image cannot be read.
        """
        path = self.path(image, input_size)
        if not path.is_file():
            raise EvaluationError(self._missing_message(path, image, input_size))
        try:
            header, proposals = _read(path, input_size)
        except UNREADABLE as error:
            raise EvaluationError(
                f"{path}: damaged, or no file of SAM masks ({summary(error, 200)}). Delete it and make the masks of "
                f"{image} again: {self.command}"
            ) from error
        self._check_settings(path, header["settings"])
        return proposals

    def store(self, image: str | Path, proposals: Proposals) -> None:
        """Writes the masks of an image atomically."""
        logits = np.ascontiguousarray(proposals.logits.cpu().numpy(), dtype="<f4")
        header = {
            "format": FORMAT,
            "version": VERSION,
            "settings": self.settings,
            "padded": list(proposals.padded),
            "unpadded": list(proposals.unpadded),
        }
        with replacing(self.path(image, proposals.unpadded)) as temporary:
            np.savez_compressed(
                temporary,
                header=np.array(json.dumps(header)),
                logits=np.moveaxis(logits.view(np.uint8).reshape(*logits.shape, FLOAT_BYTES), -1, 0),
            )

    def _check_settings(self, path: Path, stored: Settings) -> None:
        for key in {**self.settings, **stored}:
            expected, actual = self.settings.get(key), stored.get(key)
            if expected is None and key in self.settings:
                self.settings[key] = actual
            elif expected != actual:
                raise EvaluationError(
                    f"{path}: these SAM masks were made with {key} {actual!r}, wanted is {expected!r}. Choose the "
                    f"settings that they were made with, or make new ones in another folder: {self.command}"
                )

    def _missing_message(self, path: Path, image: str | Path, input_size: tuple[int, int]) -> str:
        digest = path.stem.partition("_")[0]
        others = sorted(other.stem.partition("_")[2] for other in self.folder.glob(f"{digest}_*.npz"))
        hint = f" (there are some at {', '.join(others)}: another test size)" if others else ""
        return (
            f"{image}: no SAM masks at input size {input_size[0]}x{input_size[1]}{hint}, looked for {path}. "
            f"Make them with: {self.command}, or set TEST.ENSEMBLE.SOURCE online"
        )


def _digest(image: str | Path) -> str:
    try:
        content = Path(image).expanduser().read_bytes()
    except OSError as error:
        raise ImageError(f"{image}: cannot be read: {error.strerror}") from error
    return hashlib.sha256(content).hexdigest()[:32]


def _read(path: Path, input_size: tuple[int, int]) -> tuple[dict[str, Any], Proposals]:
    """Header and masks of a file; raises one of UNREADABLE if it is incomplete, or of another version or size."""
    _check_array_sizes(path)
    with np.load(path, allow_pickle=False) as file:
        # The names whose sizes were checked: "logits" would prefer another member of that name in the archive.
        header = json.loads(str(file["header.npy"]))
        if (header["format"], header["version"]) != (FORMAT, VERSION):
            actual = f"{header['format']} version {header['version']}"
            raise ValueError(f"is {actual}, this CMPF reads {FORMAT} version {VERSION}")
        if not isinstance(header["settings"], dict):
            raise ValueError("has no settings")
        planes = file["logits.npy"]
    if planes.dtype != np.uint8 or planes.ndim != 4 or len(planes) != FLOAT_BYTES:
        raise ValueError(
            f"logits are {planes.dtype} {planes.shape}, expected uint8 {FLOAT_BYTES} x M x h x w"
        )
    padded, unpadded = (_size(header[key]) for key in ("padded", "unpadded"))
    if unpadded != input_size or any(a < b for a, b in zip(padded, unpadded, strict=True)):
        raise ValueError(f"masks for the size {unpadded}, padded to {padded}, wanted is {input_size}")
    logits = torch.from_numpy(_join_byte_planes(planes))
    if not logits.isfinite().all():
        raise ValueError("logits with NaN or infinity")
    return header, Proposals(logits, padded, unpadded)


def _check_array_sizes(path: Path) -> None:
    """Checks the array headers before decompression: a few megabytes may inflate to gigabytes."""
    with zipfile.ZipFile(path) as archive:
        for name, limit in (("header.npy", MAX_HEADER), ("logits.npy", MAX_LOGITS)):
            with archive.open(name) as file:
                version = np.lib.format.read_magic(file)
                readers = {
                    (1, 0): np.lib.format.read_array_header_1_0,
                    (2, 0): np.lib.format.read_array_header_2_0,
                }
                shape, _, dtype = readers[version](file)
            length = math.prod(shape) * dtype.itemsize
            if not 0 <= length <= limit or min(shape, default=0) < 0:
                raise ValueError(f"{name} of {length:,} bytes, at most {limit:,} are read")


def _size(values: Any) -> tuple[int, int]:
    height, width = values
    return int(height), int(width)


def _join_byte_planes(planes: NDArray[np.uint8]) -> NDArray[np.float32]:
    flat = np.moveaxis(planes, 0, -1).reshape(-1)
    return flat.view("<f4").astype(np.float32, copy=False).reshape(planes.shape[1:])
