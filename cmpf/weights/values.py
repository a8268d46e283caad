# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Weights are numbers that a model can compute with."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from cmpf.errors import WeightsError


def check_values(source: str, given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Makes sure that weights are numbers that the model can compute with, in place of which it would give any result.

    Args:
        source: of the weights, for messages.
        given: weights by name; those that are not in `own` do not matter.
        own: those of the model. Where one of its own is not finite (the mask of causal attention), another may be so.
    Raises:
        WeightsError: quantized, complex or whole numbers in place of floating-point ones, or the other way round; NaN
            or infinity.
    """
    for name, value in given.items():
        if (place := own.get(name)) is None:
            continue
        if value.is_floating_point() != place.is_floating_point() or value.is_complex():
            raise WeightsError(
                f"{source}: {name} is of type {str(value.dtype).removeprefix('torch.')}, the model's is "
                f"{str(place.dtype).removeprefix('torch.')}; save the weights unquantized, in float16, bfloat16 or "
                "float32"
            )
        if not _is_finite(value) and _is_finite(place):
            raise WeightsError(
                f"{source}: {name} holds NaN or infinity, with which every result would be meaningless; take an "
                "earlier checkpoint"
            )


def _is_finite(values: Tensor) -> bool:
    if not values.is_floating_point():
        return True
    values = values if values.element_size() > 1 else values.float()  # torch does not ask numbers of 8 bits
    return bool(values.isfinite().all())
