# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The classes that category ids in the files of a dataset mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cmpf.data.datasets.issues import IssueKind, Issues
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import first_few


class Categories:
    """Looks up the class of each category id, and remembers those that have none."""

    def __init__(
        self,
        content: Mapping[str, Any],
        vocabulary: Vocabulary,
        class_of_id: Mapping[int, int] | None,
        *,
        things_only: bool = False,
    ) -> None:
        """
        Args:
            content: of the JSON file, with `categories`.
            class_of_id: category id -> class index; None = categories are found by their name among the words
                of the vocabulary, names of classes before synonyms. What is wrong with it, check_class_of_id
                tells.
            things_only: categories of stuff are as wrong as unknown ones.
        Raises:
            KeyError, TypeError: an entry of `categories` is not in COCO's form.
        """
        index_of: dict[str, int] = {}
        for index, words in enumerate(vocabulary.classes):
            for word in words[1:]:
                index_of.setdefault(word, index)
        index_of.update({name: index for index, name in enumerate(vocabulary.names)})
        self._name_of = {category["id"]: category["name"] for category in content["categories"]}
        by_name = {identity: index_of[n] for identity, n in self._name_of.items() if n in index_of}
        in_range = {i: n for i, n in (class_of_id or {}).items() if 0 <= n < vocabulary.num_classes}
        self._index_of = by_name if class_of_id is None else in_range
        self._things_only = things_only
        self._unknown: dict[Any, list[str]] = {}
        self.is_thing = vocabulary.is_thing

    def index(self, category_id: Any, user: str = "") -> int | None:
        """Class index, or None, which `report` tells; `user` = the file or entry that has the category."""
        index = self._index_of.get(category_id)
        if index is None or (self._things_only and not self.is_thing[index]):
            self._unknown.setdefault(category_id, []).append(user)
        return index

    def report(self, source: Path, issues: Issues) -> None:
        """One issue for each category that has no class; `source` = the JSON file."""
        kind = "thing class" if self._things_only else "class"
        for identity, users in self._unknown.items():
            known = identity in self._name_of
            name = repr(self._name_of[identity]) if known else "which categories does not list"
            times = "once" if len(users) == 1 else f"{len(users)} times"
            message = f"category id {identity}, {name}, is no {kind} of the vocabulary; used {times}"
            issues.add(IssueKind.CATEGORY, source, f"{message}, in {first_few(dict.fromkeys(users))}")

    def indices(self, category_ids: Iterable[Any], user: str) -> list[int]:
        """Class indices of those that have one."""
        return [index for i in category_ids if (index := self.index(i, user)) is not None]


def check_class_of_id(
    class_of_id: Mapping[int, int] | None, vocabulary: Vocabulary, source: Path, issues: Issues
) -> None:
    """Values of a label map must be class indices; `source` = the ground truth it is for."""
    for label, index in (class_of_id or {}).items():
        if not 0 <= index < vocabulary.num_classes:
            message = f"label_map has {label} -> {index}, beyond classes 0..{vocabulary.num_classes - 1}"
            issues.add(IssueKind.CATEGORY, source, message)
