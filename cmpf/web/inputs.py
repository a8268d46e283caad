# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What visitors of the page may send, size and kind of images, number and length of words; and examples to try."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cmpf.errors import CMPFError, ImageError, VocabularyError
from cmpf.formats.image import (
    open_image,
    read_image,
    read_image_size,
    resize_image,
    shortest_edge_size,
)
from cmpf.shapeworld.categories import CATEGORIES
from cmpf.shapeworld.scene import generate_scene

MAX_IMAGES = 20  # that one visitor may have segmented at once, while the others wait
FILES_TOGETHER = 4  # of the largest size that one upload of several files may hold
MAX_CLASSES = 200  # each is a pass of CLIP's text encoder
MAX_CLASS_LETTERS = 200  # of one class with its synonyms
_SEPARATORS = re.compile(r"[;\n\r]")
SIZE = 512  # pixels of a side of generated examples
SEEDS = (20, 25)  # of generated examples
PHOTOGRAPHS = {
    "coffee": ("cup", "spoon", "saucer", "wooden table"),
    "chelsea": ("cat", "blanket", "wall"),
}


@dataclass(frozen=True)
class Limits:
    """Limits of the page.

    max_side: pixels; images with a longer side are refused.
    working_side: pixels; larger images are shrunk to it before they are segmented, because the results of a
        hundred queries at the size of a camera's image need gigabytes.
    max_upload_mb: mebibytes of one uploaded file. uploads_mb: of all that lie on the disk; the oldest go first.
    queue: visitors that may wait; the next is told to come back later.
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
                f"uploads_mb {self.uploads_mb} holds no upload of {self.max_upload_mb} MiB; raise it, or lower "
                "max_upload_mb"
            )

    @property
    def request_bytes(self) -> int:
        """Of the files in one request; a browser sends those that are chosen together in one."""
        return min(FILES_TOGETHER * self.max_upload_mb, self.uploads_mb) * 2**20


@dataclass(frozen=True)
class Upload:
    """An image as it is segmented.

    pixels: (H, W, 3) uint8 RGB; name: the visitor's name of the file, without ending;
    original_size: (H, W) before shrinking.
    """

    pixels: NDArray[np.uint8]
    name: str
    original_size: tuple[int, int]


def read_upload(path: str | Path, limits: Limits) -> Upload:
    """The uploaded image, shrunk to the working side.

    Raises:
        ImageError: it is damaged, no image, or larger than the limits. The message has the name of the file,
            not the server's path.
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


def _longer_side(path: Path) -> int:
    """Of the image, without decoding it; 0 for what cannot be opened, of which read_image says why."""
    try:
        return max(read_image_size(path))
    except ImageError:
        return 0


def class_words(chips: Iterable[str] | str | None) -> list[str]:
    """Classes from what was typed: one "name" or "name, synonym" a chip, or several separated by ";".

    What is said twice counts once. The result is a list of words, never a path or a dataset's name.

    Raises:
        VocabularyError: no class, too many, or one that is too long.
    """
    entered = [chips] if isinstance(chips, str) else list(chips or ())
    pieces = [" ".join(piece.split()) for chip in entered for piece in _SEPARATORS.split(str(chip))]
    words = list({piece.casefold(): piece for piece in reversed(pieces) if piece.strip(" ,")}.values())[::-1]
    if not words:
        raise VocabularyError("no words yet; type what to look for, such as: cat, grass, sky")
    if len(words) > MAX_CLASSES:
        raise VocabularyError(f"{len(words)} classes; this page takes up to {MAX_CLASSES} at once")
    for word in words:
        if len(word) > MAX_CLASS_LETTERS:
            raise VocabularyError(
                f"{word[:30]}...: {len(word)} letters; a class with its synonyms may have {MAX_CLASS_LETTERS}"
            )
    return words


@dataclass(frozen=True)
class Example:
    """An image file, words for it, and the task that shows it best."""

    path: Path
    words: tuple[str, ...]
    task: str


def write_examples(folder: Path) -> list[Example]:
    """Writes the images into a folder; generated ones first."""
    found = []
    for number, seed in enumerate(SEEDS, start=1):
        scene = generate_scene(seed, size=SIZE, seen_only=False)
        names = (CATEGORIES[segment.category_id].name for segment in scene.segments)
        path = _save(scene.image, folder / f"shapes_{number}.png")
        found.append(Example(path, tuple(dict.fromkeys(names)), "panoptic"))
    for name, words in PHOTOGRAPHS.items():
        photograph = _photograph(name)
        if photograph is not None:
            found.append(Example(_save(photograph, folder / f"{name}.png"), words, "semantic"))
    return found


def _photograph(name: str) -> NDArray[np.uint8] | None:
    """A photograph that comes with scikit-image; None where it is not there, for nothing is downloaded."""
    try:
        from skimage import data
    except ImportError:
        return None
    file = Path(data.__file__).parent / f"{name}.png"
    return np.asarray(open_image(file).convert("RGB")) if file.is_file() else None


def _save(image: NDArray[np.uint8], path: Path) -> Path:
    Image.fromarray(image).save(path)
    return path
