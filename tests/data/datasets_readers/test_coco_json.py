# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import pytest

from cmpf.data.datasets.readers.coco_json import (
    Categories,
    check_class_of_id,
    image_samples,
)
from cmpf.data.datasets.readers.issues import Issues
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import DatasetError

WORDS = Vocabulary(classes=[["animal", "cat"], ["cat"]], things=[1])
CONTENT = {"categories": [{"id": 5, "name": "cat"}, {"id": 9, "name": "plant"}]}


def raised(issues: Issues) -> str:
    with pytest.raises(DatasetError) as caught:
        issues.raise_any(Path("a.json"))
    return str(caught.value)


def test_names_of_classes_go_before_synonyms_and_unknown_categories_are_issues() -> None:
    issues = Issues()
    categories = Categories(CONTENT, WORDS, None, issues)
    assert categories.index(5) == 1
    assert categories.is_thing == (False, True)
    assert categories.index(9) is None
    assert categories.index(10) is None
    assert "2 segments of categories that the vocabulary lacks: plant (id 9), no name (id 10)" in raised(
        issues
    )


def test_a_label_map_makes_names_unimportant() -> None:
    categories = Categories(CONTENT, WORDS, {9: 0}, Issues())
    assert categories.index(9) == 0


def test_a_label_map_beyond_the_vocabulary_is_an_issue() -> None:
    issues = Issues()
    check_class_of_id({1: 0, 2: 1, 3: 2, 4: -1}, WORDS, issues)
    assert "2 entries of label_map beyond classes 0..1: 3 -> 2, 4 -> -1" in raised(issues)
    check_class_of_id(None, WORDS, Issues())


def test_images_become_samples_and_doubled_ids_are_issues(tmp_path: Path) -> None:
    issues = Issues()
    image = {"id": "x", "file_name": "town/x.jpg", "height": 3, "width": 4}
    samples = image_samples({"images": [image, image]}, tmp_path, issues)
    path = str(tmp_path / "town" / "x.jpg")
    assert samples == {"x": {"file_name": path, "image_id": "x", "height": 3, "width": 4}}
    assert "1 doubled image ids: x" in raised(issues)
