# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What every evaluator offers, what evaluators share and predictions may hold, and the loop that runs them."""

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
QUIET_INTERVAL = 10.0  # seconds between two states of the bar in a log file
Statistic = TypeVar("Statistic")
ImageId = int | str
# Where the model's outputs are switched on, for the error text.
_SWITCHES = {
    "panoptic_seg": "MODEL.MASK_FORMER.TEST.PANOPTIC_ON",
    "sem_seg": "MODEL.MASK_FORMER.TEST.SEMANTIC_ON",
    "instances": "MODEL.MASK_FORMER.TEST.INSTANCE_ON",
    "proposals": "mask recall",
}


class Evaluator(Protocol):
    """Detectron2's protocol: reset, process batch after batch, evaluate once.

    Each keeps one small statistic for each image id, so that an image that several processes see (padding of a
    distributed sampler) counts once, and one process and many give the same numbers. In one process an image that
    comes twice is an error, as is a prediction that holds what no result can be (cmpf/evaluation/evaluator.py).
    Metric names: plain for all classes, `S_` for seen and `U_` for unseen ones (left out when no seen flags
    were given), `metric-class name` for one class.
    """

    def reset(self) -> None:
        """Forgets all images."""
        ...

    def process(self, inputs: Sequence[Sample], outputs: Sequence[ModelResult]) -> None:
        """Adds a batch: the samples and, in the same order, what the model made of them.

        Raises:
            EvaluationError: prediction and ground truth do not fit together; the message names the file.
        """
        ...

    def evaluate(self) -> Results:
        """Metrics over all images of all processes; every process must call it, and all get the result."""
        ...


def evaluate(
    model_call: Callable[[list[Sample]], Sequence[ModelResult]],
    loader: Iterable[list[Sample]],
    evaluators: Sequence[Evaluator],
    *,
    progress: bool,
) -> Results:
    """Results of all evaluators over the batches of a loader, without gradients.

    With several processes each runs its own share of the dataset; all must call this, and all get the results
    of the whole dataset.

    Args:
        model_call: batch of samples -> one result per image; the model is already in evaluation mode.
        loader: batches.
        evaluators: each is reset first; no two may report the same task.
        progress: show a bar on the terminal (first process only).
    Raises:
        EvaluationError: prediction and ground truth do not fit together, two evaluators report one task, or there is
            no image.
    """
    for evaluator in evaluators:
        evaluator.reset()
    with torch.no_grad():
        bar = tqdm(
            loader,
            desc="evaluate",
            unit="batch",
            disable=not (progress and distributed.is_main()),
            mininterval=0.1 if sys.stderr.isatty() else QUIET_INTERVAL,
        )
        images = 0
        for batch in bar:
            images += len(batch)
            outputs = model_call(batch)
            for evaluator in evaluators:
                evaluator.process(batch, outputs)
    if sum(distributed.gather(images)) == 0:
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
    """Merges one statistic per image over all processes; an image that several processes saw is kept once.

    The result is sorted by image id, so that sums of floats do not depend on how images were shared out.
    Every process of the default group must call it; without one, `local` comes back sorted.
    """
    merged: dict[ImageId, Statistic] = {}
    for part in distributed.gather(dict(local)):
        for image_id, statistic in part.items():
            merged.setdefault(image_id, statistic)
    # Numbers before words: ids of both kinds cannot be compared with each other.
    ordered = sorted(merged, key=lambda key: (isinstance(key, str), key))
    return {image_id: merged[image_id] for image_id in ordered}


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
    """Checks that there is one flag per class.

    Raises:
        EvaluationError: the lengths differ.
    """
    if len(flags) != num_classes:
        raise EvaluationError(
            f"{name} has {len(flags)} entries for {num_classes} class names; give one per class"
        )
    return np.asarray(flags, dtype=bool)


def seen_groups(seen: Sequence[bool] | None, num_classes: int) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """Prefixes of metric names and the classes that they stand for: all, and seen and unseen where known."""
    everything = np.ones(num_classes, dtype=bool)
    if seen is None:
        return [("", everything)]
    flags = class_flags("seen", seen, num_classes)
    return [("", everything), ("S_", flags), ("U_", ~flags)]


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


def shown(values: npt.NDArray[Any]) -> str:
    """The first few values, for a message."""
    more = ", ..." if values.size > _NAMED else ""
    return ", ".join(f"{value:g}" for value in values.reshape(-1)[:_NAMED].tolist()) + more
