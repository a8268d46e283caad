# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import pytest

from cmpf.data.vocabulary import Vocabulary
from cmpf.data.vocabulary_file import parse_vocabulary_text
from cmpf.errors import VocabularyError


def test_a_file_with_comments_header_and_synonyms_is_read(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("# my words\n#isthing: 1 0\n\n3: person , child\n10:sky\n")
    words = Vocabulary.from_file(path)
    assert words.classes == (("person", "child"), ("sky",))
    assert words.is_thing == (True, False)


def test_without_a_header_all_classes_are_things() -> None:
    classes, flags = parse_vocabulary_text("0:a\n1:b", source="f")
    assert classes == (("a",), ("b",))
    assert flags is None


def test_a_file_of_openseg_users_loads_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "openseg.txt"
    path.write_bytes(b"0:invalid_class_id\r\n1:wall,walls,brick wall\r\n2:sky\r\n")
    assert Vocabulary.from_file(str(path)).classes == (("wall", "walls", "brick wall"), ("sky",))


def test_classes_may_share_their_first_word_as_in_files_for_ade20k_full() -> None:
    classes, _ = parse_vocabulary_text("114:bag\n191:bag,suitcase\n252:bag,purse\n", source="f")
    assert classes == (("bag",), ("bag", "suitcase"), ("bag", "purse"))


def test_white_space_and_a_comma_at_the_end_do_not_matter() -> None:
    classes, _ = parse_vocabulary_text("0 :  wall ,\twalls,\n1: traffic   light , \n", source="f")
    assert classes == (("wall", "walls"), ("traffic light",))


def test_ids_may_be_in_any_order_and_the_placeholder_anywhere_any_number_of_times() -> None:
    text = "7:sky\n0:invalid_class_id\n3:road\n1:invalid_class_id\n"
    assert parse_vocabulary_text(text, source="f")[0] == (("sky",), ("road",))


def test_a_name_may_hold_a_colon_and_any_script(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("\ufeff1:sign: stop\n2:猫,кошка\n", encoding="utf-8")
    assert Vocabulary.from_file(path).classes == (("sign: stop",), ("猫", "кошка"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f: no class in it; write one a line, id:name,synonym"),
        ("# only a comment\n", "f: no class in it"),
        ("0:invalid_class_id\n", "f: no class in it"),
        ("1:a\nperson,child\n", r"f, line 2: 'person,child' does not begin with a number"),
        ("x:a\n", "f, line 1: 'x:a' does not begin with a number"),
        ("-1:a\n", "f, line 1: '-1:a' does not begin with a number"),
        ("1:a\n2:\n", "f, line 2: empty name or synonym in '2:'"),
        ("1:a,,b\n", "f, line 1: empty name or synonym"),
        ("1:a,\n2: ,\n", "f, line 2: empty name or synonym in '2: ,'"),
        ("1:a,,\n", "f, line 1: empty name or synonym"),
        ("1:,a\n", "f, line 1: empty name or synonym"),
        ("1:dog\n# x\n2:cat\n3:Dog\n", "f, line 4: class 'Dog' has the same words as line 1"),
        ("1:dog,hound\n2:hound,  DOG\n", "f, line 2: class 'hound' has the same words as line 1"),
        ("1:hot dog\n2:hot  dog,\n", "f, line 2: class 'hot dog' has the same words as line 1"),
        ("1:a\n2:b\n1:c\n", "f, line 3: id 1 is already on line 1"),
        ("# isthing: 1\n1:a\n2:b\n", "f, line 1: 1 isthing flags for 2 classes"),
        ("# isthing: 1 yes\n1:a\n2:b\n", "f, line 1: isthing flag 'yes'; write 1 for things"),
    ],
)
def test_a_wrong_file_is_refused_with_line_and_reason(text: str, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        parse_vocabulary_text(text, source="f")


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"none\.txt: cannot be read .*No such file"):
        Vocabulary.from_file(tmp_path / "none.txt")
    with pytest.raises(VocabularyError, match="cannot be read as a vocabulary file"):
        Vocabulary.from_file(tmp_path)


def test_a_file_in_another_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes("1:cat\n2:Möwe\n".encode("latin-1"))
    with pytest.raises(VocabularyError, match=r"words\.txt, line 2: not UTF-8"):
        Vocabulary.from_file(path)
