# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Class names and seen classes of a configuration's datasets (DATASETS.VOCABULARIES, DATASETS.SEEN)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cmpf.config import Config
from cmpf.data import Dataset, DatasetSpec, Vocabulary, get_spec
from cmpf.data.datasets.catalog import is_known, locate_dataset
from cmpf.data.datasets.published import has_published_words, other_words, published_seen, published_words
from cmpf.data.vocabulary_file import parse_vocabulary_text, read_vocabulary_text

PUBLISHED = "published"


def build_dataset(cfg: Config, name: str) -> Dataset:
    """A test dataset with the configured class names and seen classes; it need not be on disk.

    Raises:
        DatasetError: the name is unknown, or a YAML file is invalid.
        VocabularyError: class names are not on this machine or do not fit the dataset.
    """
    dataset = locate_dataset(name)
    words, flags = build_vocabulary(cfg, dataset.spec), _published_seen(cfg, dataset.spec)
    return replace(dataset, words=words if flags is None else words.with_seen(flags))


def build_train_vocabulary(cfg: Config) -> Vocabulary:
    """Classes of the first training dataset, which need not be on disk.

    Raises:
        DatasetError, VocabularyError: see build_dataset.
    """
    return build_vocabulary(cfg, get_spec(cfg.DATASETS.TRAIN[0]))


def build_vocabulary(cfg: Config, spec: DatasetSpec) -> Vocabulary:
    """The vocabulary of a dataset with the class names of DATASETS.VOCABULARIES.

    With `published`, datasets without published class names (custom datasets, ShapeWorld) keep their own.
    """
    source = cfg.DATASETS.VOCABULARIES
    if isinstance(source, Mapping) and spec.name in source:
        path = source[spec.name]
        classes, _ = parse_vocabulary_text(read_vocabulary_text(path), source=path)
        return other_words(spec, classes, source=path)
    if source == PUBLISHED and has_published_words(spec):
        from cmpf.weights.vocabularies import published_text  # only needed here; may download a file

        return published_words(spec, published_text)
    return spec.vocabulary()


def words_of(cfg: Config, spec: DatasetSpec) -> str:
    """The origin of a dataset's class names: "published", "own", or a file."""
    source = cfg.DATASETS.VOCABULARIES
    if isinstance(source, Mapping):
        return source.get(spec.name, "own")
    return source if has_published_words(spec) else "own"


def seen_of(cfg: Config, spec: DatasetSpec) -> str:
    """The origin of a dataset's seen classes: "published" or "words"."""
    return "words" if _published_seen(cfg, spec) is None else PUBLISHED


def _published_seen(cfg: Config, spec: DatasetSpec) -> tuple[bool, ...] | None:
    """The published seen flag of each class; None if there are none or DATASETS.SEEN does not ask for them."""
    training = cfg.DATASETS.TRAIN[0]
    if cfg.DATASETS.SEEN != PUBLISHED or not is_known(
        training
    ):  # Detectron2's catalog may have other datasets
        return None
    return published_seen(spec, get_spec(training))


COCO = "openvocab_coco_2017"  # prefix of the names of its training datasets
DEMO_DATASETS = ("openvocab_ade20k_panoptic_val", "openvocab_lvis_v1_val")


def demo_vocabulary(trained: Vocabulary, cfg: Config | None) -> Vocabulary:
    """The default vocabulary of a prediction: the training classes, and for models trained on COCO ADE20K's and LVIS's.

    This is the vocabulary of the published demo. Classes that share a word with an earlier one are left out.

    Args:
        trained: the model's training vocabulary.
        cfg: the model's configuration; None = it was built without one.
    """
    if cfg is None or not cfg.DATASETS.TRAIN[0].startswith(COCO):
        return trained
    classes, things = list(trained.classes), list(trained.things)
    for name in DEMO_DATASETS:
        words = get_spec(name).vocabulary()
        known = {word for synonyms in classes for word in synonyms}
        for synonyms, is_thing in zip(words.classes, words.is_thing, strict=True):
            if not known.intersection(synonyms):
                things += [len(classes)] if is_thing else []
                classes.append(synonyms)
    return Vocabulary(classes=classes, things=things, repeats=True)
