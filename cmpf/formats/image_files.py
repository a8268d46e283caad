# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Which files of a folder are images."""

from __future__ import annotations

from pathlib import Path

from cmpf.errors import ImageError

# Endings of files that count as images in a folder; a file that is named itself may have any.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif",
)  # fmt: skip


def folder_images(folder: Path) -> list[Path]:
    """The images in a folder by name; hidden files and folders in it are left out.

    Raises:
        ImageError: there is none.
    """
    found = [path for path in sorted(folder.iterdir()) if _is_image(path)]
    if not found:
        raise ImageError(f"{folder}: no image in this folder; expected files {', '.join(IMAGE_SUFFIXES)}")
    return found


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
