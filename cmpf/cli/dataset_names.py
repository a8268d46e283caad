# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Datasets as people write them on a command line: a name of the table, or a YAML file."""

from __future__ import annotations

from pathlib import Path

FILE_ENDINGS = (".yaml", ".yml")


def is_dataset_file(given: str) -> bool:
    """Whether a text means a YAML file, there or not."""
    return given.lower().endswith(FILE_ENDINGS)


def dataset_name(given: str) -> str:
    """The name by which cmpf.data knows it.

    The path of a YAML file becomes absolute, as the name is kept in config.yaml beside the trained weights, which
    people read from other folders too.
    """
    from cmpf.data.datasets.catalog import FILE_PREFIX

    path = given.removeprefix(FILE_PREFIX)
    if given.startswith(FILE_PREFIX) or is_dataset_file(given):
        return f"{FILE_PREFIX}{Path(path).expanduser().absolute()}"
    return given
