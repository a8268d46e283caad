# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""CMPF's evaluators and test-time augmentation for Detectron2, and Detectron2's COCO evaluator for CMPF's classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator

from cmpf.detectron2.conversion import to_detectron2, to_result, to_samples
from cmpf.detectron2.datasets import instances_file
from cmpf.detectron2.meta_arch import CMPF
from cmpf.evaluation import Evaluator, Results
from cmpf.inference import InferenceSettings
from cmpf.inference.semantic import Views, augmented_semantic
from cmpf.types import ModelResult, Sample


class Evaluators(DatasetEvaluator):  # type: ignore[misc]
    """Wraps several of CMPF's evaluators as one of Detectron2.

    Args:
        evaluators: evaluators of different tasks. They gather over processes themselves.
    """

    def __init__(self, evaluators: Sequence[Evaluator]) -> None:
        self._evaluators = tuple(evaluators)

    def reset(self) -> None:
        """Resets all evaluators."""
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: Sequence[Sample], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Adds a batch with outputs in Detectron2's format."""
        results = [to_result(output) for output in outputs]
        for evaluator in self._evaluators:
            evaluator.process(inputs, results)

    def evaluate(self) -> Results:
        """Returns {task: {metric: percent}}."""
        return {task: metrics for e in self._evaluators for task, metrics in e.evaluate().items()}


class SemanticSegmentorWithTTA:
    """A model with test-time augmentation of its semantic results, e.g. for inference_on_dataset.

    Args:
        cfg: Detectron2's configuration with CMPF's keys; TEST.AUG configures the views of each image.
        model: the model, with scores or class indices as its semantic results.
    """

    def __init__(self, cfg: CfgNode, model: CMPF) -> None:
        aug = cfg.TEST.AUG
        self._views = Views(short_sides=tuple(aug.MIN_SIZES), max_side=aug.MAX_SIZE, flip=aug.FLIP)
        self._model = model

    def __call__(self, batch: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """`sem_seg` of each image. Images should have their original size, because all views are resized from them."""
        model, vocabulary = self._model, self._model.vocabulary_of_batch(batch)

        def infer(samples: list[Sample], settings: InferenceSettings) -> list[ModelResult]:
            return model.infer(samples, vocabulary, settings)

        samples = to_samples(batch, bgr=model.bgr, classes=model.train_vocabulary)
        results = augmented_semantic(infer, samples, views=self._views, settings=model.settings)
        return [to_detectron2(result) for result in results]


class ThingEvaluator(COCOEvaluator):  # type: ignore[misc]
    """Detectron2's COCOEvaluator for datasets whose things are not the first classes, as in ADE20K or ShapeWorld.

    COCOEvaluator needs class indices 0 .. T-1: things are renumbered in the order of their ids in the annotations, and
    instances of stuff are dropped.

    Args:
        dataset_name: a registered dataset with json_file and thing_dataset_id_to_contiguous_id.
        options: arguments of COCOEvaluator.
    """

    def __init__(self, dataset_name: str, **options: Any) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        things = sorted(metadata.thing_dataset_id_to_contiguous_id.items())
        self._thing_of = {index: thing for thing, (_, index) in enumerate(things)}
        own = Metadata(
            name=f"{dataset_name}/things",
            json_file=instances_file(metadata),
            thing_classes=[metadata.stuff_classes[index] for _, index in things],
            thing_dataset_id_to_contiguous_id={identity: thing for thing, (identity, _) in enumerate(things)},
        )
        MetadataCatalog[own.name] = own  # COCOEvaluator looks metadata up by name
        super().__init__(own.name, **options)

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Adds a batch."""
        super().process(inputs, [self._renumber(output) for output in outputs])

    def _renumber(self, output: Mapping[str, Any]) -> dict[str, Any]:
        instances = output["instances"]
        classes = [self._thing_of.get(index, -1) for index in instances.pred_classes.tolist()]
        things = instances[[number for number, thing in enumerate(classes) if thing >= 0]]
        things.pred_classes = things.pred_classes.new_tensor([thing for thing in classes if thing >= 0])
        return {"instances": things}
