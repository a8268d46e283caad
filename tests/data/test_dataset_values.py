# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cmpf.data.datasets.custom_values import (
    WrongValueError,
    class_words,
    index_map,
    label,
    text,
    two_sides,
    vocabulary_of,
    with_things,
)
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import VocabularyError

KNOWN = {"fruit_val": lambda: Vocabulary(classes=[["apple"], ["pear"]])}


@pytest.mark.parametrize(
    ("read", "value", "result"),
    [
        (text, " a ", "a"),
        (label, 65535, 65535),
        (two_sides, [800, 1333], (800, 1333)),
        (index_map, {7: 0, 8: 0}, {7: 0, 8: 0}),
        (class_words, [], []),
    ],
)
def test_good_values_are_taken(read: Callable[[Any], Any], value: Any, result: Any) -> None:
    assert read(value) == result


@pytest.mark.parametrize(
    ("read", "value", "message"),
    [
        (text, "", "expected text, got ''"),
        (text, None, "expected text, got nothing"),
        (text, 5, "expected text, got 5"),
        (label, 65536, r"expected a whole number 0\.\.65535, got 65536"),
        (label, -1, "whole number"),
        (label, True, "whole number"),
        (two_sides, 800, "expected .shorter side, longest longer side. .* got 800"),
        (two_sides, [1333, 800], "shorter side"),
        (two_sides, [0, 800], "shorter side"),
        (two_sides, [800], "shorter side"),
        (index_map, {}, "class index.* got {}"),
        (index_map, [1], "class index"),
        (index_map, {"road": 0}, "class index"),
        (index_map, {70000: 0}, "class index"),
        (class_words, "apple", r"expected a list of class names such as \[apple, pear\], got 'apple'"),
        (class_words, [True], "list of class names"),
        (text, ["x" * 200], r"x\.\.\.$"),
    ],
)
def test_other_values_are_told_with_what_was_expected(
    read: Callable[[Any], Any], value: Any, message: str
) -> None:
    with pytest.raises(WrongValueError, match=message):
        read(value)


def test_a_vocabulary_is_a_file_a_list_or_a_known_dataset(tmp_path: Path) -> None:
    (tmp_path / "fruit.txt").write_text("0:apple,red apple\n1:pear\n")
    from_file = vocabulary_of("fruit.txt", known=KNOWN, folder=tmp_path)
    assert from_file.classes == (("apple", "red apple"), ("pear",))
    assert (
        vocabulary_of(["apple, red apple", "pear"], known=KNOWN, folder=tmp_path).classes == from_file.classes
    )
    assert vocabulary_of("fruit_val", known=KNOWN, folder=tmp_path).names == ("apple", "pear")


@pytest.mark.parametrize(("wrong", "near"), [("friut.txt", "fruit.txt"), ("fruit_vall", "fruit_val")])
def test_a_vocabulary_that_is_not_there_is_answered_with_the_nearest(
    tmp_path: Path, wrong: str, near: str
) -> None:
    (tmp_path / "fruit.txt").touch()
    with pytest.raises(
        WrongValueError, match=rf"neither a file \(\S+{wrong}\) nor a known .* did you mean {near}\?"
    ):
        vocabulary_of(wrong, known=KNOWN, folder=tmp_path)
    with pytest.raises(WrongValueError, match="known dataset; give a vocabulary file"):
        vocabulary_of("zzz", known=KNOWN, folder=tmp_path / "nowhere")


def test_only_the_named_classes_are_things() -> None:
    words = Vocabulary(classes=[["apple", "red apple"], ["grass"]])
    assert with_things(words, ["red apple"]).is_thing == (True, False)
    assert with_things(words, []).is_thing == (False, False)
    assert with_things(words, ["apple"]).classes == words.classes
    with pytest.raises(VocabularyError, match="plum"):
        with_things(words, ["plum"])
