# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Cityscapes evaluator: mIoU, iIoU and AP of the official scripts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from cmpf.common import distributed
from cmpf.errors import EvaluationError
from cmpf.evaluation import cityscapes_scripts as scripts
from cmpf.evaluation.evaluator import (
    ImageId,
    Metrics,
    Results,
    check_new_image,
    check_size,
    describe,
    gather_by_image,
    mean_over,
    paired,
    required,
    seen_groups,
    to_array,
)
from cmpf.evaluation.instance import checked_instances
from cmpf.evaluation.semantic import best_labels, predicted_indices, semantic_metrics
from cmpf.formats.image import write_image
from cmpf.formats.label_map import write_labels
from cmpf.types import InstanceResult, ModelResult, Sample

_TRAIN_IDS, _LABEL_IDS, _INSTANCE_IDS = "_labelTrainIds", "_labelIds", "_instanceIds"


@dataclass(frozen=True)
class _ImageFiles:
    """Ground truth and predictions of one image, in the official format (None = the task is not evaluated)."""

    true_labels: Path
    true_instances: Path
    labels: Path | None
    instances: Path | None


class CityscapesEvaluator:
    """Evaluates official mIoU, iIoU ("sem_seg") and AP ("segm") from `outputs["sem_seg"]` and `outputs["instances"]`.

    Predictions are written to a temporary folder, which is removed after the evaluation. With several processes, all
    must be on one machine; the main process runs the scripts. The ground truth is `*_labelIds.png` and
    `*_instanceIds.png` next to the sample's `sem_seg_file_name` (`*_labelTrainIds.png`).
    """

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        ignore_label: int = 255,
        seen: Sequence[bool] | None = None,
        semantic: bool = True,
        instance: bool = True,
    ) -> None:
        """
        Args:
            class_names: the 19 classes in the order of Cityscapes' train ids.
            ignore_label: predicted label that means "no class".
            seen: (K,) whether each class was seen in training; None = no metrics for seen and unseen classes.
            semantic, instance: tasks to evaluate.
        Raises:
            EvaluationError: another number of classes, or cityscapesscripts is not installed.
        """
        if len(class_names) != scripts.CLASSES:
            raise EvaluationError(
                f"{len(class_names)} classes; the official Cityscapes evaluation has {scripts.CLASSES}: "
                "use the vocabulary cityscapes_19, or the evaluators panoptic, instance and semantic"
            )
        self._names = tuple(class_names)
        self._ignore_label = ignore_label
        self._groups = seen_groups(seen, len(self._names))
        self._semantic, self._instance = semantic, instance
        self._label_ids = np.append(
            scripts.label_ids(), np.uint8(0)
        )  # "no class" becomes label id 0, unlabeled
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files: dict[ImageId, _ImageFiles] = {}

    def reset(self) -> None:
        """Clears all images and their files."""
        self._files = {}
        if self._folder is not None:
            self._folder.cleanup()
        self._folder = None

    def process(self, inputs: Sequence[Sample], outputs: Sequence[ModelResult]) -> None:
        """Writes the predictions of a batch; see Evaluator."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="cmpf-cityscapes-")
        root = Path(self._folder.name)
        tasks = {"sem_seg": self._semantic, "instances": self._instance}
        predictions = {
            key: [prediction for _, prediction in paired(inputs, outputs, key)]
            for key, enabled in tasks.items()
            if enabled
        }
        for index, sample in enumerate(inputs):
            image_id = required(sample, "image_id")
            check_new_image(image_id, self._files, describe(sample))
            true_labels, true_instances = self._truth(sample)
            stem = f"{len(self._files)}_{true_labels.stem.removesuffix(_LABEL_IDS)}"
            labels = instances = None
            if self._semantic:
                labels = root / f"{stem}.png"
                self._write_labels(labels, sample, predictions["sem_seg"][index])
            if self._instance:
                instances = root / f"{stem}.txt"
                self._write_instances(instances, sample, predictions["instances"][index])
            self._files[image_id] = _ImageFiles(true_labels, true_instances, labels, instances)

    def _truth(self, sample: Sample) -> tuple[Path, Path]:
        """Paths of the label ids and the instance ids."""
        path = Path(required(sample, "sem_seg_file_name"))
        labels, instances = (
            path.with_name(path.name.replace(_TRAIN_IDS, suffix)) for suffix in (_LABEL_IDS, _INSTANCE_IDS)
        )
        for file in (labels, instances):
            if _TRAIN_IDS not in path.name or not file.is_file():
                raise EvaluationError(
                    f"{file}: official ground truth not found beside {path}; unpack gtFine_trainvaltest.zip "
                    "of Cityscapes, which has *_labelIds.png and *_instanceIds.png"
                )
        return labels, instances

    def _write_labels(self, path: Path, sample: Sample, prediction: Tensor | npt.NDArray[Any]) -> None:
        count = len(self._names)
        labels = to_array(best_labels(sample, prediction, count))
        check_size(describe(sample), labels.shape, (required(sample, "height"), required(sample, "width")))
        indices = predicted_indices(
            labels, num_classes=count, ignore_label=self._ignore_label, where=describe(sample)
        )
        write_labels(path, self._label_ids[indices], durable=False)

    def _write_instances(self, path: Path, sample: Sample, instances: InstanceResult) -> None:
        masks, _, scores, classes = checked_instances(sample, instances)
        lines = []
        for number, (mask, score, category) in enumerate(
            zip(masks, scores.tolist(), classes.tolist(), strict=True)
        ):
            if not 0 <= category < len(self._names):
                raise EvaluationError(
                    f"{describe(sample)}: prediction with class index {category}; allowed are 0..18"
                )
            name = f"{path.stem}_{number}.png"
            write_image(path.with_name(name), mask.astype(np.uint8) * np.uint8(255), durable=False)
            lines.append(f"{name} {self._label_ids[category]} {score!r}\n")
        path.write_text("".join(lines), encoding="utf-8")

    def evaluate(self) -> Results:
        """Returns {"sem_seg": {mIoU, iIoU, IoU_sup, iIoU_sup, ..., IoU-name}, "segm": {AP, AP50, ..., AP-name}} in %.

        mIoU averages over classes in the ground truth or the predictions, as the scripts do (equal to mIoU_union); the
        other semantic metrics are those of SemanticEvaluator, computed from the scripts' confusion matrix.
        """
        files = list(gather_by_image(self._files).values())
        results = _compute_on_main(lambda: self._run_scripts(files))
        self.reset()
        return results

    def _run_scripts(self, files: Sequence[_ImageFiles]) -> Results:
        results: Results = {}
        if self._semantic:
            results["sem_seg"] = self._semantic_metrics(files)
        if self._instance:
            results["segm"] = self._instance_metrics(files)
        return results

    def _semantic_metrics(self, files: Sequence[_ImageFiles]) -> Metrics:
        count = len(self._names)
        if not files:
            return semantic_metrics(np.zeros((count, count + 1)), self._names, self._groups)
        pairs = [(f.labels, f.true_labels) for f in files if f.labels is not None]
        scores = scripts.pixel_scores([p for p, _ in pairs], [t for _, t in pairs])
        metrics = semantic_metrics(scores.confusion, self._names, self._groups)
        official = {name: 100.0 * value for name, value in scores.averages.items()}
        for prefix, classes in self._groups:
            official[f"{prefix}mIoU"] = 100.0 * mean_over(
                scores.class_iou, classes & ~np.isnan(scores.class_iou)
            )
        return {**official, **{name: value for name, value in metrics.items() if name not in official}}

    def _instance_metrics(self, files: Sequence[_ImageFiles]) -> Metrics:
        ap, ap_50 = np.full((2, len(self._names)), np.nan)
        metrics: Metrics = {}
        if files:
            pairs = [(f.instances, f.true_instances) for f in files if f.instances is not None]
            root = Path(tempfile.gettempdir())
            scores = scripts.instance_scores([p for p, _ in pairs], [t for _, t in pairs], root=root)
            ap, ap_50 = scores.class_ap, scores.class_ap_50
        for prefix, classes in self._groups:
            metrics[f"{prefix}AP"] = 100.0 * mean_over(ap, classes & ~np.isnan(ap))
            metrics[f"{prefix}AP50"] = 100.0 * mean_over(ap_50, classes & ~np.isnan(ap_50))
        metrics.update({f"AP-{n}": 100.0 * float(v) for n, v in zip(self._names, ap, strict=True)})
        return metrics


def _compute_on_main(compute: Callable[[], Results]) -> Results:
    """Runs a function in the main process and returns its result in all; an exception there is raised in all."""
    result: Results | str = ""
    failure: Exception | None = None
    try:
        result = compute() if distributed.is_main() else ""
    except Exception as error:  # the other processes wait for a broadcast in any case
        failure, result = error, str(error)
    result = distributed.from_main(result)
    if failure is not None:
        raise failure
    if isinstance(result, str):
        raise EvaluationError(result)
    return result
