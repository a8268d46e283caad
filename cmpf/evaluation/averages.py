# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Means over groups of classes that never invent a zero."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cmpf.errors import EvaluationError


def mean_over(values: npt.NDArray[np.float64], chosen: npt.NDArray[np.bool_]) -> float:
    """Mean of the chosen values, NaN when none is chosen."""
    return float(values[chosen].mean()) if bool(chosen.any()) else float("nan")


def percent_ratio(
    numerator: npt.NDArray[np.float64], denominator: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """100 * numerator / denominator elementwise, NaN where the denominator is 0."""
    undefined = np.full(numerator.shape, np.nan)
    ratio: npt.NDArray[np.float64] = np.divide(numerator, denominator, out=undefined, where=denominator > 0)
    return 100.0 * ratio


def class_flags(name: str, flags: Sequence[bool], num_classes: int) -> npt.NDArray[np.bool_]:
    """Checks that there is one flag a class.

    Raises:
        EvaluationError: the lengths differ.
    """
    if len(flags) != num_classes:
        raise EvaluationError(
            f"{name} has {len(flags)} entries for {num_classes} class names; give one a class"
        )
    return np.asarray(flags, dtype=bool)


def seen_groups(seen: Sequence[bool] | None, num_classes: int) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """Prefixes of metric names and the classes that they stand for: all, and seen and unseen where known."""
    everything = np.ones(num_classes, dtype=bool)
    if seen is None:
        return [("", everything)]
    flags = class_flags("seen", seen, num_classes)
    return [("", everything), ("S_", flags), ("U_", ~flags)]
