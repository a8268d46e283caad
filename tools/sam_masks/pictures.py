# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Which pictures get masks, and at which size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fvcore.common.config import CfgNode

from cmpf.build.sizes import evaluation_size
from cmpf.data import get_dataset
from cmpf.errors import ConfigError, DatasetError

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")


@dataclass(frozen=True)
class Picture:
    """A file, and the test size (shorter side, longest longer side) that its masks are for."""

    file: str
    test_size: tuple[int, int]


def of_datasets(cfg: CfgNode, names: Sequence[str]) -> list[Picture]:
    """All pictures of datasets, at the size of their evaluation; one that several have counts once.

    Raises:
        DatasetError: a dataset is unknown or not on disk.
    """
    found: dict[Picture, None] = {}
    for dataset in [get_dataset(name) for name in names]:
        size = evaluation_size(cfg, dataset.entry)
        found.update({Picture(str(sample["file_name"]), size): None for sample in dataset.samples})
    return list(found)


def of_folder(cfg: CfgNode, folder: str | Path) -> list[Picture]:
    """All pictures in a folder and the folders inside it, by name, at the size of INPUT.MIN/MAX_SIZE_TEST.

    Raises:
        DatasetError: no such folder, or no picture in it.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; give one with pictures")
    files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in PICTURE_ENDINGS]
    files = [path for path in files if path.is_file() and not path.name.startswith(".")]
    if not files:
        raise DatasetError(f"{folder}: holds no picture; looked for {', '.join(PICTURE_ENDINGS)}")
    return [Picture(str(path), evaluation_size(cfg)) for path in files]


def shard(pictures: Sequence[Picture], place: str) -> list[Picture]:
    """The K-th of N equal shares, written "K/N", K from 1.

    Raises:
        ConfigError: the text is something else.
    """
    number, _, count = place.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ConfigError(f"--shard {place}: expected K/N with K from 1 to N, such as 2/8")
    return list(pictures[int(number) - 1 :: int(count)])
