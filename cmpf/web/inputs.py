# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Reads and limits the input of visitors (images and words), and writes the example images."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmpf.errors import CMPFError, ImageError, VocabularyError
from cmpf.formats.image import (
    open_image,
    read_image,
    read_image_size,
    resize_image,
    shortest_edge_size,
    write_image,
)
from cmpf.shapeworld.categories import CATEGORIES
from cmpf.shapeworld.scene import generate_scene

MAX_IMAGES = 20  # per batch; other visitors wait meanwhile
MAX_FILES_PER_REQUEST = 4  # of the maximum size
MAX_CLASSES = 200  # each takes a forward pass of CLIP's text encoder
MAX_CLASS_LENGTH = 200  # characters of a class with its synonyms
_SEPARATORS = re.compile(r"[;\n\r]")
EXAMPLE_SIZE = 512  # pixels per side of generated examples
SEEDS = (20, 25)  # of generated examples
PHOTOGRAPHS = {
    "coffee": ("cup", "spoon", "saucer", "wooden table"),
    "chelsea": ("cat", "blanket", "wall"),
}


@dataclass(frozen=True)
class Limits:
    """Limits of the page.

    max_side: pixels; images with a longer side are rejected.
    working_side: pixels; larger images are shrunk to it, because the masks of a hundred queries at the size of a
        photograph take gigabytes.
    max_upload_mb: MiB of one uploaded file.
    uploads_mb: MiB of all files on the disk; the oldest are removed first.
    queue: number of visitors that may wait; further ones are rejected.
    """

    max_side: int = 4096
    working_side: int = 1600
    max_upload_mb: int = 25
    uploads_mb: int = 512
    queue: int = 32

    def __post_init__(self) -> None:
        """
        Raises:
            CMPFError: a limit is not at least 1.
        """
        for name, value in vars(self).items():
            if value < 1:
                raise CMPFError(f"{name} must be at least 1, got {value}")
        if self.uploads_mb < self.max_upload_mb:
            raise CMPFError(
                f"uploads_mb {self.uploads_mb} is less than max_upload_mb {self.max_upload_mb}; raise it, or lower "
                "max_upload_mb"
            )

    @property
    def request_bytes(self) -> int:
        """Maximum total size of the files in one request; a browser sends several files in one."""
        return min(MAX_FILES_PER_REQUEST * self.max_upload_mb, self.uploads_mb) * 2**20


@dataclass(frozen=True)
class Upload:
    """An image to segment.

    pixels: (H, W, 3) uint8 RGB.
    name: name of the uploaded file, without suffix.
    original_size: (H, W) before shrinking.
    """

    pixels: NDArray[np.uint8]
    name: str
    original_size: tuple[int, int]


def read_upload(path: str | Path, limits: Limits) -> Upload:
    """Reads an uploaded image and shrinks it to the working side.

    Raises:
        ImageError: the file is damaged, not an image, or larger than the limits. The message contains the name of the
            file, not its path on the server.
    """
    path = Path(path)
    if (side := _longer_side(path)) > limits.max_side:
        raise ImageError(
            f"{path.name}: its longer side has {side:,} pixels and this page takes up to {limits.max_side:,}; "
            "make the image smaller, or start cmpf serve with a larger --max-side"
        )
    try:
        image = read_image(path)
    except ImageError as error:
        raise ImageError(str(error).replace(str(path), path.name)) from error
    height, width = image.shape[:2]
    if max(height, width) <= limits.working_side:
        return Upload(image, path.stem, (height, width))
    size = shortest_edge_size(height, width, short_side=limits.working_side, max_side=limits.working_side)
    return Upload(resize_image(image, size), path.stem, (height, width))


def parse_classes(chips: Iterable[str] | str | None) -> list[str]:
    """Parses the entered classes, each "name" or "name, synonym", and removes duplicates.

    Args:
        chips: entries of the input box; one may contain several classes separated by ";".
    Returns:
        The classes; never a path or the name of a dataset.
    Raises:
        VocabularyError: no class, too many, or one that is too long.
    """
    entries = [chips] if isinstance(chips, str) else list(chips or ())
    parts = [" ".join(part.split()) for entry in entries for part in _SEPARATORS.split(str(entry))]
    unique: dict[str, str] = {}
    for part in parts:
        if part.strip(" ,"):
            unique.setdefault(part.casefold(), part)
    classes = list(unique.values())
    if not classes:
        raise VocabularyError("no classes; enter the names of what to find, such as cat")
    if len(classes) > MAX_CLASSES:
        raise VocabularyError(f"{len(classes)} classes; this page takes up to {MAX_CLASSES} at once")
    for name in classes:
        if len(name) > MAX_CLASS_LENGTH:
            raise VocabularyError(
                f"{name[:30]}...: {len(name)} characters; a class with its synonyms may have {MAX_CLASS_LENGTH}"
            )
    return classes


@dataclass(frozen=True)
class Example:
    """An example image, its classes, and the task to show."""

    path: Path
    words: tuple[str, ...]
    task: str


def write_examples(folder: Path) -> list[Example]:
    """Writes the example images into a folder: generated ones, then photographs if scikit-image is installed."""
    examples = []
    for number, seed in enumerate(SEEDS, start=1):
        scene = generate_scene(seed, size=EXAMPLE_SIZE, seen_only=False)
        names = (CATEGORIES[segment.category_id].name for segment in scene.segments)
        path = write_image(folder / f"shapes_{number}.png", scene.image, durable=False)
        examples.append(Example(path, tuple(dict.fromkeys(names)), "panoptic"))
    for name, words in PHOTOGRAPHS.items():
        photograph = _photograph(name)
        if photograph is not None:
            path = write_image(folder / f"{name}.png", photograph, durable=False)
            examples.append(Example(path, words, "semantic"))
    return examples


def _longer_side(path: Path) -> int:
    """The longer side in pixels, from the header; 0 if the file cannot be opened, which read_image reports."""
    try:
        return max(read_image_size(path))
    except ImageError:
        return 0


def _photograph(name: str) -> NDArray[np.uint8] | None:
    """A photograph that is part of scikit-image; None if it is not installed or would have to be downloaded."""
    try:
        from skimage import data
    except ImportError:
        return None
    file = Path(data.__file__).parent / f"{name}.png"
    return np.asarray(open_image(file).convert("RGB")) if file.is_file() else None
