# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What can be wrong with a dataset, and where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from cmpf.data.datasets.readers.issues import Issues

_NAMED = 5  # values or names in one message


class Mistake(Enum):
    """Kinds of mistakes; each value is its name and what to do about it."""

    MISSING = "missing file", "put the file there, or correct the path or the name that leads to it"
    DAMAGED = "damaged file", "fetch or make the file again"
    JSON_KIND = "wrong kind of JSON file", "give the file of the dataset's task, or change the task"
    FORM = "not in COCO's form", "repair the entry, or take it out"
    TWICE = "given twice", "keep one of them"
    UNPAIRED = "without partner", "add what is missing, or take the other one out"
    CATEGORY = "category that is no class", "add the class to the vocabulary, or map the id by label_map"
    LABEL = "label out of range", "correct the pixels, or name the values by label_map or ignore_label"
    IDS = "segment ids that do not agree", "make the PNG and the JSON file from one source again"
    BIT_DEPTH = "wrong bit depth", "save one channel of 8 or 16 bits, as PNG or TIFF"
    NOT_RGB = "no RGB PNG", "save PNGs of 3 x 8 bits, with id = R + 256 G + 65536 B"
    SIZE = "sizes that differ", "make all from one version of the image"
    EMPTY = "empty mask", "take the entry out, or draw its mask"
    OTHER = "refused by the reader", "see the message"

    @property
    def title(self) -> str:
        """Its name."""
        return self.value[0]

    @property
    def fix(self) -> str:
        """What to do about it."""
        return self.value[1]


@dataclass(frozen=True)
class Finding:
    """One mistake: its kind, the file that has it, and what exactly is wrong."""

    mistake: Mistake
    file: Path
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.message}"


class Findings:
    """Collects findings in the order in which they are made."""

    def __init__(self) -> None:
        self.found: list[Finding] = []
        self._absent: set[Path] = set()

    def add(self, mistake: Mistake, file: Path, message: str) -> None:
        """One more; what is missing in a folder that is missing itself is no news."""
        if mistake is not Mistake.MISSING or self._absent.isdisjoint((file, *file.parents)):
            self.found.append(Finding(mistake, file, message))

    def add_absent(self, path: Path, message: str) -> None:
        """A file or folder of the dataset is not there at all."""
        self.add(Mistake.MISSING, path, message)
        self._absent.add(path)


class DoubledNames(Issues):
    """What `find_images` tells, as findings: names that two files of a folder have."""

    def __init__(self, findings: Findings, folder: Path) -> None:
        super().__init__()
        self._findings, self._folder = findings, folder

    def add(self, kind: str, name: object) -> None:
        """One more."""
        self._findings.add(Mistake.TWICE, self._folder, f"{kind}: {name}")


def named(values: Iterable[object]) -> str:
    """The first few of some values as text, and how many more there are."""
    listed = [str(value) for value in values]
    more = len(listed) - _NAMED
    return ", ".join(listed[:_NAMED]) + (f" and {more} more" if more > 0 else "")
