# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What predictions may hold. Whatever else is counted would turn into a number that looks like a result."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import numpy as np
import numpy.typing as npt

from cmpf.errors import EvaluationError

_NAMED = 3  # values in a message


def new_image(image_id: Any, known: Container[Any], where: str) -> None:
    """Makes sure that a process sees each image once.

    Args:
        known: ids of the images so far.
        where: opens the error message; names the file.
    Raises:
        EvaluationError: the image was there before.
    """
    if image_id in known:
        raise EvaluationError(
            f"{where}: image_id {image_id!r} came before; give each image once and call reset() between evaluations"
        )


def whole_numbers(values: npt.NDArray[Any], what: str) -> npt.NDArray[np.int64]:
    """Values of any numeric type as int64.

    Args:
        what: opens the error message; names the file.
    Raises:
        EvaluationError: some are not whole, not finite, or no numbers.
    """
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    if values.dtype.kind != "f":
        raise EvaluationError(f"{what} of type {values.dtype}; expected whole numbers")
    wrong = values[~np.isfinite(values) | (values != np.trunc(values)) | (np.abs(values) >= 2.0**53)]
    if wrong.size:
        raise EvaluationError(f"{what}: {shown(wrong)}; expected whole numbers")
    return values.astype(np.int64)


def finite_numbers(values: npt.NDArray[Any], what: str) -> npt.NDArray[np.float64]:
    """Values of any real type as float64.

    Args:
        what: opens the error message; names the file.
    Raises:
        EvaluationError: some are NaN or infinite, or no numbers.
    """
    if values.dtype.kind not in "iuf":
        raise EvaluationError(f"{what} of type {values.dtype}; expected numbers")
    numbers = values.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise EvaluationError(f"{what}: {shown(numbers[~np.isfinite(numbers)])}; expected finite numbers")
    return numbers


def binary_masks(values: npt.NDArray[Any], what: str) -> npt.NDArray[np.bool_]:
    """Masks of bool, or of 0 and 1 in any real type, as bool.

    Args:
        what: opens the error message; names the file.
    Raises:
        EvaluationError: other values.
    """
    if values.dtype.kind != "b":
        other = (values != 0) & (values != 1)
        if values.dtype.kind not in "iuf" or other.any():
            wrong = f": {shown(values[other])}" if other.any() else f" of type {values.dtype}"
            raise EvaluationError(f"{what}{wrong}; expected True and False, or 1 and 0")
    masks: npt.NDArray[np.bool_] = values.astype(np.bool_)
    return masks


def equally_many(what: str, **lengths: int) -> None:
    """Makes sure that lists which belong together are equally long.

    Raises:
        EvaluationError: they are not.
    """
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise EvaluationError(f"{what}: {counts}; expected one of each for every detection")


def shown(values: npt.NDArray[Any]) -> str:
    """The first few values, for a message."""
    more = ", ..." if values.size > _NAMED else ""
    return ", ".join(f"{value:g}" for value in values.reshape(-1)[:_NAMED].tolist()) + more
