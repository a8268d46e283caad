# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmpf.data import get_vocabulary
from cmpf.data.vocabulary import Vocabulary
from cmpf.data.vocabulary_file import parse_vocabulary_text
from cmpf.data.words import read_words
from cmpf.errors import CMPFError, DatasetError, VocabularyError

# Words as they may stand in a file: no comma, which separates synonyms, and no line end.
WORDS = st.text(st.characters(exclude_characters=",", exclude_categories=("C", "Z")), min_size=1, max_size=12)
CLASSES = st.lists(
    st.lists(WORDS, min_size=1, max_size=4),
    min_size=1,
    max_size=8,
    unique_by=lambda words: frozenset(word.casefold() for word in words),
)


def test_classes_names_and_kinds_are_tuples_in_the_given_order() -> None:
    words = Vocabulary(classes=[["person", "child"], ["sky"]], things=[0])
    assert words.classes == (("person", "child"), ("sky",))
    assert words.names == ("person", "sky")
    assert words.is_thing == (True, False)
    assert words.things == (0,)
    assert words.num_classes == len(words) == 2


def test_all_classes_are_things_unless_said_otherwise() -> None:
    assert Vocabulary(classes=[["a"], ["b"]]).is_thing == (True, True)
    assert Vocabulary(classes=[["a"], ["b"]], things=[]).is_thing == (False, False)


def test_white_space_is_tidied_and_doubled_synonyms_are_dropped() -> None:
    assert Vocabulary(classes=[["  traffic \n light", "lamp", "lamp "]]).classes == (
        ("traffic light", "lamp"),
    )


def test_a_class_is_seen_when_any_synonym_equals_any_training_synonym() -> None:
    training = Vocabulary(classes=[["person", "child"], ["road", "street"]])
    words = Vocabulary(classes=[["boy", "child"], ["lane"], ["street"], ["Person"]]).seen_against(training)
    # "Person" is unseen: strings are compared as they stand (paper's published rule).
    assert words.seen == (True, False, True, False)
    assert words.seen == words.seen_in(training)


def test_without_a_training_vocabulary_the_model_decides_what_is_seen() -> None:
    words = Vocabulary(classes=[["a"], ["b"]])
    assert words.seen is None
    training = Vocabulary(classes=[["b"]])
    assert words.seen_for(training) == (False, True)
    assert words.seen_against(training).seen == (False, True)
    assert words.seen is None


def test_a_training_vocabulary_given_at_the_start_goes_before_the_models() -> None:
    words = Vocabulary(classes=[["a"], ["b"]]).seen_against(Vocabulary(classes=[["a"]]))
    assert words.seen_for(Vocabulary(classes=[["b"]])) == (True, False)


def test_other_things_leave_seen_as_it_is() -> None:
    words = Vocabulary(classes=[["a"], ["b"]]).seen_against(Vocabulary(classes=[["a"]])).with_things([1])
    assert (words.is_thing, words.seen) == ((False, True), (True, False))


def test_seen_against_keeps_classes_and_kinds() -> None:
    words = Vocabulary(classes=[["a"], ["b", "c"]], things=[1])
    changed = words.seen_against(Vocabulary(classes=[["x"]]))
    assert (changed.classes, changed.is_thing, changed.seen) == (
        words.classes,
        words.is_thing,
        (False, False),
    )


def test_equal_vocabularies_are_one_dictionary_key() -> None:
    first = Vocabulary(classes=[["a"], ["b"]], things=[0])
    second = Vocabulary(classes=[("a ",), ["b"]], things=(0,))
    assert first == second
    assert {first: 1}[second] == 1
    assert first != Vocabulary(classes=[["a"], ["b"]])


def test_the_key_depends_on_words_and_their_grouping_only() -> None:
    base = Vocabulary(classes=[["a", "b"], ["c"]])
    assert base.key == Vocabulary(classes=[["a", "b"], ["c"]], things=[]).key
    others = ([["a"], ["b", "c"]], [["b", "a"], ["c"]], [["c"], ["a", "b"]], [["a,b"], ["c"]])
    assert base.key not in {Vocabulary(classes=classes).key for classes in others}


def test_a_vocabulary_cannot_be_changed() -> None:
    words = Vocabulary(classes=[["a"]])
    with pytest.raises(FrozenInstanceError):
        words.classes = ()  # type: ignore[misc]


def test_a_vocabulary_survives_pickling_for_worker_processes() -> None:
    words = Vocabulary(classes=[["a"], ["b"]], things=[1]).seen_against(Vocabulary(classes=[["b"]]))
    copy = pickle.loads(pickle.dumps(words))
    assert (copy, copy.key) == (words, words.key)


def test_threads_share_a_vocabulary() -> None:
    words = Vocabulary(classes=[[f"class {i}"] for i in range(200)])
    results: list[tuple[object, ...]] = []
    threads = [
        threading.Thread(target=lambda: results.append((hash(words), words.key, words.seen_in(words))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert len(set(results)) == 1


@pytest.mark.parametrize(
    ("classes", "things", "message"),
    [
        ([], None, "the vocabulary is empty; name at least one class"),
        ("car", None, r"expected a list of classes.*got 'car'"),
        (["car", "dog"], None, r"class 0 is 'car'.*Vocabulary.from_words"),
        ([["car"], []], None, r"class 1 .*empty name"),
        ([["car"], ["  "]], None, r"class 1 .*empty name"),
        ([["car", ""]], None, r"class 0 .*empty name or synonym"),
        ([["car", 5]], None, r"class 0 \('car, 5'\)"),
        ([["car"], ["dog"], ["car", "car "]], None, r"class 'car' is repeated, at positions 0 and 2"),
        ([["Car"], ["car"]], None, r"'car' is repeated, at positions 0 and 1"),
        (
            [["car", "auto"], ["Auto", "car"]],
            None,
            r"'Auto' is repeated, at positions 0 and 1.*a word that the",
        ),
        ([["car"]], [1], r"class index 1; this vocabulary has 0\.\.0"),
        ([["car"]], [-1], r"class index -1"),
        ([["car"]], ["car"], r"class index 'car'.*takes names"),
        ([["car"]], [0.0], r"class index 0\.0; this vocabulary has 0\.\.0"),
        ([["car"]], [False], "class index False"),
        ([["car"]], [None], "class index None"),
        ([["car"]], [[0]], r"class index \[0\]"),
        ([["car"]], 5, "things must be a list of class indices, got 5"),
    ],
)
def test_a_wrong_vocabulary_is_refused_with_a_fix(classes: object, things: object, message: str) -> None:
    with pytest.raises(VocabularyError, match=message) as caught:
        Vocabulary(classes=classes, things=things)  # type: ignore[arg-type]
    assert isinstance(caught.value, CMPFError)


# Classes that share words


def test_classes_may_share_synonyms() -> None:
    assert Vocabulary(classes=[["bag", "sack"], ["pouch", "sack"]]).names == ("bag", "pouch")


def test_a_shared_first_word_is_told_apart_by_the_first_synonym_that_the_others_lack() -> None:
    words = Vocabulary(classes=[["bag"], ["Bag", "grip", "purse"], ["cup"], ["bag", "Grip", "handbag"]])
    # Class 0 has the word alone and keeps it. Classes 1 and 3 share "grip" too.
    assert words.names == ("bag", "Bag (purse)", "cup", "bag (handbag)")
    assert words.classes[3] == ("bag", "Grip", "handbag")


def test_names_fall_back_to_the_class_index() -> None:
    # Class 1 has no word of its own: "grip" is in class 2 as well.
    words = Vocabulary(classes=[["bag"], ["bag", "grip"], ["bag", "grip", "purse"]])
    assert words.names == ("bag", "bag (1)", "bag (purse)")


def test_names_with_brackets_do_not_meet_those_that_a_user_wrote() -> None:
    words = Vocabulary(classes=[["bag"], ["bag", "purse"], ["bag (purse)"], ["Bag (1)"]])
    assert words.names == ("bag", "bag (1) (1)", "bag (purse)", "Bag (1)")
    words = Vocabulary(classes=[["a"], ["a", "b) (c"], ["a (b)"], ["a (b)", "c"]])
    assert words.names == ("a", "a (b) (c)", "a (b)", "a (b) (3)")


def test_the_kind_of_classes_with_a_shared_name_can_be_set_together_or_one_by_one() -> None:
    words = ["bag, grip", "bag, purse", "cup, grip"]
    assert Vocabulary.from_words(words, things=["bag"]).is_thing == (True, True, False)
    assert Vocabulary.from_words(words, things=["bag (purse)"]).is_thing == (False, True, False)
    assert Vocabulary.from_words(words, things=["purse"]).is_thing == (False, True, False)
    assert Vocabulary.from_words(words, things=["grip"]).is_thing == (True, False, True)


def test_a_word_that_is_a_name_does_not_mean_classes_with_that_synonym() -> None:
    words = ["cup, mug", "mug, beaker"]
    assert Vocabulary.from_words(words, stuff=["mug"]).is_thing == (True, False)


@given(CLASSES)
@settings(max_examples=100, deadline=None)
def test_names_are_unique_and_begin_with_the_first_word(classes: list[list[str]]) -> None:
    words = Vocabulary(classes=classes)
    assert len({name.casefold() for name in words.names}) == len(words)
    assert all(name.startswith(own[0]) for name, own in zip(words.names, words.classes, strict=True))


@given(
    st.lists(st.lists(st.sampled_from(["a", "A", "b", "a (b)", "a (1)"]), min_size=1, max_size=3), min_size=1)
)
@settings(max_examples=200, deadline=None)
def test_names_are_unique_where_nearly_all_words_are_shared(classes: list[list[str]]) -> None:
    distinct = list({frozenset(w.casefold() for w in words): words for words in classes}.values())
    names = Vocabulary(classes=distinct).names
    assert len({name.casefold() for name in names}) == len(distinct)


# Words as users write them


def test_words_are_split_at_commas() -> None:
    words = Vocabulary.from_words(["car", "person, pedestrian"])
    assert words.classes == (("car",), ("person", "pedestrian"))
    assert words.is_thing == (True, True)


def test_named_things_make_all_others_stuff_and_named_stuff_leaves_others_things() -> None:
    assert Vocabulary.from_words(["car", "sky"], things=["car"]).is_thing == (True, False)
    assert Vocabulary.from_words(["car", "sky, heaven"], stuff=["heaven"]).is_thing == (True, False)
    assert Vocabulary.from_words(["car", "sky"], things=[]).is_thing == (False, False)


def test_known_words_keep_their_kind_unless_named() -> None:
    known = Vocabulary(classes=[["car"], ["sky", "heaven"], ["road"]], things=[0])
    words = ["car", "heaven", "road", "cup"]
    assert Vocabulary.from_words(words, known=[known]).is_thing == (True, False, False, True)
    assert Vocabulary.from_words(words, stuff=["cup"], known=[known]).is_thing == (True, False, False, False)
    assert Vocabulary.from_words(words, things=["road"], known=[known]).is_thing == (
        False,
        False,
        True,
        False,
    )
    mixed = Vocabulary.from_words(words, things=["road"], stuff=["car"], known=[known])
    assert mixed.is_thing == (False, False, True, True)


def test_names_of_known_vocabularies_go_before_synonyms_and_earlier_ones_before_later_ones() -> None:
    first = Vocabulary(classes=[["light", "lamp"], ["table"]], things=[])
    second = Vocabulary(classes=[["lamp"], ["table"], ["desk", "bureau"]])
    third = Vocabulary(classes=[["shelf", "bureau"]], things=[])
    words = ["lamp", "table", "bureau", "light"]
    # lamp: the name in the second; table: the first's; bureau: no name, the second's; light: the first's.
    known = [first, second, third]
    assert Vocabulary.from_words(words, known=known).is_thing == (True, False, True, False)


@pytest.mark.parametrize(
    ("words", "arguments", "message"),
    [
        ([], {}, "the vocabulary is empty"),
        ("car;dog", {}, r'expected a list of strings like \["car"'),
        (["car", 3], {}, "expected a list of strings"),
        (["car,,auto"], {}, r"class 0 \('car, , auto'\) has an empty name"),
        (["car", "dog", "car"], {}, "repeated, at positions 0 and 2"),
        (["car", "dog"], {"things": ["dgo"]}, r"things names 'dgo'.*did you mean 'dog'"),
        (["car", "dog"], {"stuff": "car"}, "stuff must be a list of class names, got 'car'"),
        (["car", "dog"], {"things": 5}, "things must be a list of class names, got 5"),
        (["car", "dog"], {"stuff": b"car"}, "stuff must be a list of class names, got b'car'"),
        (["car, auto"], {"things": ["car"], "stuff": ["auto"]}, "'car' is both in things and in stuff"),
    ],
)
def test_wrong_words_are_refused_with_a_fix(
    words: object, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(VocabularyError, match=message):
        Vocabulary.from_words(words, **arguments)  # type: ignore[arg-type]


# Any words


@given(CLASSES)
@settings(max_examples=50, deadline=None)
def test_any_words_survive_a_vocabulary_file(classes: list[list[str]]) -> None:
    text = "".join(f"{i}:{','.join(words)}\n" for i, words in enumerate(classes))
    assert Vocabulary.from_text(text, source="test") == Vocabulary(classes=classes)


@given(CLASSES, CLASSES)
@settings(max_examples=50, deadline=None)
def test_seen_agrees_with_comparing_every_pair_of_words(
    first: list[list[str]], second: list[list[str]]
) -> None:
    words, training = Vocabulary(classes=first), Vocabulary(classes=second)
    expected = tuple(any(a == b for other in second for b in other for a in own) for own in first)
    assert words.seen_in(training) == expected


@given(st.lists(st.text(max_size=8), max_size=5))
@settings(max_examples=100, deadline=None)
def test_any_list_of_strings_gives_a_vocabulary_or_one_clear_error(words: list[str]) -> None:
    sets = {frozenset(" ".join(s.split()).casefold() for s in word.split(",")) for word in words}
    empty = any(not synonym.strip() for word in words for synonym in word.split(","))
    if not words or empty:
        with pytest.raises(VocabularyError, match="empty"):
            Vocabulary.from_words(words)
    elif len(sets) < len(words):
        with pytest.raises(VocabularyError, match="repeated"):
            Vocabulary.from_words(words)
    else:
        assert Vocabulary.from_words(words).num_classes == len(words)


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
        ("", "f: no class in it; write one per line, id:name,synonym"),
        ("# only a comment\n", "f: no class in it"),
        ("0:invalid_class_id\n", "f: no class in it"),
        ("1:a\nperson,child\n", r"f, line 2: 'person,child' does not begin with a number"),
        ("x:a\n", "f, line 1: 'x:a' does not begin with a number"),
        ("-1:a\n", "f, line 1: '-1:a' does not begin with a number"),
        (f"{'9' * 5000}:a\n", "f, line 1: an id of 5,000 digits; write at most 18"),
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
    with pytest.raises(VocabularyError, match=r"a\\x00\.txt: cannot be read .*null"):
        Vocabulary.from_file("a\0.txt")


@pytest.mark.skipif(sys.platform == "win32", reason="has no named pipes")
def test_a_pipe_and_an_endless_file_are_refused_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    for path in (tmp_path / "pipe.txt", "/dev/zero"):
        with pytest.raises(VocabularyError, match="cannot be read as a vocabulary file"):
            Vocabulary.from_file(path)


def test_a_file_in_another_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes("1:cat\n2:Möwe\n".encode("latin-1"))
    with pytest.raises(VocabularyError, match=r"words\.txt, line 2: not UTF-8"):
        Vocabulary.from_file(path)


def test_ten_thousand_classes_of_one_first_word_are_named_at_once() -> None:
    started = time.process_time()
    vocabulary = Vocabulary(classes=[["bag", f"bag of {n}", "container"] for n in range(10_000)])
    assert time.process_time() - started < 2
    assert vocabulary.names[7] == "bag (bag of 7)"
    assert len(set(vocabulary.names)) == 10_000


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
