# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The check of one dataset, by its name or its YAML file."""

from __future__ import annotations

from functools import partial
from typing import Any

from cmpf.data.datasets.catalog import locate_dataset
from cmpf.data.datasets.readers import read_lvis
from cmpf.data.datasets.spec import Dataset
from cmpf.data.datasets.validate.findings import Finding, Findings, Mistake
from cmpf.data.datasets.validate.instances import check_instances
from cmpf.data.datasets.validate.panoptic import check_panoptic
from cmpf.data.datasets.validate.semantic import check_semantic
from cmpf.errors import DatasetError


def check_dataset(name: str, *, progress: bool = False) -> list[Finding]:
    """Opens every file of a dataset and tells what is wrong with it.

    Args:
        name: of a row of the table, or "file:PATH".
        progress: show a bar where there is a terminal.
    Returns:
        All mistakes, in the order of the files; [] means that the reader takes the dataset, too.
    Raises:
        DatasetError: unknown name, or the YAML file itself is wrong.
        VocabularyError: the vocabulary file is missing or wrong.
    """
    dataset = locate_dataset(name)
    findings = Findings()
    for path in dataset.paths:
        if not path.exists():
            command = dataset.spec.command_in(dataset.folder)
            findings.add_absent(path, f"no such file or folder; {command}")
    _check(dataset, findings, progress)
    if not findings.found:
        _read(dataset, findings)
    return findings.found


def _check(dataset: Dataset, findings: Findings, progress: bool) -> None:
    function, options = _parts(dataset.spec.reader)
    if dataset.spec.kind == "semantic":
        check_semantic(dataset, findings, progress=progress, **options)
    elif dataset.spec.kind == "panoptic":
        check_panoptic(dataset, findings, progress=progress, **options)
    else:
        check_instances(dataset, findings, progress=progress, by_url=function is read_lvis)


def _parts(reader: Any) -> tuple[Any, dict[str, Any]]:
    """A reader's function, and how it finds the files of its dataset."""
    if isinstance(reader, partial):
        return reader.func, dict(reader.keywords)
    return reader, {}


def _read(dataset: Dataset, findings: Findings) -> None:
    """What the reader refuses and no check has found, so that the check never promises too much."""
    try:
        if not dataset.samples:
            findings.add(Mistake.MISSING, dataset.folder, "no image is listed")
    except DatasetError as error:
        findings.add(Mistake.OTHER, dataset.folder, str(error))
