# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Builds evaluations: test loaders and evaluators of the configuration's datasets."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from cmpf.common import distributed
from cmpf.common.tensors import find_device
from cmpf.config import Config
from cmpf.data import Dataset, DatasetMapper, ResizeShortestEdge, get_dataset
from cmpf.data.datasets.catalog import locate_dataset
from cmpf.data.loader import InferenceLoader
from cmpf.data.loader import build_test_loader as data_test_loader
from cmpf.errors import ConfigError
from cmpf.evaluation import (
    CityscapesEvaluator,
    Evaluator,
    InstanceEvaluator,
    LVISEvaluator,
    MaskRecallEvaluator,
    PanopticEvaluator,
    Results,
    SemanticEvaluator,
    evaluate,
    read_frequencies,
)
from cmpf.factory.encoders import loader_workers
from cmpf.factory.model import evaluation_size
from cmpf.factory.parts import part
from cmpf.factory.vocabularies import build_dataset
from cmpf.inference import InferenceSettings
from cmpf.inference.semantic import Views, augmented_semantic
from cmpf.model import CMPF
from cmpf.registry import import_plugins, register
from cmpf.types import ModelResult, Sample

logger = logging.getLogger(__name__)


def build_evaluation(cfg: Config, model: CMPF) -> Callable[[], dict[str, Results]]:
    """Builds a function that evaluates the model on every dataset of DATASETS.TEST.

    Missing datasets, packages and files are reported here, not after hours of training.

    Returns:
        A function that returns {dataset: {task: {metric: percent}}}.
    Raises:
        DatasetError: a dataset is unknown or not on disk.
        EvaluationError: an evaluator lacks a package or a file.
    """
    datasets = [build_dataset(cfg, name) for name in cfg.DATASETS.TEST]
    for dataset in datasets:
        dataset.require(*truth_readers(cfg, dataset))
    # Built once, because those of LVIS and Cityscapes read files of the dataset.
    evaluators = {dataset.name: build_evaluators(cfg, model, dataset) for dataset in datasets}

    def run() -> dict[str, Results]:
        return {
            dataset.name: _evaluate(cfg, model, dataset, evaluators[dataset.name]) for dataset in datasets
        }

    return run


def require_datasets(cfg: Config, *, training: bool) -> None:
    """Checks at once that the datasets are on disk, before a model is loaded or encoders are downloaded for them.

    Args:
        training: whether the dataset of DATASETS.TRAIN is needed, too.
    Raises:
        DatasetError: a dataset is unknown or not on disk.
    """
    import_plugins(cfg.MODEL.CMPF.PLUGINS)  # a dataset may have a reader of its own
    if training:
        get_dataset(cfg.DATASETS.TRAIN[0])
    for dataset in map(locate_dataset, cfg.DATASETS.TEST):
        dataset.require(*truth_readers(cfg, dataset))


def inference_over(
    model: CMPF, dataset: Dataset, views: Views | None = None
) -> Callable[[list[Sample]], list[ModelResult]]:
    """A function that runs the model on a batch with the vocabulary of a dataset.

    Args:
        model: the model.
        dataset: its vocabulary is used.
        views: test-time augmentation: the semantic results of these views are averaged. None = the image only.
    """

    def infer(batch: list[Sample], settings: InferenceSettings | None = None) -> list[ModelResult]:
        return model.infer(batch, dataset.vocabulary, settings)

    def infer_views(batch: list[Sample]) -> list[ModelResult]:
        if views is None:
            return infer(batch)
        return augmented_semantic(infer, batch, views=views, settings=model.settings)

    return infer_views


def build_views(cfg: Config) -> Views | None:
    """The views of test-time augmentation; None if it is off."""
    aug = cfg.TEST.AUG
    return Views(short_sides=aug.MIN_SIZES, max_side=aug.MAX_SIZE, flip=aug.FLIP) if aug.ENABLED else None


def build_test_loader(cfg: Config, dataset: Dataset) -> InferenceLoader:
    """Batches of TEST.IMS_PER_BATCH images from this process's share of a dataset.

    Images are resized to the test size, except with TEST.AUG, whose views are made from images of the original size.
    """
    short_side, max_side = evaluation_size(cfg, dataset.spec)
    resize = [] if cfg.TEST.AUG.ENABLED else [ResizeShortestEdge(short_side=short_side, max_side=max_side)]
    mapper = DatasetMapper(augmentations=resize, target=None, image_pad=0)
    return data_test_loader(
        dataset.samples_for(*truth_readers(cfg, dataset)),
        mapper=mapper,
        batch_size=cfg.TEST.IMS_PER_BATCH,
        num_workers=loader_workers(cfg),
        pin_memory=find_device(cfg.MODEL.DEVICE).type == "cuda",
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )


def truth_readers(cfg: Config, dataset: Dataset) -> tuple[str, ...]:
    """The dataset's evaluators whose ground truth must be read: those of enabled tasks, or all with TEST.EVALUATORS."""
    test = cfg.MODEL.MASK_FORMER.TEST
    off = {
        "instance": not test.INSTANCE_ON,
        "semantic": not test.SEMANTIC_ON,
        "cityscapes": not (test.SEMANTIC_ON or test.INSTANCE_ON),
    }
    custom = bool(cfg.TEST.EVALUATORS)  # these may use any ground truth
    return tuple(name for name in dataset.spec.evaluators if custom or not off.get(name, False))


def build_evaluators(cfg: Config, model: CMPF, dataset: Dataset) -> list[Evaluator]:
    """The dataset's evaluators for the configuration's enabled tasks, and those of TEST.EVALUATORS.

    Raises:
        ConfigError: no evaluator is left, or a name is unknown.
    """
    import_plugins(cfg.MODEL.CMPF.PLUGINS)
    test = cfg.MODEL.MASK_FORMER.TEST
    flags = {"panoptic": test.PANOPTIC_ON, "instance": test.INSTANCE_ON, "semantic": test.SEMANTIC_ON}
    tasks = frozenset(task for task, on in flags.items() if on)
    recall = ("mask_recall",) if test.MASK_RECALL else ()
    evaluators: list[Evaluator] = []
    for name in dict.fromkeys((*dataset.spec.evaluators, *recall, *cfg.TEST.EVALUATORS)):
        make = part("evaluator", name, cfg, like=_panoptic)
        seen = dataset.vocabulary.seen_for(model.train_vocabulary)
        evaluator = make(dataset=dataset, seen=seen, tasks=tasks)
        evaluators += [] if evaluator is None else [evaluator]
    if not evaluators:
        offers = ", ".join(dataset.spec.evaluators) or "no ground truth, which only a test server has"
        raise ConfigError(
            f"{dataset.name}: nothing to evaluate. It offers {offers}; switch on one of "
            "PANOPTIC_ON, INSTANCE_ON (instance, lvis, cityscapes) and SEMANTIC_ON (semantic, cityscapes) in "
            "MODEL.MASK_FORMER.TEST, or name an evaluator in TEST.EVALUATORS"
        )
    return evaluators


@register("evaluator", "panoptic")
def _panoptic(*, dataset: Dataset, seen: Sequence[bool], tasks: frozenset[str]) -> Evaluator | None:
    words = dataset.vocabulary
    if "panoptic" not in tasks:
        return None
    return PanopticEvaluator(class_names=words.names, is_thing=words.is_thing, seen=seen)


@register("evaluator", "instance")
def _instance(*, dataset: Dataset, seen: Sequence[bool], tasks: frozenset[str]) -> Evaluator | None:
    if "instance" not in tasks:
        return None
    return InstanceEvaluator(class_names=dataset.vocabulary.names, seen=seen)


@register("evaluator", "lvis")
def _lvis(*, dataset: Dataset, seen: Sequence[bool], tasks: frozenset[str]) -> Evaluator | None:
    if "instance" not in tasks:
        return None
    spec, names = dataset.spec, dataset.vocabulary.names
    truth = dataset.folder / spec.truth["annotations"]
    frequencies = read_frequencies(truth, num_classes=len(names), class_of_id=spec.class_of_id)
    return LVISEvaluator(class_names=names, frequencies=frequencies, seen=seen)


@register("evaluator", "semantic")
def _semantic(*, dataset: Dataset, seen: Sequence[bool], tasks: frozenset[str]) -> Evaluator | None:
    spec = dataset.spec
    if "semantic" not in tasks:
        return None
    return SemanticEvaluator(
        class_names=dataset.vocabulary.names,
        seen=seen,
        ignore_label=spec.ignore_label,
        class_of_id=spec.class_of_label,
    )


@register("evaluator", "cityscapes")
def _cityscapes(*, dataset: Dataset, seen: Sequence[bool], tasks: frozenset[str]) -> Evaluator | None:
    if not tasks & {"semantic", "instance"}:
        return None
    return CityscapesEvaluator(
        class_names=dataset.vocabulary.names,
        ignore_label=dataset.spec.ignore_label,
        seen=seen,
        semantic="semantic" in tasks,
        instance="instance" in tasks,
    )


@register("evaluator", "mask_recall")
def _mask_recall(*, dataset: Dataset, seen: Sequence[bool], tasks: frozenset[str]) -> Evaluator | None:
    spec = dataset.spec
    if spec.kind == "instance":  # recall needs label maps as ground truth
        return None
    return MaskRecallEvaluator(
        class_names=dataset.vocabulary.names,
        seen=seen,
        ignore_label=spec.ignore_label,
        class_of_id=spec.class_of_label,
    )


def _evaluate(cfg: Config, model: CMPF, dataset: Dataset, evaluators: Sequence[Evaluator]) -> Results:
    loader = build_test_loader(cfg, dataset)
    started = time.perf_counter()
    results = evaluate(inference_over(model, dataset, build_views(cfg)), loader, evaluators, progress=True)
    for evaluator in evaluators:
        evaluator.reset()  # frees memory for the training that may continue
    seconds = time.perf_counter() - started
    count = len(dataset.samples_for(*truth_readers(cfg, dataset)))
    logger.info(
        "%s: %d images in %.1f s, %.3g per second including evaluators",
        dataset.name,
        count,
        seconds,
        count / seconds,
    )
    return results
