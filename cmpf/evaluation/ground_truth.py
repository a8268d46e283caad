# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What evaluators need from a sample and from what the model made of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from cmpf.errors import EvaluationError
from cmpf.types import ModelResult, Sample

# Where the model's outputs are switched on, for the error text.
_SWITCHES = {
    "panoptic_seg": "MODEL.MASK_FORMER.TEST.PANOPTIC_ON",
    "sem_seg": "MODEL.MASK_FORMER.TEST.SEMANTIC_ON",
    "instances": "MODEL.MASK_FORMER.TEST.INSTANCE_ON",
    "proposals": "mask recall",
}


def paired(
    inputs: Sequence[Sample], outputs: Sequence[ModelResult], output_key: str
) -> Iterator[tuple[Sample, Any]]:
    """Pairs samples with one of their outputs.

    Args:
        inputs, outputs: a batch, in the same order.
        output_key: "panoptic_seg", "sem_seg", "instances" or "proposals".
    Raises:
        EvaluationError: the lengths differ, or an output lacks the key.
    """
    if len(inputs) != len(outputs):
        raise EvaluationError(
            f"{len(outputs)} outputs for {len(inputs)} inputs; the model must return one an image"
        )
    for sample, output in zip(inputs, outputs, strict=True):
        result = output.get(output_key)
        if result is None:
            raise EvaluationError(
                f"{describe(sample)}: the model returned no {output_key}, only {sorted(output)}; "
                f"switch on {_SWITCHES[output_key]}"
            )
        yield sample, result


def describe(sample: Sample) -> str:
    """Name of a sample in error messages."""
    return str(sample.get("file_name") or f"image {sample.get('image_id', '?')}")


def required(sample: Sample, key: str) -> Any:
    """A field of a sample.

    Raises:
        EvaluationError: the sample lacks it.
    """
    if key not in sample:
        raise EvaluationError(
            f"{describe(sample)}: the sample has no {key!r}; this dataset cannot be evaluated so"
        )
    return sample[key]  # type: ignore[literal-required]


def to_array(values: Tensor | npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A tensor on any device, or an array, as an array."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def check_size(what: str, predicted: Sequence[int], expected: Sequence[int]) -> None:
    """Compares two (H, W).

    Raises:
        EvaluationError: they differ; `what` opens the message and names the file.
    """
    if tuple(predicted) != tuple(expected):
        raise EvaluationError(
            f"{what}: the prediction is {tuple(predicted)} (H, W) but the ground truth is {tuple(expected)}; "
            "results must be resized to the sample's height and width"
        )
