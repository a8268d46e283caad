# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Resolves a user's vocabulary argument: words, a vocabulary file, or a dataset by name or YAML file."""

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
DATASET_SUFFIXES = (".yaml", ".yml")


def read_words(
    words: Words,
    *,
    things: Iterable[str] | None = None,
    stuff: Iterable[str] | None = None,
    known: Sequence[Vocabulary] = (),
) -> Vocabulary:
    """Converts a user's vocabulary argument to a Vocabulary.

    Args:
        words: one of
            - a list of "name" or "name, synonym, synonym", or the same in one string separated by ";";
            - a vocabulary file: a path, or a string that ends in .txt;
            - a dataset: its name, "file:PATH" of its YAML file, or a path that ends in .yaml;
            - a Vocabulary.
        things, stuff: names of the thing and the stuff classes, see Vocabulary.from_words. They override the flags of
            a file, a dataset or a Vocabulary.
        known: vocabularies that decide thing or stuff for plain words and for files without thing flags.
    Raises:
        VocabularyError, DatasetError: each names the value, what is allowed and the fix.
    """
    resolved = _resolve(words)
    if not isinstance(resolved, Vocabulary):
        vocabulary = Vocabulary.from_words(resolved, things=things, stuff=stuff, known=known)
    elif things is None and stuff is None:
        vocabulary = resolved
    else:
        vocabulary = _override_things(resolved, things, stuff)
    _check_encodable(vocabulary)
    return vocabulary


def _resolve(words: Words) -> Vocabulary | Sequence[str]:
    """A Vocabulary if the thing flags are known, else one string per class."""
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
    if suffix in DATASET_SUFFIXES:
        return get_vocabulary(f"{FILE_PREFIX}{text}")
    if isinstance(words, Path) or suffix == ".txt":
        return _read_file(text)
    _check_no_misspelled_dataset(text)
    return [text] if text else []


def _read_file(path: str) -> Vocabulary | Sequence[str]:
    classes, flags = parse_vocabulary_text(read_vocabulary_text(path), source=path)
    if flags is None:
        return [", ".join(synonyms) for synonyms in classes]
    return Vocabulary(classes=classes, things=[index for index, flag in enumerate(flags) if flag])


def _check_encodable(vocabulary: Vocabulary) -> None:
    """Rejects words that cannot be written to a file: command-line bytes that are not UTF-8 arrive as surrogates."""
    for words in vocabulary.classes:
        for word in words:
            if "\0" in word or any("\ud800" <= character <= "\udfff" for character in word):
                raise VocabularyError(
                    f"class {word!a} has characters that no text file can hold; write it as UTF-8 text"
                )


def _check_no_misspelled_dataset(word: str) -> None:
    """Rejects a single word with underscores that is close to the name of a dataset."""
    near = get_close_matches(word, dataset_names(), n=1, cutoff=0.8) if "_" in word else []
    if near:
        raise VocabularyError(
            f"{word!r} is no dataset; did you mean {near[0]}? (as a class to look for, write it with a blank)"
        )


def _override_things(
    vocabulary: Vocabulary, things: Iterable[str] | None, stuff: Iterable[str] | None
) -> Vocabulary:
    """The same classes with other thing flags.

    Classes in neither list are stuff if only `things` is given, and keep their flag otherwise.
    """
    words = [", ".join(synonyms) for synonyms in vocabulary.classes]
    things, stuff = (
        list(n) if isinstance(n, Iterable) and not isinstance(n, str) else n for n in (things, stuff)
    )
    flags = Vocabulary.from_words(words, things=things, stuff=stuff).is_thing  # also checks the names
    if stuff is not None:
        in_things = Vocabulary.from_words(words, things=things or ()).is_thing
        in_stuff = Vocabulary.from_words(words, things=stuff).is_thing
        before = vocabulary.is_thing
        flags = tuple(t or (b and not s) for t, b, s in zip(in_things, before, in_stuff, strict=True))
    return vocabulary.with_things([index for index, is_thing in enumerate(flags) if is_thing])
