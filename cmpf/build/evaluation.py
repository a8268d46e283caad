# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Wires evaluation: test loaders and evaluators of the datasets that a configuration names."""

from __future__ import annotations

from collections.abc import Callable

from fvcore.common.config import CfgNode

from cmpf.data import Dataset, DatasetMapper, ResizeShortestEdge, get_dataset
from cmpf.data.loader import InferenceLoader
from cmpf.data.loader import build_test_loader as data_test_loader
from cmpf.evaluation import (
    Evaluator,
    InstanceEvaluator,
    MaskRecallEvaluator,
    PanopticEvaluator,
    Results,
    SemanticEvaluator,
    evaluate,
)
from cmpf.model import CMPF
from cmpf.types import ModelResult, Sample


def build_evaluation(cfg: CfgNode, model: CMPF) -> Callable[[], dict[str, Results]]:
    """A call that evaluates the model on every dataset of DATASETS.TEST: {dataset: {task: {metric: percent}}}.

    Raises:
        DatasetError: a dataset is unknown or not on disk; found out here, not after hours of training.
    """
    datasets = [get_dataset(name) for name in cfg.DATASETS.TEST]

    def run() -> dict[str, Results]:
        was_training = model.training
        model.eval()
        try:
            return {dataset.name: _evaluate(cfg, model, dataset) for dataset in datasets}
        finally:
            model.train(was_training)

    return run


def build_test_loader(cfg: CfgNode, dataset: Dataset) -> InferenceLoader:
    """Pictures of a dataset at their test size, one a batch as in the published evaluation."""
    short_side, max_side = dataset.entry.test_size or (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    mapper = DatasetMapper(
        augmentations=[ResizeShortestEdge(short_side=short_side, max_side=max_side)], target=None, image_pad=0
    )
    return data_test_loader(
        dataset.samples,
        mapper=mapper,
        batch_size=cfg.TEST.IMS_PER_BATCH,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def build_evaluators(cfg: CfgNode, model: CMPF, dataset: Dataset) -> list[Evaluator]:
    """Evaluators for what both the dataset's ground truth and the configuration's tasks offer."""
    vocabulary, test = dataset.vocabulary, cfg.MODEL.MASK_FORMER.TEST
    seen = vocabulary.seen_in(model.train_vocabulary)
    names, ignore_label = vocabulary.names, dataset.entry.ignore_label
    evaluators: list[Evaluator] = []
    if test.PANOPTIC_ON and "panoptic" in dataset.entry.evaluators:
        evaluators.append(PanopticEvaluator(class_names=names, is_thing=vocabulary.is_thing, seen=seen))
    if test.INSTANCE_ON and "instance" in dataset.entry.evaluators:
        evaluators.append(InstanceEvaluator(class_names=names, seen=seen))
    if test.SEMANTIC_ON and "semantic" in dataset.entry.evaluators:
        evaluators.append(SemanticEvaluator(class_names=names, ignore_label=ignore_label, seen=seen))
    if test.MASK_RECALL:
        evaluators.append(MaskRecallEvaluator(class_names=names, ignore_label=ignore_label, seen=seen))
    return evaluators


def _evaluate(cfg: CfgNode, model: CMPF, dataset: Dataset) -> Results:
    def call(batch: list[Sample]) -> list[ModelResult]:
        return model.infer(batch, dataset.vocabulary)

    return evaluate(
        call,
        build_test_loader(cfg, dataset),
        build_evaluators(cfg, model, dataset),
        progress=True,
    )
