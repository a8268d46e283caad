# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pickle
import threading
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import CMPFError, VocabularyError

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
    words = Vocabulary(classes=[["boy", "child"], ["lane"], ["street"], ["Person"]], seen_against=training)
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
    words = Vocabulary(classes=[["a"], ["b"]], seen_against=Vocabulary(classes=[["a"]]))
    assert words.seen_for(Vocabulary(classes=[["b"]])) == (True, False)


def test_other_things_leave_seen_as_it_is() -> None:
    words = Vocabulary(classes=[["a"], ["b"]], seen_against=Vocabulary(classes=[["a"]])).with_things([1])
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
    words = Vocabulary(classes=[["a"], ["b"]], things=[1], seen_against=Vocabulary(classes=[["b"]]))
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
        (["car", "dog"], {"stuff": "car"}, "stuff must be a list of class names, got the string 'car'"),
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
