# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Files of a release: listings, items, links, and entries of the JSON files that are made."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmpf.common.files import TEMPORARY, replacing
from cmpf.data.preparation.spec import Item
from cmpf.errors import DatasetError
from cmpf.formats.label_map import SegmentIds, read_panoptic_ids, read_pixels


def stems(folder: Path, ending: str, *, recursive: bool = False) -> dict[str, Path]:
    """Files of a folder by their name without `ending`, sorted; hidden and unfinished files are left out.

    Args:
        ending: such as ".jpg" or "_leftImg8bit.png".
        recursive: also in folders below; the key is then still the file's name alone.
    Raises:
        DatasetError: the folder is missing, holds no such file, or two files have one name.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(folders) if recursive else []
        for name in sorted(names):
            if name.startswith(".") or not name.endswith(ending):
                continue
            stem = name[: len(name) - len(ending)]
            if stem in found:
                raise DatasetError(f"{Path(place) / name}: the same name as {found[stem]}; keep one")
            found[stem] = Path(place) / name
    if not found:
        where = "in it or below" if recursive else "in it"
        raise DatasetError(f"{folder}: no *{ending} {where}; unpack the release again")
    return dict(sorted(found.items()))


def folder_items(source: Path, target: Path) -> list[Item]:
    """One item for each PNG of `source`, for a PNG of the same name in `target`.

    Raises:
        DatasetError: no such folder, or no such file in it.
    """
    return [Item(sources=(path,), targets=(target / path.name,)) for path in stems(source, ".png").values()]


def present(paths: Iterable[Path]) -> set[Path]:
    """Those that are there; one listing of a folder is quicker than many look-ups on a network drive."""
    wanted = set(paths)
    folders = {path.parent for path in wanted}
    return {path for folder in folders if folder.is_dir() for path in folder.iterdir()} & wanted


def place(source: Path, target: Path) -> None:
    """Puts a file at a second place: as a hard link, which takes no room, or as a copy on another disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)


def sweep_unfinished(folder: Path, *, older_than: float) -> None:
    """Removes what a killed run left in a folder, if last written before `older_than` (seconds since 1970)."""
    for path in folder.glob(f"{TEMPORARY}*") if folder.is_dir() else ():
        if path.stat().st_mtime < older_than:
            path.unlink(missing_ok=True)


def read_bytes(path: Path) -> NDArray[np.int64]:
    """(H, W) values of a label map of 8 bits, or its palette indices.

    Raises:
        DatasetError: missing, damaged, or of another kind; names it.
    """
    pixels = read_pixels(path, "label map")
    if pixels.dtype != np.uint8 or pixels.ndim != 2:
        raise DatasetError(f"{path}: {pixels.dtype} of shape {pixels.shape}; expected one channel of 8 bits")
    return pixels.astype(np.int64)


def read_channels(path: Path, count: int) -> NDArray[np.int64]:
    """(H, W, count) values of an image whose channels are 8-bit numbers, not colors.

    Raises:
        DatasetError: missing, damaged, or of another kind; names it.
    """
    pixels = read_pixels(path, "image")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != count:
        raise DatasetError(
            f"{path}: {pixels.dtype} of shape {pixels.shape}; expected {count} channels of 8 bits"
        )
    return pixels.astype(np.int64)


def read_own_ids(item: Item, expected: NDArray[np.integer[Any]]) -> SegmentIds:
    """(H, W) segment ids of the panoptic PNG that is the target of an item.

    Raises:
        DatasetError: missing or damaged; or not the expected ids, so that another program made it, by other rules.
    """
    ids = read_panoptic_ids(item.target)
    if not np.array_equal(ids, expected):
        raise DatasetError(
            f"{item.target}: not what this command makes of {item.source}; make it again with --overwrite, or keep it "
            "with the JSON file that belongs to it"
        )
    return ids


def lookup_table(mapping: Mapping[int, int], *, default: int, size: int, dtype: Any) -> NDArray[Any]:
    """(size,) array: value -> mapping[value], or `default` where it has none."""
    table = np.full(size, default, dtype=dtype)
    for value, result in mapping.items():
        table[value] = result
    return table


def image_entry(name: str, size: Sequence[int]) -> dict[str, Any]:
    """An entry of `images` whose id is the name of a JPEG; `size` = (H, W)."""
    return {"id": name, "file_name": f"{name}.jpg", "height": size[0], "width": size[1]}
