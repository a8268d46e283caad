# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import pytest

from cmpf.data import Vocabulary, get_vocabulary
from cmpf.data.words import read_words
from cmpf.errors import DatasetError, VocabularyError

ADE = "openvocab_ade20k_panoptic_val"
KNOWN = [Vocabulary(classes=[["cat"], ["sky", "heaven"]], things=[0])]


def dataset_file(folder: Path) -> Path:
    (folder / "own.yaml").write_text(
        "name: mine\ntask: panoptic\nimages: i\nannotations: a.json\nvocabulary: [apple, 'pear, quince', table]\n"
        "things: [apple, pear]\n"
    )
    return folder / "own.yaml"


def test_a_list_a_string_and_a_file_of_words_mean_the_same(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("1:cat\n2:sky,heaven\n3:unicorn\n")
    forms = [["cat", "sky, heaven", "unicorn"], " cat; sky, heaven;unicorn; ", tmp_path / "words.txt",
             str(tmp_path / "words.txt")]  # fmt: skip
    for form in forms:
        found = read_words(form, known=KNOWN)
        assert found.classes == (("cat",), ("sky", "heaven"), ("unicorn",))
        assert found.is_thing == (True, False, True)  # sky is known as stuff, a unicorn is not known


def test_a_file_that_tells_kinds_is_believed(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("# isthing: 0 1\n1:cat\n2:sky\n")
    assert read_words(tmp_path / "words", known=KNOWN).is_thing == (False, True)


def test_a_dataset_is_named_or_given_as_its_file(tmp_path: Path) -> None:
    assert read_words(ADE) == get_vocabulary(ADE)
    file = dataset_file(tmp_path)
    for form in (file, str(file), f"file:{file}"):
        found = read_words(form, known=KNOWN)
        assert found.classes == (("apple",), ("pear", "quince"), ("table",))
        assert found.is_thing == (True, True, False)


def test_a_vocabulary_is_taken_as_it_is() -> None:
    assert read_words(KNOWN[0]) is KNOWN[0]


@pytest.mark.parametrize(
    ("things", "stuff", "flags"),
    [
        (["table"], None, (False, False, True)),
        (None, ["apple"], (False, True, False)),
        (["table"], ["quince"], (True, False, True)),
        ([], None, (False, False, False)),
        (None, [], (True, True, False)),
    ],
)
def test_things_and_stuff_overrule_a_dataset(
    tmp_path: Path, things: list[str] | None, stuff: list[str] | None, flags: tuple[bool, ...]
) -> None:
    found = read_words(dataset_file(tmp_path), things=things, stuff=stuff)
    assert found.is_thing == flags
    assert found.names == ("apple", "pear", "table")


def test_classes_that_share_their_first_word_keep_their_own_kind() -> None:
    bags = Vocabulary(classes=[["bag", "purse"], ["bag", "sack"], ["sky"]], things=[0])
    assert read_words(bags, stuff=["sky"]).is_thing == (True, False, False)


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ("", VocabularyError, "empty"),
        (" ; ;", VocabularyError, "empty"),
        ("nowhere.txt", VocabularyError, r"nowhere\.txt: cannot be read"),
        ("nowhere.yaml", DatasetError, r"nowhere\.yaml: no such dataset file"),
        ("openvocab_ade20k_panoptic_vall", VocabularyError, f"did you mean {ADE}"),
        (None, VocabularyError, "expected a list of strings"),
        (7, VocabularyError, "expected a list of strings"),
        (["cat", 3], VocabularyError, "expected a list of strings"),
        (["cat", "d\0g"], VocabularyError, r"class 'd\\x00g' has characters that no text file can hold"),
        (["cat", "cat, \ud800"], VocabularyError, r"class '\\ud800' has characters"),
    ],
)
def test_wrong_words_are_refused_by_name(words: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_words(words)  # type: ignore[arg-type]


def test_a_kind_of_an_unknown_class_is_refused() -> None:
    with pytest.raises(VocabularyError, match=r"stuff names 'skyy'.*did you mean 'sky'"):
        read_words(KNOWN[0], stuff=["skyy"])
    with pytest.raises(VocabularyError, match="stuff must be a list"):
        read_words(KNOWN[0], stuff="sky")


def test_one_word_alone_is_one_class() -> None:
    assert read_words("polar bear").classes == (("polar bear",),)
    assert read_words("traffic_light").classes == (("traffic_light",),)
