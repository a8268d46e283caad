# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The classes that category ids of JSON files in COCO's form mean, and samples of their images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmpf.data.datasets.readers.issues import Issues
from cmpf.data.vocabulary import Vocabulary
from cmpf.types import Sample


class Categories:
    """Looks up the class of each category id; unknown ones are issues."""

    def __init__(
        self,
        content: Mapping[str, Any],
        vocabulary: Vocabulary,
        class_of_id: Mapping[int, int] | None,
        issues: Issues,
    ) -> None:
        """
        Args:
            content: of the JSON file, with `categories`.
            class_of_id: category id -> class index; None = categories are found by their name among the words
                of the vocabulary, names of classes before synonyms. What is wrong with it, check_class_of_id
                tells.
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
        self._issues = issues
        self.is_thing = vocabulary.is_thing

    def index(self, category_id: int) -> int | None:
        """Class index, or None."""
        index = self._index_of.get(category_id)
        if index is None:
            name = self._name_of.get(category_id, "no name")
            self._issues.add("segments of categories that the vocabulary lacks", f"{name} (id {category_id})")
        return index


def image_samples(content: Mapping[str, Any], images: Path, issues: Issues) -> dict[int | str, Sample]:
    """Image id -> sample with file_name, image_id, height and width, for each entry of `images`."""
    samples: dict[int | str, Sample] = {}
    for image in content["images"]:
        samples[image["id"]] = {
            "file_name": str(images / image["file_name"]),
            "image_id": image["id"],
            "height": image["height"],
            "width": image["width"],
        }
    issues.add_doubles("doubled image ids", (image["id"] for image in content["images"]))
    return samples


def check_class_of_id(class_of_id: Mapping[int, int] | None, vocabulary: Vocabulary, issues: Issues) -> None:
    """Values of a label map must be class indices."""
    for label, index in (class_of_id or {}).items():
        if not 0 <= index < vocabulary.num_classes:
            issues.add(
                f"entries of label_map beyond classes 0..{vocabulary.num_classes - 1}", f"{label} -> {index}"
            )
