# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What can be wrong with a dataset, and where: found by readers, by the check, and when a dataset is prepared."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from cmpf.errors import DatasetError

_NAMED_ISSUES = 20  # of each kind, in a report
_NAMED_IN_ERROR = 3  # of each kind, in one line


class IssueKind(Enum):
    """Kinds of issues; each value is its title and what to do about it."""

    MISSING = "missing file", "put the file there, or correct the path or the name that leads to it"
    DAMAGED = "damaged file", "fetch or make the file again"
    JSON_KIND = "wrong kind of JSON file", "give the file of the dataset's task, or change the task"
    FORM = "not in COCO's form", "repair the entry, or take it out"
    TWICE = "given twice", "keep one of them"
    UNPAIRED = "without partner", "add what is missing, or take the other one out"
    COUNT = "number of images", "unpack or make what is missing; --images 0 accepts any number"
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
class Issue:
    """One thing that is wrong: its kind, the file that has it, and what exactly."""

    kind: IssueKind
    file: Path
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.message}"


class Issues:
    """Collects issues in the order in which they are found."""

    def __init__(self) -> None:
        self.found: list[Issue] = []
        self.notes: dict[str, None] = {}  # what is worth saying and no issue, each once, in order
        self._absent: set[Path] = set()

    def add(self, kind: IssueKind, file: Path, message: str) -> None:
        """One more; what is missing in a folder that is missing itself is no news."""
        if kind is not IssueKind.MISSING or self._absent.isdisjoint((file, *file.parents)):
            self.found.append(Issue(kind, file, message))

    def merge(self, other: Issues) -> None:
        """All that another one has collected, such as in another process."""
        for issue in other.found:
            self.add(issue.kind, issue.file, issue.message)
        self.notes.update(other.notes)

    def add_absent(self, path: Path, message: str) -> None:
        """A file or folder of the dataset is not there at all."""
        self.add(IssueKind.MISSING, path, message)
        self._absent.add(path)

    def raise_any(self, source: Path) -> None:
        """
        Raises:
            DatasetError: there are issues; counts each kind and tells the first few. `source` opens the message.
        """
        if not self.found:
            return
        parts = []
        for kind, same in by_kind(self.found).items():
            # The path that opens the message need not be told again.
            names = [
                str(issue) if issue.file != source else issue.message for issue in same[:_NAMED_IN_ERROR]
            ]
            more = ", ..." if len(same) > len(names) else ""
            parts.append(f"{kind.title} ({len(same)}): {', '.join(names)}{more}")
        raise DatasetError(f"{source}: {'; '.join(parts)}. Repair the dataset or prepare it again")


def by_kind(issues: Iterable[Issue]) -> dict[IssueKind, list[Issue]]:
    """Issues by their kind, in the order in which kinds come first."""
    kinds: dict[IssueKind, list[Issue]] = {}
    for issue in issues:
        kinds.setdefault(issue.kind, []).append(issue)
    return kinds


def issues_text(
    name: str, issues: Sequence[Issue], *, notes: Sequence[str] = (), everything: bool = False
) -> str:
    """Issues by kind, with what to do about each kind.

    Args:
        name: of the dataset, or the part of it that was looked at.
        notes: what is worth saying and no issue, one line each.
        everything: name all; else the first twenty of each kind.
    """
    if not issues:
        return "\n".join(
            [f"{name}: every file was opened, nothing is wrong", *(f"  {note}" for note in notes)]
        )
    parts = [f"{name}: {len(issues):,} issue{'s' if len(issues) > 1 else ''}"]
    for kind, same in by_kind(issues).items():
        shown = same if everything else same[:_NAMED_ISSUES]
        parts.append(f"{kind.title} ({len(same):,}): {kind.fix}")
        parts += [f"  {issue}" for issue in shown]
        if len(shown) < len(same):
            parts.append(f"  and {len(same) - len(shown):,} more; --all names them")
    return "\n".join([*parts, *notes])


def issues_json(issues: Sequence[Issue]) -> str:
    """Issues as a JSON list of {kind, file, message}."""
    rows = [{"kind": issue.kind.name, "file": str(issue.file), "message": issue.message} for issue in issues]
    return json.dumps(rows, ensure_ascii=False, indent=1)
