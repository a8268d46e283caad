# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What a preparation consists of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple


@dataclass(frozen=True, kw_only=True)
class Item:
    """One unit of work: source files -> target files.

    sources: read; the first one names the item in reports.
    targets: written, each whole or not at all (cmpf.common.files.replacing); the item is done when all are there.
    data: anything else that the item's functions need; must go through pickle.
    """

    sources: tuple[Path, ...]
    targets: tuple[Path, ...] = ()
    data: Any = None

    @property
    def source(self) -> Path:
        """The first source."""
        return self.sources[0]

    @property
    def target(self) -> Path:
        """The first target."""
        return self.targets[0]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One part of a preparation: files made from files, a JSON file about all of them, or both.

    title: such as "labels of val".
    items: in the order in which `assemble` sees their records.
    convert: makes the targets of one item.
    describe: the record of one item, for `assemble`; may read sources and targets.
    assemble: the content of the JSON file from all records. May raise DatasetError.
    json: where the content goes; needs describe and assemble.
    """

    title: str
    items: Sequence[Item]
    convert: Callable[[Item], None] | None = None
    describe: Callable[[Item], Any] | None = None
    assemble: Callable[[list[Any]], Mapping[str, Any]] | None = None
    json: Path | None = None


class Issue(NamedTuple):
    """Something wrong in a prepared tree."""

    kind: str  # a heading, such as "sizes that differ from the image's"
    name: str  # the file, and what was found in it


@dataclass(frozen=True, kw_only=True)
class Check:
    """One part of checking a prepared tree.

    title: such as "labels of val".
    images: how many were found, to be compared with the release; None = not counted.
    issues: what listings alone show.
    items: arguments of `examine`.
    examine: looks into the files of one item; exceptions about damaged files count as issues too.
    """

    title: str
    images: int | None = None
    issues: Sequence[Issue] = ()
    items: Sequence[Any] = ()
    examine: Callable[[Any], list[Issue]] | None = None


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """One script. Functions are called with the root of all datasets and the split.

    script: its file name, for advice in messages.
    title: name of the dataset.
    description: for --help.
    download: page where the raw release can be had.
    images: split -> images in the release; its keys are the splits.
    raw: files and folders that must be there before `plan` is asked.
    plan: what to do; finds items by listing folders. May raise DatasetError. No steps = nothing to make.
    prepared: files and folders that must be there before `checks` is asked.
    checks: how to verify the prepared tree. May raise DatasetError.
    """

    script: str
    title: str
    description: str
    download: str
    images: Mapping[str, int]
    raw: Callable[[Path, str], Sequence[Path]]
    plan: Callable[[Path, str], Sequence[Step]]
    prepared: Callable[[Path, str], Sequence[Path]]
    checks: Callable[[Path, str], Sequence[Check]]
