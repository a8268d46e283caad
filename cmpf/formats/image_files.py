# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Images as people name them: files, folders and patterns."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path

from cmpf.errors import ImageError

# Endings of files that count as images in a folder; a file that is named itself may have any.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif",
)  # fmt: skip


def find_images(inputs: Iterable[str | Path]) -> list[Path]:
    """The images that files, folders and patterns such as "photos/*.jpg" name, in this order, each once.

    Raises:
        ImageError: one of them names no image.
    """
    found: dict[Path, None] = {}
    for given in inputs:
        path = Path(given).expanduser()
        if path.is_dir():
            matches = folder_images(path)
        elif path.exists():
            matches = [path]
        else:
            matches = _matches(str(path))
        found.update(dict.fromkeys(matches))
    return list(found)


def folder_images(folder: Path) -> list[Path]:
    """The images in a folder by name; hidden files and folders in it are left out.

    Raises:
        ImageError: there is none.
    """
    found = [path for path in sorted(folder.iterdir()) if _is_image(path)]
    if not found:
        raise ImageError(f"{folder}: no image in this folder; expected files {', '.join(IMAGE_SUFFIXES)}")
    return found


def _matches(pattern: str) -> list[Path]:
    found = sorted(Path(match) for match in glob.glob(pattern, recursive=True))
    files = [path for path in found if path.is_file()]
    if not files:
        raise ImageError(
            f"{pattern}: no such image (looked at {Path(pattern).absolute()}); give files, folders, or a "
            'quoted pattern such as "photos/*.jpg" that matches some'
        )
    return files


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def unique_names(sources: Sequence[str | Path]) -> list[str]:
    """Names for the files of each image that do not collide: x of a/x.jpg, then x_2 of b/x.jpg."""
    taken: set[str] = set()
    names = []
    for source in sources:
        stem = name = Path(source).stem or "image"
        number = 1
        while name.casefold() in taken:  # some file systems do not tell X from x
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.casefold())
        names.append(name)
    return names
