# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Finds datasets by name: rows of the table, and YAML files of people's own.

Nothing is looked up before a dataset is asked for; its vocabulary can be had without any of its files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from cmpf.data.datasets.builtin import SPECS
from cmpf.data.datasets.custom import read_dataset_file
from cmpf.data.datasets.spec import Dataset, DatasetSpec
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import DatasetError

ROOT_VARIABLE = "DETECTRON2_DATASETS"
DEFAULT_ROOT = "datasets"
FILE_PREFIX = "file:"  # file:PATH is the dataset of a YAML file
DATASETS: Mapping[str, DatasetSpec] = {row.name: row for row in SPECS}


def dataset_names() -> tuple[str, ...]:
    """Names of all rows, in the order of the table."""
    return tuple(DATASETS)


def dataset_root() -> Path:
    """Where datasets lie: DETECTRON2_DATASETS, else ./datasets."""
    return Path(os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT).expanduser()


def get_spec(name: str) -> DatasetSpec:
    """A row of the table, or the dataset of a YAML file.

    Args:
        name: of a row, or "file:PATH".
    Raises:
        DatasetError: no such row, names the nearest and lists all; or the file is missing or wrong.
    """
    return _locate(name)[0]


def get_vocabulary(name: str) -> Vocabulary:
    """The classes of a dataset, which need not be on disk.

    Raises:
        DatasetError: unknown name, or a wrong file.
        VocabularyError: the vocabulary file is missing or wrong.
    """
    return get_spec(name).vocabulary()


def known_vocabularies() -> tuple[Vocabulary, ...]:
    """Vocabularies of all rows, in the order of the table, each once."""
    return tuple({vocabulary.key: vocabulary for vocabulary in (row.vocabulary() for row in SPECS)}.values())


def get_dataset(name: str) -> Dataset:
    """A dataset below the root of this moment, or that of a YAML file.

    Raises:
        DatasetError: unknown name, a wrong file, or a path is missing: names all paths looked for and the
            command that makes them.
    """
    dataset = locate_dataset(name)
    paths = dataset.paths
    if not all(path.exists() for path in paths):
        looked = ", ".join(f"{path} ({'found' if path.exists() else 'missing'})" for path in paths)
        root, fix = _root_and_fix(name, dataset)
        raise DatasetError(f"{dataset.name}: not on disk ({root}). Looked for {looked}. {fix}")
    return dataset


def locate_dataset(name: str) -> Dataset:
    """A dataset at the place where it should be, whether it is there or not.

    Raises:
        DatasetError: unknown name, or a wrong file.
    """
    return Dataset(*_locate(name))


def _locate(name: str) -> tuple[DatasetSpec, Path]:
    """A dataset's description and folder."""
    if name.startswith(FILE_PREFIX):
        return read_dataset_file(Path(name.removeprefix(FILE_PREFIX)).expanduser(), known=DATASETS)
    if name in DATASETS:
        return DATASETS[name], dataset_root() / DATASETS[name].folder
    near = get_close_matches(name, DATASETS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    own = f"an own dataset is named {FILE_PREFIX}PATH of its YAML file"
    raise DatasetError(f"{name}: unknown dataset; {hint}known are {', '.join(DATASETS)}; {own}")


def _root_and_fix(name: str, dataset: Dataset) -> tuple[str, str]:
    """What an error message says of the place, and of the way out."""
    if name.startswith(FILE_PREFIX):
        file = name.removeprefix(FILE_PREFIX)
        return f"paths are relative to {dataset.folder}, where {file} is", f"Correct the paths in {file}"
    root = os.environ.get(ROOT_VARIABLE) or f"not set, so ./{DEFAULT_ROOT}"
    return f"{ROOT_VARIABLE} = {root}", f"Make it with: {dataset.spec.command_in(dataset.folder)}"
