# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import pytest

from cmpf.errors import EvaluationError
from tools.prediction_files.json_files import by_key, ordered, read_categories, some, unique_names

PATH = Path("gt.json")


def test_categories_are_in_the_order_of_their_ids() -> None:
    content = {"categories": [{"id": 9, "name": "b"}, {"id": 2, "name": "a"}, {"id": 4}]}
    categories = read_categories(content, PATH)
    assert categories.names == ("a", "4", "b")
    assert categories.index(9, path=PATH, what="x") == 2
    with pytest.raises(
        EvaluationError, match=r"p\.json: segment 1 has category_id \[9\], which gt\.json does not list"
    ):
        categories.index([9], path=Path("p.json"), what="segment 1")
    with pytest.raises(EvaluationError, match=r"gt\.json: no category in it"):
        read_categories({"categories": []}, PATH)


def test_doubled_values_are_listed_up_to_three() -> None:
    with pytest.raises(EvaluationError, match=r"image listed twice: id 1, 2, 3, \.\.\. \(4 in all\)"):
        by_key([{"id": i % 5} for i in range(1, 10)], "id", path=PATH, what="image")
    assert some([7, 7, 8]) == "7, 8"


def test_repeated_names_get_their_place() -> None:
    assert unique_names(["a", "b", "a"]) == ("a (0)", "b", "a (2)")


def test_ids_of_both_kinds_have_an_order() -> None:
    assert ordered(["b", 10, "a", 9]) == [9, 10, "a", "b"]
