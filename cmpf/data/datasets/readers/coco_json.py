# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""JSON files in COCO's form, and the classes that their category ids mean."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmpf.data.datasets.readers.issues import Issues
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import DatasetError
from cmpf.types import Sample


def read_json(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """A JSON object that has a list at each of `keys`.

    Raises:
        DatasetError: the file cannot be read, is cut short, or lacks a list.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); prepare the dataset again") from error
    except ValueError as error:
        raise DatasetError(f"{path}: no whole JSON file ({error}); prepare the dataset again") from error
    missing = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise DatasetError(f"{path}: no COCO file, it has no list {missing[0]!r}")
    return dict(content)


def not_coco(path: Path, error: Exception) -> DatasetError:
    """The error to raise when an entry of a file lacks a key, or holds what it should not."""
    what = f"an entry has no {error}" if isinstance(error, KeyError) else str(error)
    return DatasetError(f"{path}: not in COCO's form: {what}; prepare the dataset again")


class Categories:
    """Looks up the class of each category id; unknown ones are issues."""

    def __init__(
        self,
        content: Mapping[str, Any],
        vocabulary: Vocabulary,
        label_map: Mapping[int, int] | None,
        issues: Issues,
    ) -> None:
        """
        Args:
            content: of the JSON file, with `categories`.
            label_map: category id -> class index; None = categories are found by their name among the words
                of the vocabulary, names of classes before synonyms. What is wrong with it, check_label_map
                tells.
        """
        index_of: dict[str, int] = {}
        for index, words in enumerate(vocabulary.classes):
            for word in words[1:]:
                index_of.setdefault(word, index)
        index_of.update({name: index for index, name in enumerate(vocabulary.names)})
        self._name_of = {category["id"]: category["name"] for category in content["categories"]}
        by_name = {identity: index_of[n] for identity, n in self._name_of.items() if n in index_of}
        in_range = {i: n for i, n in (label_map or {}).items() if 0 <= n < vocabulary.num_classes}
        self._index_of = by_name if label_map is None else in_range
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


def check_label_map(label_map: Mapping[int, int] | None, vocabulary: Vocabulary, issues: Issues) -> None:
    """Values of a label map must be class indices."""
    for label, index in (label_map or {}).items():
        if not 0 <= index < vocabulary.num_classes:
            issues.add(
                f"entries of label_map beyond classes 0..{vocabulary.num_classes - 1}", f"{label} -> {index}"
            )
