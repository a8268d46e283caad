# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Words and seen classes of the datasets that a configuration names (DATASETS.VOCABULARIES, DATASETS.SEEN)."""

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
    """A dataset to evaluate, there or not, that is looked at with the words and seen classes of the configuration.

    Raises:
        DatasetError: unknown name, or a wrong YAML file.
        VocabularyError: words that are asked for are not on this machine, or do not fit the dataset.
    """
    dataset = locate_dataset(name)
    words, flags = build_vocabulary(cfg, dataset.spec), _seen_flags(cfg, dataset.spec)
    return replace(dataset, words=words if flags is None else words.with_seen(flags))


def build_train_vocabulary(cfg: Config) -> Vocabulary:
    """Classes of the (first) training dataset; needs no dataset on disk.

    Raises:
        DatasetError, VocabularyError: as build_dataset.
    """
    return build_vocabulary(cfg, get_spec(cfg.DATASETS.TRAIN[0]))


def build_vocabulary(cfg: Config, spec: DatasetSpec) -> Vocabulary:
    """The classes of a dataset in the words that the configuration asks for.

    `published` means the papers' words where there are any: people's own datasets and ShapeWorld keep theirs.
    """
    chosen = cfg.DATASETS.VOCABULARIES
    if isinstance(chosen, Mapping) and spec.name in chosen:
        path = chosen[spec.name]
        classes, _ = parse_vocabulary_text(read_vocabulary_text(path), source=path)
        return other_words(spec, classes, source=path)
    if chosen == PUBLISHED and has_published_words(spec):
        from cmpf.weights.vocabularies import published_text  # downloads of an evaluation

        return published_words(spec, published_text)
    return spec.vocabulary()


def words_of(cfg: Config, spec: DatasetSpec) -> str:
    """Which words these are: "published", "own", or the file."""
    chosen = cfg.DATASETS.VOCABULARIES
    if isinstance(chosen, Mapping):
        return chosen.get(spec.name, "own")
    return chosen if has_published_words(spec) else "own"


def seen_of(cfg: Config, spec: DatasetSpec) -> str:
    """What says which classes are seen: "published" or "words"."""
    return "words" if _seen_flags(cfg, spec) is None else PUBLISHED


def _seen_flags(cfg: Config, spec: DatasetSpec) -> tuple[bool, ...] | None:
    """The published flags, where the configuration wants them and there are any."""
    training = cfg.DATASETS.TRAIN[0]
    if cfg.DATASETS.SEEN != PUBLISHED or not is_known(training):  # one that only Detectron2's catalog knows
        return None
    return published_seen(spec, get_spec(training))


COCO = "openvocab_coco_2017"  # what the names of its training datasets begin with
DEMO_DATASETS = ("openvocab_ade20k_panoptic_val", "openvocab_lvis_v1_val")


def demo_vocabulary(trained: Vocabulary, cfg: Config | None) -> Vocabulary:
    """What is looked for where nobody names words: the classes of the training, of COCO with ADE20K's and LVIS's.

    The latter is the vocabulary of the published demo; a class of which a word is there already is left out.

    Args:
        trained: the model's training vocabulary. cfg: its configuration; None = it was built by hand.
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
