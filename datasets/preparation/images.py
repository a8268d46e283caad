# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Label maps and id maps, whole or refused by name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cmpf.common.files import TEMPORARY, replacing
from cmpf.errors import DatasetError, ImageError
from cmpf.formats.image import DAMAGED
from preparation.model import Item

_LABEL_TYPES = {"L": np.uint8, "P": np.uint8, "I;16": np.uint16, "I;16L": np.uint16, "I;16B": np.uint16}
_UNREADABLE = (*DAMAGED, Image.DecompressionBombError)
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width
_ORIENTATION = 0x0112


def stems(folder: Path, ending: str, *, recursive: bool = False) -> dict[str, Path]:
    """Files of a folder by their name without `ending`, sorted; hidden and unfinished files are left out.

    Args:
        ending: such as ".jpg" or "_leftImg8bit.png".
        recursive: also in folders below; the key is then still the file's name alone.
    Raises:
        DatasetError: the folder is missing, or two files have one name.
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
    return dict(sorted(found.items()))


def folder_items(source: Path, target: Path, *, ending: str = ".png", suffix: str = ".png") -> list[Item]:
    """One item for each file of `source`: the same name in `target`, its `ending` replaced by `suffix`.

    Raises:
        DatasetError: no such folder, or no such file in it.
    """
    found = stems(source, ending)
    if not found:
        raise DatasetError(f"{source}: no *{ending} in it; unpack the release again")
    return [Item(sources=(path,), targets=(target / f"{stem}{suffix}",)) for stem, path in found.items()]


def present(paths: Iterable[Path]) -> set[Path]:
    """Those that are there; one listing of a folder is quicker than many look-ups on a network drive."""
    wanted = set(paths)
    folders = {path.parent for path in wanted}
    return {path for folder in folders if folder.is_dir() for path in folder.iterdir()} & wanted


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of an image as it is seen (EXIF orientation applied), from the head of the file alone.

    Raises:
        ImageError: missing or damaged.
    """
    try:
        with Image.open(path) as opened:
            width, height = opened.size
            sideways = opened.getexif().get(_ORIENTATION) in _SIDEWAYS
    except _UNREADABLE as error:
        raise ImageError(f"{path}: cannot be opened as an image ({error})") from error
    return (width, height) if sideways else (height, width)


def read_labels(path: Path) -> NDArray[Any]:
    """(H, W) uint8 or uint16 values of a one-channel image, as stored; of a palette image, the indices.

    Raises:
        ImageError: missing, damaged, or of several channels.
    """
    values, mode = _pixels(path)
    if mode == "I" and values.size and values.min() >= 0 and values.max() <= 65535:
        return values.astype(np.uint16)  # how some versions of Pillow read 16-bit PNGs
    if mode not in _LABEL_TYPES:
        raise ImageError(f"{path}: of kind {mode}; labels need one channel of 8 or 16 bits")
    return values.astype(_LABEL_TYPES[mode])


def read_channels(path: Path, mode: str = "RGB") -> NDArray[np.uint8]:
    """(H, W, channels) bytes of an image that is stored in just this mode, "RGB" or "RGBA".

    Raises:
        ImageError: missing, damaged, or of another kind.
    """
    values, found = _pixels(path)
    if found != mode:
        raise ImageError(f"{path}: of kind {found}; expected 8-bit {mode}")
    return np.asarray(values, dtype=np.uint8)


def read_ids(path: Path) -> NDArray[np.int64]:
    """(H, W) segment ids R + 256 G + 65536 B of a COCO panoptic PNG.

    Raises:
        ImageError: missing, damaged, or not RGB.
    """
    values = read_channels(path).astype(np.int64)
    return values[..., 0] + 256 * values[..., 1] + 65536 * values[..., 2]


def write_labels(path: Path, labels: NDArray[Any]) -> None:
    """Writes (H, W) uint8 or uint16 losslessly, as PNG or TIFF by the ending; whole or not at all."""
    if labels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"labels of type {labels.dtype}; expected uint8 or uint16")
    options = {"compression": "tiff_lzw"} if path.suffix in (".tif", ".tiff") else {}
    with replacing(path) as temporary:
        Image.fromarray(labels).save(temporary, **options)


def write_ids(path: Path, ids: NDArray[np.int64]) -> None:
    """Writes (H, W) segment ids below 2**24 as a COCO panoptic PNG; whole or not at all."""
    if ids.min() < 0 or ids.max() >= 1 << 24:
        raise ValueError(f"segment ids {ids.min()}..{ids.max()}; expected 0..{(1 << 24) - 1}")
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    with replacing(path) as temporary:
        Image.fromarray(rgb).save(temporary)


def lookup_table(mapping: Mapping[int, int], *, default: int, size: int, dtype: Any) -> NDArray[Any]:
    """(size,) array: value -> mapping[value], or `default` where it has none."""
    table = np.full(size, default, dtype=dtype)
    for value, result in mapping.items():
        table[value] = result
    return table


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


def _pixels(path: Path) -> tuple[NDArray[Any], str]:
    try:
        with Image.open(path) as opened:
            opened.load()
            return np.asarray(opened), opened.mode
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
    except _UNREADABLE as error:
        raise ImageError(f"{path}: damaged ({error}); fetch it again") from error
