# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Whatever people write for a vocabulary -> the classes: words, a file of them, or a dataset by name or YAML file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TypeAlias

from cmpf.data.datasets.catalog import FILE_PREFIX, dataset_names, get_vocabulary
from cmpf.data.vocabulary import Vocabulary
from cmpf.data.vocabulary_file import parse_vocabulary_text, read_vocabulary_text
from cmpf.errors import VocabularyError

Words: TypeAlias = "str | Path | Vocabulary | Sequence[str]"
SEPARATOR = ";"
FORM = 'a list of strings like ["car", "person, pedestrian"], a file, a dataset or a Vocabulary'
DATASET_ENDINGS = (".yaml", ".yml")


def read_words(
    words: Words,
    *,
    things: Iterable[str] | None = None,
    stuff: Iterable[str] | None = None,
    known: Sequence[Vocabulary] = (),
) -> Vocabulary:
    """The classes that a user means.

    Args:
        words: one of
            - a list of "name" or "name, synonym, synonym", or the same in one string separated by ";";
            - a vocabulary file: a path, or a string that ends in .txt;
            - a dataset: its name, "file:PATH" of its YAML file, or a path that ends in .yaml;
            - a Vocabulary.
        things, stuff: class names which are (not) counted one by one; see Vocabulary.from_words. They overrule what
            a file, a dataset or a Vocabulary says.
        known: tell things from stuff for words, and for a file that does not say.
    Raises:
        VocabularyError, DatasetError: each names the value, what is allowed and the fix.
    """
    given = _given(words)
    if not isinstance(given, Vocabulary):
        found = Vocabulary.from_words(given, things=things, stuff=stuff, known=known)
    elif things is None and stuff is None:
        found = given
    else:
        found = _with_kinds(given, things, stuff)
    _check_writable(found)
    return found


def _given(words: Words) -> Vocabulary | Sequence[str]:
    """Classes of which every kind is settled, or class words."""
    if isinstance(words, Vocabulary):
        return words
    if not isinstance(words, str | Path):
        if not isinstance(words, Iterable):
            raise VocabularyError(f"expected {FORM}, got {words!r}")
        return list(words)
    text = str(words).strip()
    if SEPARATOR in text and isinstance(words, str):
        return [word for word in text.split(SEPARATOR) if word.strip()]
    if text in dataset_names() or text.startswith(FILE_PREFIX):
        return get_vocabulary(text)
    suffix = Path(text).suffix.lower()
    if suffix in DATASET_ENDINGS:
        return get_vocabulary(f"{FILE_PREFIX}{text}")
    if isinstance(words, Path) or suffix == ".txt":
        return _from_file(text)
    _check_no_misspelt_dataset(text)
    return [text] if text else []


def _from_file(path: str) -> Vocabulary | Sequence[str]:
    classes, flags = parse_vocabulary_text(read_vocabulary_text(path), source=path)
    if flags is None:
        return [", ".join(synonyms) for synonyms in classes]
    return Vocabulary(classes=classes, things=[index for index, flag in enumerate(flags) if flag])


def _check_writable(vocabulary: Vocabulary) -> None:
    """Names go into files; bytes of a command line that are no UTF-8 arrive as characters that cannot be written."""
    for words in vocabulary.classes:
        for word in words:
            if "\0" in word or any("\ud800" <= character <= "\udfff" for character in word):
                raise VocabularyError(
                    f"class {word!a} has characters that no text file can hold; write it as UTF-8 text"
                )


def _check_no_misspelt_dataset(word: str) -> None:
    """People do not write underscores; where one word has some and is nearly a dataset's name, it is meant so."""
    near = get_close_matches(word, dataset_names(), n=1, cutoff=0.8) if "_" in word else []
    if near:
        raise VocabularyError(
            f"{word!r} is no dataset; did you mean {near[0]}? (as a class to look for, write it with a blank)"
        )


def _with_kinds(
    vocabulary: Vocabulary, things: Iterable[str] | None, stuff: Iterable[str] | None
) -> Vocabulary:
    """The same classes; those that neither list names keep their kind, or are stuff where only things are given."""
    words = [", ".join(synonyms) for synonyms in vocabulary.classes]
    things, stuff = (
        list(n) if isinstance(n, Iterable) and not isinstance(n, str) else n for n in (things, stuff)
    )
    flags = Vocabulary.from_words(words, things=things, stuff=stuff).is_thing  # checks the names, too
    if stuff is not None:
        chosen = Vocabulary.from_words(words, things=things or ()).is_thing
        refused = Vocabulary.from_words(words, things=stuff).is_thing
        own = vocabulary.is_thing
        flags = tuple(c or (o and not r) for c, o, r in zip(chosen, own, refused, strict=True))
    return vocabulary.with_things([index for index, thing in enumerate(flags) if thing])
