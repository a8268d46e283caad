# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Entries of COCO's JSON files by their ids, with checks that name the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmpf.errors import EvaluationError

NAMED = 3  # examples in an error message
_LARGEST = 1e300  # NaN is no number below it


def listed(content: Any, key: str, path: Path) -> list[dict[str, Any]]:
    """The list of objects under a key of a JSON object.

    Raises:
        EvaluationError: there is none.
    """
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise EvaluationError(f"{path}: no COCO file, it has no list {key!r} of objects")
    return entries


def by_key(
    entries: Iterable[dict[str, Any]], key: str, *, path: Path, what: str
) -> dict[Any, dict[str, Any]]:
    """Entries by a field that must be there and differ.

    Raises:
        EvaluationError: it does not; names `path`, `what` and the first values.
    """
    found: dict[Any, dict[str, Any]] = {}
    doubled = []
    for entry in entries:
        value = identity(entry, key, path=path, what=what)
        if value in found:
            doubled.append(value)
        found[value] = entry
    if doubled:
        raise EvaluationError(f"{path}: {what} listed twice: {key} {some(doubled)}")
    return found


def field(entry: Mapping[str, Any], key: str, *, path: Path, what: str) -> Any:
    """A field of an entry.

    Raises:
        EvaluationError: it is missing.
    """
    if key not in entry:
        raise EvaluationError(f"{path}: {what} without {key!r}: {str(dict(entry))[:100]}")
    return entry[key]


def whole(value: Any, what: str, *, least: int = 0, most: int = 2**53) -> int:
    """A number of a JSON file that has no fraction; 7.0 is 7, True and "7" are none.

    Args:
        what: opens the error message; names the file and the entry.
    Raises:
        EvaluationError: it is something else.
    """
    if number(value, what) != int(value) or not least <= value <= most:
        raise EvaluationError(f"{what} {value!r}; expected a whole number from {least:,} to {most:,}")
    return int(value)


def number(value: Any, what: str) -> float:
    """A finite number of a JSON file.

    Args:
        what: opens the error message; names the file and the entry.
    Raises:
        EvaluationError: it is something else, such as NaN, True or a text.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_LARGEST <= value <= _LARGEST:
        raise EvaluationError(f"{what} {value!r:.40}; expected a number")
    return float(value)


def identity(entry: Mapping[str, Any], key: str, *, path: Path, what: str) -> Any:
    """An id: a whole number, or a text.

    Raises:
        EvaluationError: it is missing or something else.
    """
    value = field(entry, key, path=path, what=what)
    return value if isinstance(value, str) else whole(value, f"{path}: {what} has {key}", least=-(2**53))


def some(values: Iterable[object]) -> str:
    """The first few of a list, for an error message."""
    every = list(dict.fromkeys(values))
    return ", ".join(map(str, every[:NAMED])) + (f", ... ({len(every)} in all)" if len(every) > NAMED else "")


@dataclass(frozen=True)
class Categories:
    """`categories` of a ground-truth file, in the order of their ids.

    names: made different where the file repeats one.
    index_of: category id -> place.
    """

    names: tuple[str, ...]
    index_of: Mapping[Any, int]
    entries: tuple[dict[str, Any], ...]
    path: Path

    def index(self, category: Any, *, path: Path, what: str) -> int:
        """Place of a category id.

        Raises:
            EvaluationError: the ground truth does not know it; names `path` and `what`.
        """
        if isinstance(category, bool) or not isinstance(category, int | float | str):
            raise EvaluationError(f"{path}: {what} has category_id {category!r}; expected a whole number")
        if category not in self.index_of:
            raise EvaluationError(
                f"{path}: {what} has category_id {category!r}, which {self.path} does not list"
            )
        return self.index_of[category]


def read_categories(content: Any, path: Path) -> Categories:
    """Categories of a COCO file.

    Raises:
        EvaluationError: there are none, or ids are missing or doubled.
    """
    found = by_key(listed(content, "categories", path), "id", path=path, what="category")
    if not found:
        raise EvaluationError(f"{path}: no category in it")
    entries = tuple(found[identity] for identity in ordered(found))
    names = unique_names([str(entry.get("name", entry["id"])) for entry in entries])
    return Categories(names, {entry["id"]: i for i, entry in enumerate(entries)}, entries, path)


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of classes, with the place added to those that occur more than once."""
    counts = Counter(names)
    return tuple(f"{name} ({i})" if counts[name] > 1 else name for i, name in enumerate(names))


def ordered(identities: Iterable[Any]) -> list[Any]:
    """Ids in order, numbers before words."""
    return sorted(identities, key=lambda identity: (isinstance(identity, str), identity))
