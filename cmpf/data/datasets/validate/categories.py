# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Checks the categories of JSON files in COCO's form, and the fields that only LVIS has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmpf.data.datasets.issues import IssueKind, Issues, named
from cmpf.data.datasets.readers.coco_json import Categories
from cmpf.data.datasets.spec import Dataset

_FREQUENCIES = ("r", "c", "f")
_LVIS_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")  # without them AP is wrong


class CategoryCheck:
    """Looks up classes of category ids, and remembers those that have none."""

    def __init__(
        self, categories: Categories | None, names: Mapping[Any, str], source: Path, things_only: bool
    ) -> None:
        self._categories, self._names, self._source = categories, names, source
        self._things_only = things_only
        self._unknown: dict[Any, list[str]] = {}

    @classmethod
    def of(
        cls,
        content: Mapping[str, Any],
        dataset: Dataset,
        source: Path,
        issues: Issues,
        *,
        things_only: bool = False,
    ) -> CategoryCheck:
        """That of a JSON file; if its `categories` is not in COCO's form, an issue, and nothing is looked up.

        Args:
            things_only: categories of stuff are as wrong as unknown ones.
        """
        try:
            names = {category["id"]: category["name"] for category in content["categories"]}
            found = Categories(content, dataset.vocabulary, dataset.spec.class_of_id, Issues())
        except (KeyError, TypeError) as error:
            what = f"has no {error}" if isinstance(error, KeyError) else str(error)
            issues.add(IssueKind.FORM, source, f"an entry of categories: {what}")
            return cls(None, {}, source, things_only)
        return cls(found, names, source, things_only)

    def look_up(self, category_id: Any, *, user: str) -> None:
        """Remembers a category id if it has no class; `user` = the file that has it.

        Raises:
            TypeError: the id is no number or text.
        """
        hash(category_id)
        if self._categories is None:
            return
        index = self._categories.index(category_id)
        if index is None or (self._things_only and not self._categories.is_thing[index]):
            self._unknown.setdefault(category_id, []).append(user)

    def report(self, issues: Issues) -> None:
        """One issue for each category that has no class."""
        kind = "thing class" if self._things_only else "class"
        for identity, users in self._unknown.items():
            known = identity in self._names
            name = repr(self._names[identity]) if known else "which categories does not list"
            times = "once" if len(users) == 1 else f"{len(users)} times"
            message = f"category id {identity}, {name}, is no {kind} of the vocabulary; used {times}"
            issues.add(IssueKind.CATEGORY, self._source, f"{message}, in {named(dict.fromkeys(users))}")


def check_lvis(content: Mapping[str, Any], num_classes: int, source: Path, issues: Issues) -> None:
    """What AP of a federated dataset needs: all categories, their frequencies, and two lists of each image."""
    categories = [entry for entry in content["categories"] if isinstance(entry, Mapping)]
    if len(categories) != num_classes:
        issues.add(IssueKind.FORM, source, f"{len(categories):,} categories; expected {num_classes:,}")
    for entry in categories:
        if entry.get("frequency") not in _FREQUENCIES:
            message = f"category {entry.get('id')} has no frequency r, c or f"
            issues.add(IssueKind.FORM, source, message)
    for entry in content["images"]:
        for key in _LVIS_LISTS:
            if isinstance(entry, Mapping) and not isinstance(entry.get(key), list):
                issues.add(IssueKind.FORM, source, f"image {entry.get('id')} has no list {key}")
