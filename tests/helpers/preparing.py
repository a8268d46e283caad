# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Preparing synthetic trees, and spoiling what was made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cmpf.cli import prepare


@dataclass(frozen=True)
class Case:
    """A preparation that makes images, with one of its items.

    name: of the preparation.
    make: write the raw tree, in this order.
    raw: a file of val that one item is made from, below the root.
    target: what is made of it.
    made: further files that are written only when every item is whole.
    """

    name: str
    make: tuple[Callable[[Path], None], ...]
    raw: str = ""
    target: str = ""
    made: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name

    def write(self, root: Path) -> None:
        """Writes the raw tree."""
        for make in self.make:
            make(root)

    def run(self, root: Path, *arguments: str) -> int:
        """Exit code, in this process unless --jobs is given."""
        jobs = () if "--jobs" in arguments else ("--jobs", "1")
        return int(prepare.main(self.name, ["--root", str(root), *jobs, *arguments]))

    def check(self, root: Path, *arguments: str) -> int:
        """Exit code of --check; the small trees have fewer images than the releases."""
        return self.run(root, "--check", "--images", "0", *arguments)


def files(folder: Path) -> dict[str, bytes]:
    """Relative path -> content of all files below a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def truncate(path: Path) -> None:
    """Leaves the first half of a file."""
    content = path.read_bytes()
    path.unlink()  # a hard link's other names keep the whole content
    path.write_bytes(content[: len(content) // 2])


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replaces the pixels of an image."""
    with Image.open(path) as opened:
        values = np.array(opened)
    Image.fromarray(change(values)).save(path)


def read_ids(path: Path) -> np.ndarray:
    """R + 256 G + 65536 B of a panoptic PNG."""
    return np.array(Image.open(path)).astype(np.int64) @ (1, 256, 65536)
