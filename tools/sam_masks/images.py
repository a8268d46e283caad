# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Which images get masks, and at which size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cmpf.config import Config
from cmpf.data import get_dataset
from cmpf.errors import ConfigError, DatasetError
from cmpf.factory.sizes import evaluation_size

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")


@dataclass(frozen=True)
class SourceImage:
    """A file, and the test size (shorter side, longest longer side) that its masks are for."""

    file: str
    test_size: tuple[int, int]


def of_datasets(cfg: Config, names: Sequence[str]) -> list[SourceImage]:
    """All images of datasets, at the size of their evaluation; one that several have counts once.

    Raises:
        DatasetError: a dataset is unknown or not on disk.
    """
    found: dict[SourceImage, None] = {}
    for dataset in [get_dataset(name) for name in names]:
        size = evaluation_size(cfg, dataset.spec)
        found.update({SourceImage(str(sample["file_name"]), size): None for sample in dataset.samples})
    return list(found)


def of_folder(cfg: Config, folder: str | Path) -> list[SourceImage]:
    """All images in a folder and the folders inside it, by name, at the size of INPUT.MIN/MAX_SIZE_TEST.

    Raises:
        DatasetError: no such folder, or no image in it.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; give one with images")
    files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES]
    files = [path for path in files if path.is_file() and not path.name.startswith(".")]
    if not files:
        raise DatasetError(f"{folder}: holds no image; looked for {', '.join(IMAGE_SUFFIXES)}")
    return [SourceImage(str(path), evaluation_size(cfg)) for path in files]


def shard(images: Sequence[SourceImage], place: str) -> list[SourceImage]:
    """The K-th of N equal shares, written "K/N", K from 1.

    Raises:
        ConfigError: the text is something else.
    """
    number, _, count = place.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ConfigError(f"--shard {place}: expected K/N with K from 1 to N, such as 2/8")
    return list(images[int(number) - 1 :: int(count)])
