# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Issues of a dataset (kind, file, message), as collected by readers, validation and preparation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from cmpf.errors import DatasetError

_MAX_IN_REPORT = 20  # issues of each kind
_MAX_IN_ERROR = 3  # issues of each kind


class IssueKind(Enum):
    """Kinds of issues; each value is (title, fix)."""

    MISSING = "missing file", "put the file there, or correct its path or name"
    DAMAGED = "damaged file", "download or create the file again"
    JSON_KIND = "wrong kind of JSON file", "give the file of the dataset's task, or change the task"
    FORM = "not in COCO format", "correct the entry, or remove it"
    TWICE = "duplicate", "keep one of them"
    UNPAIRED = "without counterpart", "add the missing one, or remove the other"
    COUNT = "wrong number of images", "unpack or prepare what is missing; --images 0 accepts any number"
    CATEGORY = "category without a class", "add the class to the vocabulary, or map the id with label_map"
    LABEL = "label out of range", "correct the pixels, or map the values with label_map or ignore_label"
    IDS = "segment ids that do not match", "create the PNG and the JSON file again from one source"
    BIT_DEPTH = "wrong bit depth", "save one channel of 8 or 16 bits, as PNG or TIFF"
    NOT_RGB = "not an RGB PNG", "save PNGs of 3 x 8 bits, with id = R + 256 G + 65536 B"
    SIZE = "different sizes", "create all files from one version of the image"
    EMPTY = "empty mask", "remove the entry, or draw its mask"
    OTHER = "rejected by the reader", "see the message"

    @property
    def title(self) -> str:
        """Short description."""
        return self.value[0]

    @property
    def fix(self) -> str:
        """What to do about it."""
        return self.value[1]


@dataclass(frozen=True)
class Issue:
    """One problem of a dataset: its kind, the file and the details."""

    kind: IssueKind
    file: Path
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.message}"


class Issues:
    """Collects issues in the order in which they are found."""

    def __init__(self) -> None:
        self.found: list[Issue] = []
        self.notes: dict[str, None] = {}  # remarks that are not issues: an ordered set
        self._missing_roots: set[Path] = set()

    def add(self, kind: IssueKind, file: Path, message: str) -> None:
        """Adds an issue; files missing below a path from add_missing_root are not reported again."""
        if kind is not IssueKind.MISSING or self._missing_roots.isdisjoint((file, *file.parents)):
            self.found.append(Issue(kind, file, message))

    def add_missing_root(self, path: Path, message: str) -> None:
        """Adds an issue for a missing file or folder that the dataset spec names."""
        self.add(IssueKind.MISSING, path, message)
        self._missing_roots.add(path)

    def merge(self, other: Issues) -> None:
        """Adds all issues and notes of another collection, such as that of a worker process."""
        for issue in other.found:
            self.add(issue.kind, issue.file, issue.message)
        self.notes.update(other.notes)

    def raise_any(self, source: Path) -> None:
        """Raises an error if there are issues.

        Raises:
            DatasetError: starts with `source`, and gives the number and the first few issues of each kind.
        """
        if not self.found:
            return
        parts = []
        for kind, issues in by_kind(self.found).items():
            # The message starts with `source`, so issues of this file do not repeat its path.
            shown = [
                str(issue) if issue.file != source else issue.message for issue in issues[:_MAX_IN_ERROR]
            ]
            more = ", ..." if len(issues) > len(shown) else ""
            parts.append(f"{kind.title} ({len(issues)}): {', '.join(shown)}{more}")
        raise DatasetError(f"{source}: {'; '.join(parts)}. Repair the dataset or prepare it again")


def by_kind(issues: Iterable[Issue]) -> dict[IssueKind, list[Issue]]:
    """Groups issues by kind, in the order in which the kinds first occur."""
    groups: dict[IssueKind, list[Issue]] = {}
    for issue in issues:
        groups.setdefault(issue.kind, []).append(issue)
    return groups


def issues_text(
    name: str, issues: Sequence[Issue], *, notes: Sequence[str] = (), everything: bool = False
) -> str:
    """Formats issues by kind, with the fix for each kind.

    Args:
        name: name of the dataset, or of the part that was checked.
        notes: remarks that are not issues, one line each.
        everything: list all issues instead of the first 20 of each kind.
    """
    if not issues:
        return "\n".join([f"{name}: opened every file, no issues", *(f"  {note}" for note in notes)])
    parts = [f"{name}: {len(issues):,} issue{'s' if len(issues) > 1 else ''}"]
    for kind, group in by_kind(issues).items():
        shown = group if everything else group[:_MAX_IN_REPORT]
        parts.append(f"{kind.title} ({len(group):,}): {kind.fix}")
        parts += [f"  {issue}" for issue in shown]
        if len(shown) < len(group):
            parts.append(f"  and {len(group) - len(shown):,} more; --all lists them")
    return "\n".join([*parts, *notes])


def issues_json(issues: Sequence[Issue]) -> str:
    """Formats issues as a JSON list of {kind, file, message}."""
    rows = [{"kind": issue.kind.name, "file": str(issue.file), "message": issue.message} for issue in issues]
    return json.dumps(rows, ensure_ascii=False, indent=1)
