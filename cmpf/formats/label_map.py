# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Label maps of semantic segmentation: 8 or 16 bits, PNG or TIFF, gray or palette."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cmpf.errors import DatasetError
from cmpf.formats.image import DAMAGED

ClassMap: TypeAlias = NDArray[np.int32]  # (H, W) class index, or NO_CLASS
NO_CLASS = -1
MAX_LABEL = 65535  # label maps have at most 16 bits
_NAMED_VALUES = 5  # in an error message


def read_pixels(path: str | Path, what: str, *, palette_colors: bool = False) -> NDArray[Any]:
    """Pixels of a ground-truth file, (H, W) or (H, W, C), with the values that are in it.

    Args:
        what: kind of the file in error messages, such as "label map".
        palette_colors: a palette file gives its colors (H, W, 3), not its palette indices (H, W).
    Raises:
        DatasetError: the file is missing or damaged; names it.
    """
    try:
        with Image.open(path) as image:
            if palette_colors and image.mode == "P":
                return np.asarray(image.convert("RGB"))
            return np.asarray(image)
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such {what}; prepare the dataset again") from error
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise DatasetError(f"{path}: damaged {what} ({error}); prepare the dataset again") from error


def read_labels(path: str | Path) -> NDArray[np.int32]:
    """Values (H, W) of a label map as they are in the file.

    Raises:
        DatasetError: the file is missing, damaged, has several channels, or holds no whole numbers 0..65535.
    """
    pixels = read_pixels(path, "label map")
    if pixels.ndim != 2:
        raise DatasetError(
            f"{path}: a label map has one channel, this one has {pixels.shape[2]}; "
            "save class numbers, not colors"
        )
    if not (np.issubdtype(pixels.dtype, np.integer) or pixels.dtype == np.bool_):
        raise DatasetError(f"{path}: holds values of type {pixels.dtype}; save it with 8 or 16 bits")
    if pixels.size and (pixels.min() < 0 or pixels.max() > MAX_LABEL):
        raise DatasetError(
            f"{path}: values {pixels.min()}..{pixels.max()} do not fit 16 bits; check how it was prepared"
        )
    return pixels.astype(np.int32)


class LabelReader:
    """Reads label maps of one dataset as class indices."""

    def __init__(
        self, *, num_classes: int, ignore_label: int, label_map: Mapping[int, int] | None = None
    ) -> None:
        """
        Args:
            num_classes: classes are 0..num_classes - 1.
            ignore_label: value of pixels without a class, even if label_map has it.
            label_map: value in the files -> class index; None = they hold class indices.
        """
        self._allowed = f"0..{num_classes - 1}" if label_map is None else f"one of {sorted(label_map)}"
        self._ignore_label = ignore_label
        self._index = np.full(MAX_LABEL + 1, NO_CLASS, dtype=np.int32)
        self._known = np.zeros(MAX_LABEL + 1, dtype=np.bool_)
        for label, index in (label_map or {k: k for k in range(num_classes)}).items():
            self._index[label], self._known[label] = index, True
        self._index[ignore_label], self._known[ignore_label] = NO_CLASS, True

    def __call__(self, path: str | Path) -> ClassMap:
        """Class indices (H, W), NO_CLASS where the file has the ignore label.

        Raises:
            DatasetError: as read_labels; or a value is neither a class nor the ignore label.
        """
        values = read_labels(path)
        unknown = ~self._known[values]
        if unknown.any():
            wrong = np.unique(values[unknown])
            more = ", ..." if len(wrong) > _NAMED_VALUES else ""
            raise DatasetError(
                f"{path}: label {', '.join(map(str, wrong[:_NAMED_VALUES]))}{more} in {int(unknown.sum())} "
                f"pixels; allowed are {self._allowed} and the ignore label {self._ignore_label}; "
                "check how it was prepared"
            )
        classes: ClassMap = self._index[values]
        return classes
