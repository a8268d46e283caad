# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Reads what evaluators need from a sample: its fields and its ground-truth files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from cmpf.errors import EvaluationError
from cmpf.types import ModelResult, Sample

Ids = npt.NDArray[np.int64]
_MAX_LABEL = 65535  # label maps have at most 16 bits
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


def read_panoptic_png(path: str | Path) -> Ids:
    """Segment ids (H, W) of a COCO panoptic PNG: R + 256 G + 65536 B; 0 is void. Gray files hold plain ids.

    Raises:
        EvaluationError: the file is missing or damaged.
    """
    pixels = _read(path)
    if pixels.ndim == 2:
        return pixels
    return pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]


def read_class_labels(
    path: str | Path, *, num_classes: int, ignore_label: int, label_map: Mapping[int, int] | None = None
) -> Ids:
    """Class indices (H, W) of an 8-bit, palette or 16-bit label map; `num_classes` marks ignored pixels.

    Args:
        path: single-channel image, PNG or TIFF.
        num_classes: classes are 0..num_classes - 1.
        ignore_label: value of pixels that do not count.
        label_map: value in the file -> class index; None = the file holds class indices.
    Raises:
        EvaluationError: the file cannot be read, has color channels, or holds a value that is neither a
            class nor the ignore label.
    """
    values = read_label_values(path)
    table = np.full(_MAX_LABEL + 2, -1, dtype=np.int64)
    if label_map is None:
        table[:num_classes] = np.arange(num_classes)
    else:
        table[list(label_map.keys())] = list(label_map.values())
    table[ignore_label] = num_classes
    labels: Ids = table[values.clip(-1, _MAX_LABEL + 1)]  # both ends stay unknown
    if (labels < 0).any():
        raise EvaluationError(
            f"{path}: label {int(values[labels < 0][0])} is neither one of the {num_classes} classes nor the "
            f"ignore label {ignore_label}; check how the dataset was prepared"
        )
    return labels


def read_label_values(path: str | Path) -> Ids:
    """Values (H, W) of an 8-bit, palette or 16-bit label map, PNG or TIFF, as they stand there.

    Raises:
        EvaluationError: the file cannot be read, has color channels, or no whole numbers.
    """
    values = _read(path)
    if values.ndim != 2:
        raise EvaluationError(f"{path}: a label map has one channel, this one has {values.shape[2]}")
    return values


def _read(path: str | Path) -> Ids:
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image)
            if pixels.dtype.kind == "f":
                raise ValueError("it holds fractions, labels are whole numbers")
            return pixels.astype(np.int64)
    except FileNotFoundError as error:
        raise EvaluationError(f"{path}: ground truth not found; prepare the dataset again") from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
        raise EvaluationError(f"{path}: cannot be read as an image ({error}); prepare it again") from error
