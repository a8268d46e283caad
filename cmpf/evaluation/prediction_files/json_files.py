# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Access to entries of COCO JSON files, with validation errors that name the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmpf.errors import EvaluationError

MAX_LISTED = 3  # examples in an error message
_LARGEST = 1e300  # the comparison with it is false for NaN


def get_entries(content: Any, key: str, path: Path) -> list[dict[str, Any]]:
    """Returns the list of objects under a key of a JSON object.

    Raises:
        EvaluationError: there is none.
    """
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise EvaluationError(f"{path}: no COCO file, it has no list {key!r} of objects")
    return entries


def index_by(
    entries: Iterable[dict[str, Any]], key: str, *, path: Path, what: str
) -> dict[Any, dict[str, Any]]:
    """Maps the ids in a field to their entries.

    Raises:
        EvaluationError: an id is missing, invalid or repeated; names `path`, `what` and the first ids.
    """
    indexed: dict[Any, dict[str, Any]] = {}
    duplicates = []
    for entry in entries:
        value = get_id(entry, key, path=path, what=what)
        if value in indexed:
            duplicates.append(value)
        indexed[value] = entry
    if duplicates:
        raise EvaluationError(f"{path}: {what} listed twice: {key} {first_values(duplicates)}")
    return indexed


def get_field(entry: Mapping[str, Any], key: str, *, path: Path, what: str) -> Any:
    """Returns a field of an entry.

    Raises:
        EvaluationError: it is missing.
    """
    if key not in entry:
        raise EvaluationError(f"{path}: {what} without {key!r}: {str(dict(entry))[:100]}")
    return entry[key]


def to_int(value: Any, what: str, *, minimum: int = 0, maximum: int = 2**53) -> int:
    """Converts a JSON number without fraction to int; accepts 7.0, but not True or "7".

    Args:
        what: start of the error message; names the file and the entry.
    Raises:
        EvaluationError: it is something else, or out of range.
    """
    if to_float(value, what) != int(value) or not minimum <= value <= maximum:
        raise EvaluationError(f"{what} {value!r}; expected a whole number from {minimum:,} to {maximum:,}")
    return int(value)


def to_float(value: Any, what: str) -> float:
    """Converts a finite JSON number to float.

    Args:
        what: start of the error message; names the file and the entry.
    Raises:
        EvaluationError: it is something else, such as NaN, True or a string.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_LARGEST <= value <= _LARGEST:
        raise EvaluationError(f"{what} {value!r:.40}; expected a number")
    return float(value)


def get_id(entry: Mapping[str, Any], key: str, *, path: Path, what: str) -> Any:
    """Returns an id: an integer or a string.

    Raises:
        EvaluationError: it is missing or something else.
    """
    value = get_field(entry, key, path=path, what=what)
    return value if isinstance(value, str) else to_int(value, f"{path}: {what} has {key}", minimum=-(2**53))


def first_values(values: Iterable[object]) -> str:
    """The first few distinct values, for an error message."""
    distinct = list(dict.fromkeys(values))
    more = f", ... ({len(distinct)} in all)" if len(distinct) > MAX_LISTED else ""
    return ", ".join(map(str, distinct[:MAX_LISTED])) + more


@dataclass(frozen=True)
class Categories:
    """Categories of a ground-truth file, in the order of their ids.

    names: names, made unique.
    index_of: category id -> class index.
    entries: entries of the file.
    path: the file.
    """

    names: tuple[str, ...]
    index_of: Mapping[Any, int]
    entries: tuple[dict[str, Any], ...]
    path: Path

    def index(self, category: Any, *, path: Path, what: str) -> int:
        """Class index of a category id.

        Raises:
            EvaluationError: it is not in the ground truth; names `path` and `what`.
        """
        if isinstance(category, bool) or not isinstance(category, int | float | str):
            raise EvaluationError(f"{path}: {what} has category_id {category!r}; expected a whole number")
        if category not in self.index_of:
            raise EvaluationError(
                f"{path}: {what} has category_id {category!r}, which {self.path} does not list"
            )
        return self.index_of[category]


def read_categories(content: Any, path: Path) -> Categories:
    """Reads the categories of a COCO file.

    Raises:
        EvaluationError: there are none, or an id is missing or repeated.
    """
    by_id = index_by(get_entries(content, "categories", path), "id", path=path, what="category")
    if not by_id:
        raise EvaluationError(f"{path}: no category in it")
    entries = tuple(by_id[category_id] for category_id in sort_ids(by_id))
    names = unique_names([str(entry.get("name", entry["id"])) for entry in entries])
    return Categories(names, {entry["id"]: i for i, entry in enumerate(entries)}, entries, path)


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """Class names, with the index appended to those that occur more than once."""
    counts = Counter(names)
    return tuple(f"{name} ({i})" if counts[name] > 1 else name for i, name in enumerate(names))


def sort_ids(ids: Iterable[Any]) -> list[Any]:
    """Sorts ids, integers before strings."""
    return sorted(ids, key=lambda value: (isinstance(value, str), value))
