# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Runs the official Cityscapes evaluation (package cityscapesscripts) on prediction files."""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from cmpf.errors import EvaluationError

CLASSES = 19
_PIXELS = "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling"
_INSTANCES = "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling"
_READER = "cityscapesscripts.evaluation.instances2dict"


@dataclass(frozen=True)
class PixelScores:
    """Results of the pixel-level script, 0..1.

    averages: mean IoU over classes and categories, and iIoU (pixels weighted by the size of their instance).
    class_iou: (19,), NaN for a class that is neither in the ground truth nor in the predictions.
    confusion: (19, 20) number of pixels by true and predicted class; the last column is for all other labels.
    """

    averages: dict[str, float]
    class_iou: npt.NDArray[np.float64]
    confusion: npt.NDArray[np.float64]


@dataclass(frozen=True)
class InstanceScores:
    """Results of the instance-level script, 0..1: AP and AP at IoU 0.5 of each class (19,), NaN for stuff classes."""

    class_ap: npt.NDArray[np.float64]
    class_ap_50: npt.NDArray[np.float64]


def label_ids() -> npt.NDArray[np.uint8]:
    """(19,) Cityscapes label id of each train id (our class index).

    Raises:
        EvaluationError: cityscapesscripts is not installed.
    """
    table = _module("cityscapesscripts.helpers.labels").trainId2label
    return np.array([table[k].id for k in range(CLASSES)], dtype=np.uint8)


def pixel_scores(predictions: Sequence[Path], truths: Sequence[Path]) -> PixelScores:
    """Evaluates label-id PNGs against `*_gtFine_labelIds.png`, with `*_instanceIds.png` in the same folder."""
    module = _script(_PIXELS)
    arguments = copy.copy(module.args)
    arguments.quiet, arguments.JSONOutput = True, False
    with _isolated():
        results = module.evaluateImgLists([str(p) for p in predictions], [str(t) for t in truths], arguments)
    ids = label_ids().astype(np.int64)
    confusion = np.array(results["confMatrix"], dtype=np.float64)[ids]
    other_labels = np.delete(confusion, ids, axis=1).sum(axis=1, keepdims=True)
    return PixelScores(
        averages={
            "mIoU": results["averageScoreClasses"],
            "iIoU": results["averageScoreInstClasses"],
            "IoU_sup": results["averageScoreCategories"],
            "iIoU_sup": results["averageScoreInstCategories"],
        },
        class_iou=np.array([results["classScores"][name] for name in _class_names()]),
        confusion=np.concatenate([confusion[:, ids], other_labels], axis=1),
    )


def instance_scores(predictions: Sequence[Path], truths: Sequence[Path], *, root: Path) -> InstanceScores:
    """Evaluates instance lists (lines of `mask.png label-id score`) against `*_gtFine_instanceIds.png`.

    Repeats the steps of the script's evaluateImgLists, which would write files to the working directory and cache
    ground truth in the folder of the package.

    Args:
        root: common parent folder of all predictions.
    """
    module, reader = _script(_INSTANCES), _module(_READER)
    arguments = copy.copy(module.args)
    arguments.quiet, arguments.predictionPath = True, os.path.abspath(root)
    paths = [str(truth) for truth in truths]
    with _isolated():
        module.setInstanceLabels(arguments)
        instances = reader.instances2dict(paths)
        matches = module.matchGtWithPreds([str(p) for p in predictions], paths, instances, arguments)
        results = module.computeAverages(module.evaluateMatches(matches, arguments), arguments)
    undefined = {"ap": float("nan"), "ap50%": float("nan")}
    classes = [results["classes"].get(name, undefined) for name in _class_names()]
    return InstanceScores(
        class_ap=np.array([float(c["ap"]) for c in classes]),
        class_ap_50=np.array([float(c["ap50%"]) for c in classes]),
    )


def _class_names() -> list[str]:
    """Class names of the scripts, in the order of the train ids."""
    table = _module("cityscapesscripts.helpers.labels").trainId2label
    return [table[k].name for k in range(CLASSES)]


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EvaluationError(
            f"the official Cityscapes evaluation needs the package cityscapesscripts ({error}); "
            "pip install 'cmpf[cityscapes]', or pip install cityscapesscripts"
        ) from error


class _NumpyWithIn1d(ModuleType):
    """numpy with `in1d`, which the scripts use and numpy 2.4 has removed."""

    in1d = staticmethod(np.isin)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@cache
def _script(name: str) -> Any:
    """Imports a private copy of a script module, patched for current numpy."""
    spec = _module(name).__spec__
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module)["np"] = _NumpyWithIn1d("numpy")
    return module


@contextlib.contextmanager
def _isolated() -> Iterator[None]:
    """Suppresses a script's output and its warnings about empty means, and turns its exit into an EvaluationError."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    except SystemExit as error:
        reason = output.getvalue().strip().removeprefix("ERROR: ")
        raise EvaluationError(f"the official Cityscapes evaluation stopped: {reason}") from error
