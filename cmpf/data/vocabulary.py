# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Vocabulary: the classes to look for, each with its synonyms, and which of them are things and seen."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from numbers import Integral
from pathlib import Path

from cmpf.data.vocabulary_file import parse_vocabulary_text, read_vocabulary_text, word_set
from cmpf.errors import VocabularyError

FORM = 'a list of classes, each a list of synonyms: [["person", "child"], ["car"]]'


@dataclass(frozen=True, init=False)
class Vocabulary:
    """Classes with synonyms. Immutable and hashable, so it may be shared between threads and be a key.

    Attributes:
        classes: one tuple of synonyms a class, the name first; white space is tidied, doubles are dropped. Classes may
            share words, the first one too; no two may have the same words.
        names: (K,) the first word of each class, made unique: see `_unique_names`.
        is_thing: (K,) whether objects of the class are counted one by one.
        seen: (K,) whether any synonym of the class equals, as a string, any synonym of the training vocabulary that it
            was made with, or as published; None without one, which leaves it to the model that predicts.
        key: content hash of `classes`; vocabularies with equal keys have equal text embeddings.
    """

    classes: tuple[tuple[str, ...], ...]
    names: tuple[str, ...] = field(repr=False, compare=False)
    is_thing: tuple[bool, ...]
    seen: tuple[bool, ...] | None
    key: str = field(repr=False, compare=False)

    def __init__(
        self,
        *,
        classes: Sequence[Sequence[str]],
        things: Iterable[int] | None = None,
        seen_against: Vocabulary | None = None,
        repeats: bool = False,
    ) -> None:
        """
        Args:
            classes: see FORM.
            things: indices of the thing classes; None = all, an empty list = none.
            seen_against: the training vocabulary; None = the one of the model that predicts.
            repeats: take classes with the same words, of which the first wins; published vocabularies may have some.
        Raises:
            VocabularyError: no class, an empty word, two classes with the same words, or a thing that is not
                there.
        """
        tidy = _tidy_classes(classes)
        if not repeats:
            _check_repeats(tidy)
        object.__setattr__(self, "classes", tidy)
        object.__setattr__(self, "names", _unique_names(tidy))
        object.__setattr__(self, "is_thing", _thing_flags(things, len(tidy)))
        object.__setattr__(self, "key", hashlib.sha256(json.dumps(tidy).encode()).hexdigest())
        object.__setattr__(self, "seen", None if seen_against is None else self.seen_in(seen_against))

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classes)

    @property
    def things(self) -> tuple[int, ...]:
        """Indices of the thing classes."""
        return tuple(index for index, thing in enumerate(self.is_thing) if thing)

    def __len__(self) -> int:
        return len(self.classes)

    def seen_in(self, training: Vocabulary) -> tuple[bool, ...]:
        """(K,) whether each class shares a synonym, as a string, with a class of the training vocabulary."""
        known = {word for words in training.classes for word in words}
        return tuple(not known.isdisjoint(words) for words in self.classes)

    def seen_for(self, training: Vocabulary) -> tuple[bool, ...]:
        """(K,) its own `seen`, where it was made with a training vocabulary, else against the given one."""
        return self.seen_in(training) if self.seen is None else self.seen

    def with_things(self, things: Iterable[int]) -> Vocabulary:
        """The same classes, seen as before, of which the given indices are things."""
        return Vocabulary(classes=self.classes, things=things, repeats=True).with_seen(self.seen)

    def with_seen(self, seen: Sequence[bool] | None) -> Vocabulary:
        """The same classes, of which those flagged count as seen, whatever the model was trained on; None = it decides.

        Raises:
            VocabularyError: not one flag per class.
        """
        if seen is not None and len(seen) != self.num_classes:
            raise VocabularyError(
                f"{len(seen)} flags of seen classes for {self.num_classes} classes; give one per class"
            )
        changed = Vocabulary(classes=self.classes, things=self.things, repeats=True)
        object.__setattr__(changed, "seen", None if seen is None else tuple(map(bool, seen)))
        return changed

    def seen_against(self, training: Vocabulary) -> Vocabulary:
        """The same classes with `seen` set for another training vocabulary."""
        return self.with_seen(self.seen_in(training))

    @classmethod
    def from_words(
        cls,
        words: Sequence[str],
        *,
        things: Iterable[str] | None = None,
        stuff: Iterable[str] | None = None,
        known: Sequence[Vocabulary] = (),
    ) -> Vocabulary:
        """A vocabulary as users write it.

        Args:
            words: one string per class, "name" or "name, synonym, synonym".
            things: words of the thing classes; with it (and without `stuff`) all other classes are stuff. A word
                means the classes that it is the name of, or if there is none, all that have it as a synonym.
            stuff: words of the stuff classes.
            known: classes that neither list settles are as in the first of these that has one of their words as
                the name of a class, or if there is none, as a synonym; things where none has.
        Raises:
            VocabularyError: as the constructor; or a thing or stuff word names no class, or is in both lists.
        """
        if isinstance(words, str) or not all(isinstance(entry, str) for entry in words):
            raise VocabularyError(
                f'expected a list of strings like ["car", "person, pedestrian"], got {words!r}'
            )
        classes = _tidy_classes([entry.split(",") for entry in words])
        chosen = _classes_named("things", things, classes)
        refused = _classes_named("stuff", stuff, classes)
        if both := chosen & refused:
            raise VocabularyError(f"{classes[min(both)][0]!r} is both in things and in stuff; keep one")
        kinds = _kinds(known)

        def is_thing(index: int) -> bool:
            if index in chosen or index in refused or (things is not None and stuff is None):
                return index in chosen
            found = [kinds[word] for word in classes[index] if word in kinds]
            return found[0] if found else True

        return cls(classes=classes, things=[index for index in range(len(classes)) if is_thing(index)])

    @classmethod
    def from_text(cls, text: str, *, source: str) -> Vocabulary:
        """A vocabulary from the text of a vocabulary file; see cmpf.data.vocabulary_file.

        Raises:
            VocabularyError: names `source`, the line and the reason.
        """
        classes, flags = parse_vocabulary_text(text, source=source)
        things = None if flags is None else [index for index, flag in enumerate(flags) if flag]
        return cls(classes=classes, things=things)

    @classmethod
    def from_file(cls, path: str | Path) -> Vocabulary:
        """A vocabulary from a file of `id:name,synonym` lines; the class index is the place in the file.

        Raises:
            VocabularyError: the file cannot be read, or a line is wrong: names file, line and reason.
        """
        return cls.from_text(read_vocabulary_text(path), source=str(path))


def _tidy_classes(classes: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise VocabularyError(f"expected {FORM}, got {classes!r}")
    if not classes:
        raise VocabularyError("the vocabulary is empty; name at least one class")
    tidy = []
    for position, words in enumerate(classes):
        if isinstance(words, str) or not isinstance(words, Sequence):
            raise VocabularyError(
                f"class {position} is {words!r}; expected {FORM}, or call Vocabulary.from_words"
            )
        if not words or not all(isinstance(word, str) and word.strip() for word in words):
            raise VocabularyError(
                f"class {position} ({', '.join(map(str, words))!r}) has an empty name or synonym; "
                "write at least one word for each"
            )
        tidy.append(tuple(dict.fromkeys(" ".join(word.split()) for word in words)))
    return tuple(tidy)


def _check_repeats(classes: Sequence[Sequence[str]]) -> None:
    """CLIP reads lower case and the order of synonyms means nothing, so equal sets are the same class."""
    first: dict[frozenset[str], int] = {}
    for position, words in enumerate(classes):
        earlier = first.setdefault(word_set(words), position)
        if earlier != position:
            raise VocabularyError(
                f"class {words[0]!r} is repeated, at positions {earlier} and {position}; name each class once, "
                "or give one of them a word that the other lacks"
            )


def _unique_names(classes: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The first word of each class; metrics are keyed by it, so it must be unique.

    A first word that several classes share is followed by the class's first synonym that the others lack, in
    brackets: "bag (purse)". A class of this word alone keeps it plain. Where no synonym tells the classes
    apart, the class index does: "bag (12)".
    """
    alike: dict[str, list[int]] = {}
    for index, words in enumerate(classes):
        alike.setdefault(words[0].casefold(), []).append(index)
    names = [words[0] for words in classes]
    taken = set(alike)
    for indices in alike.values():
        if len(indices) == 1:
            continue
        owners = Counter(word for index in indices for word in word_set(classes[index]))
        for index in indices:
            if len(classes[index]) > 1:
                others = {word for word in word_set(classes[index]) if owners[word] > 1}
                names[index] = _bracketed(classes[index], index=index, others=others, taken=taken)
                taken.add(names[index].casefold())
    return tuple(names)


def _bracketed(words: Sequence[str], *, index: int, others: Collection[str], taken: Collection[str]) -> str:
    for word in words[1:]:
        name = f"{words[0]} ({word})"
        if word.casefold() not in others and name.casefold() not in taken:
            return name
    name = f"{words[0]} ({index})"
    while name.casefold() in taken:
        name += f" ({index})"
    return name


def _thing_flags(things: Iterable[int] | None, count: int) -> tuple[bool, ...]:
    if things is None:
        return (True,) * count
    if isinstance(things, str | bytes) or not isinstance(things, Iterable):
        raise VocabularyError(f"things must be a list of class indices, got {things!r}")
    chosen = list(things)
    for index in chosen:
        if not isinstance(index, Integral) or isinstance(index, bool) or not 0 <= index < count:
            raise VocabularyError(
                f"things names the class index {index!r}; this vocabulary has 0..{count - 1} "
                "(Vocabulary.from_words takes names)"
            )
    return tuple(index in chosen for index in range(count))


def _classes_named(argument: str, words: Iterable[str] | None, classes: Sequence[Sequence[str]]) -> set[int]:
    """Indices of the classes that the words mean: those with this name, or else all with this synonym."""
    if words is not None and (isinstance(words, str | bytes) or not isinstance(words, Iterable)):
        raise VocabularyError(f"{argument} must be a list of class names, got {words!r}")
    by_name: dict[str, set[int]] = {}
    by_synonym: dict[str, set[int]] = {}
    for index, (name, synonyms) in enumerate(zip(_unique_names(classes), classes, strict=True)):
        for word in {name, synonyms[0]}:
            by_name.setdefault(word, set()).add(index)
        for synonym in synonyms:
            by_synonym.setdefault(synonym, set()).add(index)
    indices_of = by_synonym | by_name
    found: set[int] = set()
    for word in words or ():
        tidy = " ".join(str(word).split())
        if tidy not in indices_of:
            near = get_close_matches(tidy, indices_of, n=1) or [next(iter(indices_of))]
            raise VocabularyError(
                f"{argument} names {word!r}, which is no class of the vocabulary; did you mean {near[0]!r}?"
            )
        found |= indices_of[tidy]
    return found


def _kinds(known: Sequence[Vocabulary]) -> dict[str, bool]:
    """Word -> whether it is a thing. Names go before synonyms, then earlier vocabularies before later ones."""
    names: dict[str, bool] = {}
    synonyms: dict[str, bool] = {}
    for vocabulary in known:
        for words, thing in zip(vocabulary.classes, vocabulary.is_thing, strict=True):
            names.setdefault(words[0], thing)
            for word in words[1:]:
                synonyms.setdefault(word, thing)
    return synonyms | names
