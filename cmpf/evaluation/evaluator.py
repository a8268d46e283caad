# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The Evaluator protocol, the evaluation loop, and helpers and input checks that evaluators share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from cmpf.common import distributed
from cmpf.errors import EvaluationError
from cmpf.types import ModelResult, Sample

Metrics = dict[str, float]  # metric -> percent; NaN where it is undefined (no class to average over)
Results = dict[str, Metrics]  # task -> metrics
LOG_INTERVAL = 10.0  # seconds between updates of the progress bar in a log file
Statistic = TypeVar("Statistic")
ImageId = int | str
# Output of the model -> option that enables it, for error messages.
_SWITCHES = {
    "panoptic_seg": "MODEL.MASK_FORMER.TEST.PANOPTIC_ON",
    "sem_seg": "MODEL.MASK_FORMER.TEST.SEMANTIC_ON",
    "instances": "MODEL.MASK_FORMER.TEST.INSTANCE_ON",
    "proposals": "mask recall",
}


class Evaluator(Protocol):
    """Interface of evaluators, as in Detectron2: reset, process each batch, then evaluate.

    An evaluator stores a small statistic per image id, so an image that several processes see (padding by a
    distributed sampler) counts once, and results do not depend on the number of processes. Within one process, a
    repeated image or an invalid prediction is an error. Metric names have no prefix for all classes, `S_` for seen and
    `U_` for unseen classes (only with seen flags), and are `metric-class name` for a single class.
    """

    def reset(self) -> None:
        """Clears all images."""
        ...

    def process(self, inputs: Sequence[Sample], outputs: Sequence[ModelResult]) -> None:
        """Adds a batch of samples and the model's outputs, in the same order.

        Raises:
            EvaluationError: an output is invalid or does not match the ground truth; names the file.
        """
        ...

    def evaluate(self) -> Results:
        """Computes the metrics over the images of all processes. All processes must call it, and all get the result."""
        ...


def evaluate(
    model_call: Callable[[list[Sample]], Sequence[ModelResult]],
    loader: Iterable[list[Sample]],
    evaluators: Sequence[Evaluator],
    *,
    progress: bool,
) -> Results:
    """Runs a model over a loader without gradients, and returns the results of all evaluators.

    With several processes, each evaluates its part of the dataset; all must call this function, and all get the
    results for the whole dataset.

    Args:
        model_call: maps a batch of samples to one output per image, as CMPF.infer does, in evaluation mode.
        loader: yields batches.
        evaluators: reset before use; no two may report the same task.
        progress: show a progress bar (main process only).
    Raises:
        EvaluationError: an output is invalid or does not match the ground truth, two evaluators report the same task,
            or there are no images.
    """
    for evaluator in evaluators:
        evaluator.reset()
    with torch.no_grad():
        bar = tqdm(
            loader,
            desc="evaluate",
            unit="batch",
            disable=not (progress and distributed.is_main()),
            mininterval=0.1 if sys.stderr.isatty() else LOG_INTERVAL,
        )
        num_images = 0
        for batch in bar:
            num_images += len(batch)
            outputs = model_call(batch)
            for evaluator in evaluators:
                evaluator.process(batch, outputs)
    if sum(distributed.gather(num_images)) == 0:
        raise EvaluationError("no image was evaluated; check how the dataset was prepared")
    results: Results = {}
    for evaluator in evaluators:
        for task, metrics in evaluator.evaluate().items():
            if task in results:
                raise EvaluationError(
                    f"two evaluators report the task {task!r}; give each dataset one of a kind"
                )
            results[task] = metrics
    return results


def gather_by_image(local: Mapping[ImageId, Statistic]) -> dict[ImageId, Statistic]:
    """Merges the statistics per image of all processes, keeping the first one of each image.

    The result is sorted by image id, so that floating-point sums do not depend on the distribution of the images.
    Every process of the default group must call it; without a process group, `local` is returned sorted.
    """
    merged: dict[ImageId, Statistic] = {}
    for part in distributed.gather(dict(local)):
        for image_id, statistic in part.items():
            merged.setdefault(image_id, statistic)
    # Integers first, because integers and strings cannot be compared.
    ordered = sorted(merged, key=lambda key: (isinstance(key, str), key))
    return {image_id: merged[image_id] for image_id in ordered}


def paired(
    inputs: Sequence[Sample], outputs: Sequence[ModelResult], output_key: str
) -> Iterator[tuple[Sample, Any]]:
    """Yields pairs of a sample and one of its outputs.

    Args:
        inputs, outputs: a batch, in the same order.
        output_key: "panoptic_seg", "sem_seg", "instances" or "proposals".
    Raises:
        EvaluationError: the lengths differ, or an output lacks the key.
    """
    if len(inputs) != len(outputs):
        raise EvaluationError(
            f"{len(outputs)} outputs for {len(inputs)} inputs; the model must return one per image"
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
    """Returns a field of a sample.

    Raises:
        EvaluationError: the sample lacks it.
    """
    if key not in sample:
        raise EvaluationError(
            f"{describe(sample)}: the sample has no {key!r}; this dataset cannot be evaluated so"
        )
    return sample[key]  # type: ignore[literal-required]


def to_array(values: Tensor | npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Converts a tensor on any device, or an array, to a NumPy array."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def check_size(what: str, predicted: Sequence[int], expected: Sequence[int]) -> None:
    """Checks that two sizes (H, W) are equal.

    Args:
        what: start of the error message; names the file.
    Raises:
        EvaluationError: they differ.
    """
    if tuple(predicted) != tuple(expected):
        raise EvaluationError(
            f"{what}: the prediction is {tuple(predicted)} (H, W) but the ground truth is {tuple(expected)}; "
            "results must be resized to the sample's height and width"
        )


def mean_over(values: npt.NDArray[np.float64], mask: npt.NDArray[np.bool_]) -> float:
    """Mean of the values where `mask` is true; NaN if it is true nowhere."""
    return float(values[mask].mean()) if bool(mask.any()) else float("nan")


def percent_ratio(
    numerator: npt.NDArray[np.float64], denominator: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """100 * numerator / denominator elementwise; NaN where the denominator is 0."""
    undefined = np.full(numerator.shape, np.nan)
    ratio: npt.NDArray[np.float64] = np.divide(numerator, denominator, out=undefined, where=denominator > 0)
    return 100.0 * ratio


def class_flags(name: str, flags: Sequence[bool], num_classes: int) -> npt.NDArray[np.bool_]:
    """Converts flags to a bool array (K,), after checking that there is one per class.

    Raises:
        EvaluationError: there is not.
    """
    if len(flags) != num_classes:
        raise EvaluationError(
            f"{name} has {len(flags)} entries for {num_classes} class names; give one per class"
        )
    return np.asarray(flags, dtype=bool)


def seen_groups(seen: Sequence[bool] | None, num_classes: int) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """Prefix of the metric names and classes (K,) of each group: all, and with `seen` also seen and unseen classes."""
    all_classes = np.ones(num_classes, dtype=bool)
    if seen is None:
        return [("", all_classes)]
    flags = class_flags("seen", seen, num_classes)
    return [("", all_classes), ("S_", flags), ("U_", ~flags)]


_MAX_LISTED = 3  # values in an error message


def check_new_image(image_id: Any, known: Container[Any], where: str) -> None:
    """Checks that an image was not processed before.

    Args:
        known: ids of the images so far.
        where: start of the error message; names the file.
    Raises:
        EvaluationError: `image_id` is in `known`.
    """
    if image_id in known:
        raise EvaluationError(
            f"{where}: image_id {image_id!r} came before; give each image once and call reset() between evaluations"
        )


def to_integers(values: npt.NDArray[Any], what: str) -> npt.NDArray[np.int64]:
    """Converts integers of any numeric dtype to int64.

    Args:
        what: start of the error message; names the file.
    Raises:
        EvaluationError: a value is not an integer, or the dtype is not numeric.
    """
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    if values.dtype.kind != "f":
        raise EvaluationError(f"{what} of type {values.dtype}; expected whole numbers")
    wrong = values[~np.isfinite(values) | (values != np.trunc(values)) | (np.abs(values) >= 2.0**53)]
    if wrong.size:
        raise EvaluationError(f"{what}: {_first_values(wrong)}; expected whole numbers")
    return values.astype(np.int64)


def to_finite(values: npt.NDArray[Any], what: str) -> npt.NDArray[np.float64]:
    """Converts finite numbers of any real dtype to float64.

    Args:
        what: start of the error message; names the file.
    Raises:
        EvaluationError: a value is NaN or infinite, or the dtype is not real.
    """
    if values.dtype.kind not in "iuf":
        raise EvaluationError(f"{what} of type {values.dtype}; expected numbers")
    numbers = values.astype(np.float64)
    if not np.isfinite(numbers).all():
        wrong = _first_values(numbers[~np.isfinite(numbers)])
        raise EvaluationError(f"{what}: {wrong}; expected finite numbers")
    return numbers


def to_masks(values: npt.NDArray[Any], what: str) -> npt.NDArray[np.bool_]:
    """Converts masks of bool, or of 0 and 1 in any real dtype, to bool.

    Args:
        what: start of the error message; names the file.
    Raises:
        EvaluationError: other values.
    """
    if values.dtype.kind != "b":
        other = (values != 0) & (values != 1)
        if values.dtype.kind not in "iuf" or other.any():
            wrong = f": {_first_values(values[other])}" if other.any() else f" of type {values.dtype}"
            raise EvaluationError(f"{what}{wrong}; expected True and False, or 1 and 0")
    masks: npt.NDArray[np.bool_] = values.astype(np.bool_)
    return masks


def _first_values(values: npt.NDArray[Any]) -> str:
    more = ", ..." if values.size > _MAX_LISTED else ""
    return ", ".join(f"{value:g}" for value in values.reshape(-1)[:_MAX_LISTED].tolist()) + more
