# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Calls the official Cityscapes evaluation (package cityscapesscripts) on prediction files."""

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
    """What the pixel-level script finds, fractions of 1.

    averages: IoU over classes and categories, and iIoU (pixels weighted by the size of their instance).
    class_iou: (19,), NaN where a class is neither true nor predicted.
    confusion: (19, 20) pixels by true and predicted class; the last column is every other label.
    """

    averages: dict[str, float]
    class_iou: npt.NDArray[np.float64]
    confusion: npt.NDArray[np.float64]


@dataclass(frozen=True)
class InstanceScores:
    """What the instance-level script finds: AP and AP at IoU 0.5 of each class (19,), NaN for stuff classes."""

    average: float
    average_50: float
    class_ap: npt.NDArray[np.float64]
    class_ap_50: npt.NDArray[np.float64]


def label_ids() -> npt.NDArray[np.uint8]:
    """(19,) Cityscapes label id of each train id, which is our class index.

    Raises:
        EvaluationError: cityscapesscripts is not installed.
    """
    table = _module("cityscapesscripts.helpers.labels").trainId2label
    return np.array([table[k].id for k in range(CLASSES)], dtype=np.uint8)


def pixel_scores(predictions: Sequence[Path], truths: Sequence[Path]) -> PixelScores:
    """Scores of label-id PNGs against `*_gtFine_labelIds.png`, beside which `*_instanceIds.png` lie."""
    module = _script(_PIXELS)
    arguments = copy.copy(module.args)
    arguments.quiet, arguments.JSONOutput = True, False
    with _guarded():
        found = module.evaluateImgLists([str(p) for p in predictions], [str(t) for t in truths], arguments)
    ids = label_ids().astype(np.int64)
    confusion = np.array(found["confMatrix"], dtype=np.float64)[ids]
    elsewhere = np.delete(confusion, ids, axis=1).sum(axis=1, keepdims=True)
    names = _class_names()
    return PixelScores(
        averages={
            "mIoU": found["averageScoreClasses"],
            "iIoU": found["averageScoreInstClasses"],
            "IoU_sup": found["averageScoreCategories"],
            "iIoU_sup": found["averageScoreInstCategories"],
        },
        class_iou=np.array([found["classScores"][name] for name in names]),
        confusion=np.concatenate([confusion[:, ids], elsewhere], axis=1),
    )


def instance_scores(predictions: Sequence[Path], truths: Sequence[Path], *, root: Path) -> InstanceScores:
    """Scores of instance lists (`mask.png label-id score` a line) against `*_gtFine_instanceIds.png`.

    The steps of the script's own evaluateImgLists, which would leave files in the working folder and keep the
    ground truth of an earlier call in the folder of the package.

    Args:
        root: folder below which all predictions lie.
    """
    module, reader = _script(_INSTANCES), _module(_READER)
    arguments = copy.copy(module.args)
    arguments.quiet, arguments.predictionPath = True, os.path.abspath(root)
    paths = [str(truth) for truth in truths]
    with _guarded():
        module.setInstanceLabels(arguments)
        instances = reader.instances2dict(paths)
        matches = module.matchGtWithPreds([str(p) for p in predictions], paths, instances, arguments)
        found = module.computeAverages(module.evaluateMatches(matches, arguments), arguments)
    undefined = {"ap": float("nan"), "ap50%": float("nan")}
    classes = [found["classes"].get(name, undefined) for name in _class_names()]
    return InstanceScores(
        average=float(found["allAp"]),
        average_50=float(found["allAp50%"]),
        class_ap=np.array([float(c["ap"]) for c in classes]),
        class_ap_50=np.array([float(c["ap50%"]) for c in classes]),
    )


def _class_names() -> list[str]:
    """The scripts' own names, in the order of the train ids."""
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


class _OldNumpy(ModuleType):
    """numpy with the name that the scripts still use and numpy 2.4 no longer has."""

    in1d = staticmethod(np.isin)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@cache
def _script(name: str) -> Any:
    """A copy of a script for this module alone, with a numpy that has what the script asks of it."""
    module = _module(name)
    spec = module.__spec__
    own = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(own)
    vars(own)["np"] = _OldNumpy("numpy")
    return own


@contextlib.contextmanager
def _guarded() -> Iterator[None]:
    """Makes a script behave: no output, no exit of the process, no warnings about empty means."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    except SystemExit as error:
        reason = said.getvalue().strip().removeprefix("ERROR: ")
        raise EvaluationError(f"the official Cityscapes evaluation stopped: {reason}") from error
