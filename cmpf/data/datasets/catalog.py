# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Finds datasets by name: specs of the table, and YAML files of people's own.

Nothing is looked up before a dataset is asked for; its vocabulary can be had without any of its files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from cmpf.data.datasets.builtin import SPECS
from cmpf.data.datasets.spec import DEFAULT_ROOT, ROOT_VARIABLE, Dataset, DatasetSpec
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import DatasetError

FILE_PREFIX = "file:"  # file:PATH is the dataset of a YAML file
DATASETS: Mapping[str, DatasetSpec] = {spec.name: spec for spec in SPECS}


def dataset_names() -> tuple[str, ...]:
    """Names of all specs, in the order of the table."""
    return tuple(DATASETS)


def dataset_root() -> Path:
    """Where datasets lie: DETECTRON2_DATASETS, else ./datasets."""
    return Path(os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT).expanduser()


def is_known(name: str) -> bool:
    """Whether a name is one of the table, or means a YAML file."""
    return name in DATASETS or name.startswith(FILE_PREFIX)


def get_spec(name: str) -> DatasetSpec:
    """The spec of a dataset of the table, or the dataset of a YAML file.

    Args:
        name: of a spec, or "file:PATH".
    Raises:
        DatasetError: no such dataset, names the nearest and lists all; or the file is missing or wrong.
    """
    return locate_dataset(name).spec


def get_vocabulary(name: str) -> Vocabulary:
    """The classes of a dataset, which need not be on disk.

    Raises:
        DatasetError: unknown name, or a wrong file.
        VocabularyError: the vocabulary file is missing or wrong.
    """
    return get_spec(name).vocabulary()


def known_vocabularies() -> tuple[Vocabulary, ...]:
    """Vocabularies of all datasets, in the order of the table, each once."""
    return tuple(
        {vocabulary.key: vocabulary for vocabulary in (spec.vocabulary() for spec in SPECS)}.values()
    )


def get_dataset(name: str) -> Dataset:
    """A dataset below the root of this moment, or that of a YAML file.

    Raises:
        DatasetError: unknown name, a wrong file, or a path that training needs is missing, see Dataset.require.
    """
    dataset = locate_dataset(name)
    dataset.require()
    return dataset


def locate_dataset(name: str) -> Dataset:
    """A dataset at the place where it should be, whether it is there or not.

    Raises:
        DatasetError: unknown name, or a wrong file.
    """
    if name.startswith(FILE_PREFIX):
        file = Path(name.removeprefix(FILE_PREFIX)).expanduser()
        from cmpf.data.datasets.custom import read_dataset_file

        return Dataset(*read_dataset_file(file, known=DATASETS), file)
    if name in DATASETS:
        return Dataset(DATASETS[name], dataset_root() / DATASETS[name].folder)
    near = get_close_matches(name, DATASETS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    own = f"an own dataset is named {FILE_PREFIX}PATH of its YAML file"
    raise DatasetError(f"{name}: unknown dataset; {hint}known are {', '.join(DATASETS)}; {own}")
