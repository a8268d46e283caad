# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Label maps (semantic ground truth) and COCO panoptic PNGs: reading, writing and the panoptic id codec."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cmpf.errors import DatasetError
from cmpf.formats.image import DAMAGED, RGB, open_image, write_image

ClassMap: TypeAlias = NDArray[np.int32]  # (H, W) class index, or NO_CLASS
SegmentIds: TypeAlias = NDArray[np.int32]  # (H, W) segment id, or VOID_ID
NO_CLASS = -1
MAX_LABEL = 65535  # label maps have at most 16 bits
VOID_ID = 0
MAX_ID = (1 << 24) - 1  # segment ids have three bytes
# Modes of Pillow that hold segment ids; the channels of other color spaces (CMYK, LAB, ...) are no bytes of an id.
PANOPTIC_MODES = ("RGB", "RGBA", "P", "L", "I", "I;16", "I;16B")
_MAX_LISTED = 5  # values in an error message
_TILE_ROWS = 256


def is_jpeg(image: Image.Image) -> bool:
    """Whether an image is compressed as JPEG (also inside a TIFF), which changes class numbers and segment ids."""
    return image.format in ("JPEG", "MPO") or image.info.get("compression") == "jpeg"


def read_pixels(path: str | Path, what: str, *, panoptic: bool = False) -> NDArray[Any]:
    """Reads a ground-truth image unconverted, as (H, W) or (H, W, C).

    Args:
        what: what error messages call the file, such as "label map".
        panoptic: require one of PANOPTIC_MODES, and read a palette file as colors (H, W, 3) instead of palette
            indices (H, W).
    Raises:
        DatasetError: the file is missing, damaged, a JPEG, or does not hold integers; names the file.
    """
    try:
        with open_image(path) as image:
            if is_jpeg(image):
                raise DatasetError(f"{path}: {what} saved as JPEG, which changes its numbers; save it as PNG")
            if panoptic and image.mode not in PANOPTIC_MODES:
                raise DatasetError(f"{path}: {what} of mode {image.mode}, expected RGB; make it again")
            pixels = np.asarray(image.convert("RGB") if panoptic and image.mode == "P" else image)
    except DatasetError:
        raise
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such {what}; create or download it again") from error
    except DAMAGED as error:
        raise DatasetError(f"{path}: damaged {what} ({error}); create or download it again") from error
    if not (np.issubdtype(pixels.dtype, np.integer) or pixels.dtype == np.bool_):
        raise DatasetError(f"{path}: {what} of type {pixels.dtype}; save whole numbers of 8 or 16 bits")
    return pixels


def read_labels(path: str | Path) -> NDArray[np.int32]:
    """Reads the raw values (H, W) of a label map: 8 or 16 bits, PNG or TIFF, gray or palette indices.

    Raises:
        DatasetError: the file is missing, damaged, a JPEG, has several channels, or holds values other than integers
            0..65535.
    """
    pixels = read_pixels(path, "label map")
    if pixels.ndim != 2:
        raise DatasetError(
            f"{path}: a label map has one channel, this one has {pixels.shape[2]}; "
            "save class numbers, not colors"
        )
    if pixels.size and (pixels.min() < 0 or pixels.max() > MAX_LABEL):
        raise DatasetError(
            f"{path}: values {pixels.min()}..{pixels.max()} do not fit 16 bits; check how it was made"
        )
    return pixels.astype(np.int32)


class LabelReader:
    """Reads the label maps of a dataset as class indices."""

    def __init__(
        self,
        *,
        num_classes: int,
        ignore_label: int,
        class_of_id: Mapping[int, int] | None = None,
        no_class: int = NO_CLASS,
    ) -> None:
        """
        Args:
            num_classes: number of classes.
            ignore_label: value of pixels without a class; takes precedence over class_of_id.
            class_of_id: maps values in the files to class indices; None = the files hold class indices.
            no_class: value that replaces ignore_label.
        """
        self._allowed = f"0..{num_classes - 1}" if class_of_id is None else f"one of {sorted(class_of_id)}"
        self._ignore_label = ignore_label
        self._index = np.full(MAX_LABEL + 1, no_class, dtype=np.int32)
        self._known = np.zeros(MAX_LABEL + 1, dtype=np.bool_)
        for label, index in (class_of_id or {k: k for k in range(num_classes)}).items():
            self._index[label], self._known[label] = index, True
        self._index[ignore_label], self._known[ignore_label] = no_class, True

    def __call__(self, path: str | Path) -> ClassMap:
        """Class indices (H, W), `no_class` where the file has the ignore label.

        Raises:
            DatasetError: as read_labels; or a value is neither a class nor the ignore label.
        """
        values = read_labels(path)
        unknown = ~self._known[values]
        if unknown.any():
            wrong = np.unique(values[unknown])
            more = ", ..." if len(wrong) > _MAX_LISTED else ""
            raise DatasetError(
                f"{path}: label {', '.join(map(str, wrong[:_MAX_LISTED]))}{more} in {int(unknown.sum())} "
                f"pixels; allowed are {self._allowed} and the ignore label {self._ignore_label}; "
                "check how it was made"
            )
        classes: ClassMap = self._index[values]
        return classes


def write_labels(path: str | Path, labels: NDArray[Any], *, durable: bool = True) -> Path:
    """Writes a label map (H, W) uint8 or uint16 atomically, as PNG or TIFF by the path's suffix; returns the path.

    Args:
        durable: see replacing.
    Raises:
        ValueError: another dtype.
    """
    if labels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"labels of type {labels.dtype}; expected uint8 or uint16")
    options = {"compression": "tiff_lzw"} if Path(path).suffix.lower() in (".tif", ".tiff") else {}
    return write_image(path, labels, durable=durable, **options)


def read_panoptic_ids(path: str | Path) -> SegmentIds:
    """Reads segment ids (H, W) from a COCO panoptic PNG: R + 256 G + 65536 B, 0 = void; a gray file holds plain ids.

    A palette file is decoded from its colors, because PNG optimizers convert panoptic PNGs with few segments to
    palette files.

    Raises:
        DatasetError: the file is missing, damaged, a JPEG, or of another mode; names the file.
    """
    return decode_panoptic_ids(read_pixels(path, "panoptic PNG", panoptic=True))


def write_panoptic_ids(path: str | Path, ids: NDArray[np.integer[Any]], **options: Any) -> Path:
    """Writes segment ids (H, W) as a COCO panoptic PNG, atomically; returns the path.

    Args:
        options: see write_image.
    Raises:
        ValueError: ids beyond three bytes.
    """
    colors = Image.new("RGB", (ids.shape[1], ids.shape[0]))
    # In tiles, because encoding needs several times the memory of the ids.
    for top in range(0, len(ids), _TILE_ROWS):
        colors.paste(Image.fromarray(encode_panoptic_ids(ids[top : top + _TILE_ROWS])), (0, top))
    return write_image(path, colors, **options)


def decode_panoptic_ids(pixels: NDArray[Any]) -> SegmentIds:
    """Decodes COCO panoptic colors (H, W, 3 or more) uint8, or plain ids (H, W), to segment ids (H, W)."""
    values = pixels.astype(np.int32)
    if values.ndim == 2:
        return values
    ids: SegmentIds = values[..., 0] | values[..., 1] << 8 | values[..., 2] << 16
    return ids


def encode_panoptic_ids(ids: NDArray[np.integer[Any]]) -> RGB:
    """Encodes segment ids (H, W) as COCO panoptic colors (H, W, 3): id = R + 256 G + 65536 B.

    Raises:
        ValueError: ids beyond three bytes.
    """
    if ids.size and (ids.min() < 0 or ids.max() > MAX_ID):
        raise ValueError(f"segment ids {ids.min()}..{ids.max()}; expected 0..{MAX_ID}")
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
