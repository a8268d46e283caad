# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

from cmpf.data.datasets.issues import Issues
from cmpf.data.datasets.readers.coco_json import (
    Categories,
    check_class_of_id,
    image_samples,
)
from cmpf.data.vocabulary import Vocabulary

WORDS = Vocabulary(classes=[["animal", "cat"], ["cat"]], things=[1])
CONTENT = {"categories": [{"id": 5, "name": "cat"}, {"id": 9, "name": "plant"}]}


def test_names_of_classes_go_before_synonyms_and_unknown_categories_are_issues() -> None:
    categories = Categories(CONTENT, WORDS, None)
    assert categories.index(5) == 1
    assert categories.is_thing == (False, True)
    assert categories.index(9, "a.png") is None
    assert categories.index(9, "b.png") is None
    assert categories.index(10, "b.png") is None
    issues = Issues()
    categories.report(Path("a.json"), issues)
    assert [issue.message for issue in issues.found] == [
        "category id 9, 'plant', is no class of the vocabulary; used 2 times, in a.png, b.png",
        "category id 10, which categories does not list, is no class of the vocabulary; used once, in b.png",
    ]


def test_where_things_are_wanted_stuff_is_as_wrong_as_an_unknown_category() -> None:
    categories = Categories(CONTENT, WORDS, {5: 1, 9: 0}, things_only=True)
    categories.index(5, "a.png")
    categories.index(9, "a.png")
    issues = Issues()
    categories.report(Path("a.json"), issues)
    (issue,) = issues.found
    assert issue.message == "category id 9, 'plant', is no thing class of the vocabulary; used once, in a.png"


def test_a_label_map_makes_names_unimportant() -> None:
    categories = Categories(CONTENT, WORDS, {9: 0})
    assert categories.index(9) == 0


def test_a_label_map_beyond_the_vocabulary_is_an_issue() -> None:
    issues = Issues()
    check_class_of_id({1: 0, 2: 1, 3: 2, 4: -1}, WORDS, Path("a.json"), issues)
    assert [issue.message for issue in issues.found] == [
        "label_map has 3 -> 2, beyond classes 0..1",
        "label_map has 4 -> -1, beyond classes 0..1",
    ]
    check_class_of_id(None, WORDS, Path("a.json"), issues)
    assert len(issues.found) == 2


def test_images_become_samples_and_doubled_ids_are_issues(tmp_path: Path) -> None:
    issues = Issues()
    image = {"id": "x", "file_name": "town/x.jpg", "height": 3, "width": 4}
    samples = image_samples({"images": [image, image]}, tmp_path, Path("a.json"), issues)
    path = str(tmp_path / "town" / "x.jpg")
    assert samples == {"x": {"file_name": path, "image_id": "x", "height": 3, "width": 4}}
    assert [issue.message for issue in issues.found] == ["image id x is given 2 times"]
