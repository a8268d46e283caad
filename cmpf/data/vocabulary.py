# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Vocabulary: class names with synonyms, thing/stuff flags and seen/unseen flags."""

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
    """Classes with synonyms. Immutable and hashable, so it can be shared between threads and used as a key.

    Attributes:
        classes: one tuple of synonyms per class, the name first; white space is normalized, duplicates are removed.
            Classes may share words, even the first one, but no two have the same set of words.
        names: (K,) the first word of each class, made unique: "bag (purse)" where several classes are called "bag".
        is_thing: (K,) whether the class is a thing (countable objects) rather than stuff.
        seen: (K,) whether the class counts as seen in training: it shares a synonym, as a string, with the training
            vocabulary, or is flagged so by the published evaluations. None = decided by the model that predicts.
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
        repeats: bool = False,
    ) -> None:
        """
        Args:
            classes: one sequence of synonyms per class: [["person", "child"], ["car"]].
            things: indices of the thing classes; None = all, an empty list = none.
            repeats: allow classes with the same words, which some published vocabularies have; the first one wins.
        Raises:
            VocabularyError: no class, an empty word, two classes with the same words, or a thing index out of range.
        """
        normalized = _normalize_classes(classes)
        if not repeats:
            _check_repeats(normalized)
        object.__setattr__(self, "classes", normalized)
        object.__setattr__(self, "names", _unique_names(normalized))
        object.__setattr__(self, "is_thing", _thing_flags(things, len(normalized)))
        object.__setattr__(self, "key", hashlib.sha256(json.dumps(normalized).encode()).hexdigest())
        object.__setattr__(self, "seen", None)

    @property
    def num_classes(self) -> int:
        """Number of classes, K."""
        return len(self.classes)

    @property
    def things(self) -> tuple[int, ...]:
        """Indices of the thing classes."""
        return tuple(index for index, is_thing in enumerate(self.is_thing) if is_thing)

    def __len__(self) -> int:
        return len(self.classes)

    def seen_in(self, training: Vocabulary) -> tuple[bool, ...]:
        """(K,) whether each class shares a synonym, as a string, with a class of the training vocabulary."""
        known = {word for words in training.classes for word in words}
        return tuple(not known.isdisjoint(words) for words in self.classes)

    def seen_for(self, training: Vocabulary) -> tuple[bool, ...]:
        """(K,) `seen` if it is set, else the flags against the given training vocabulary."""
        return self.seen_in(training) if self.seen is None else self.seen

    def with_things(self, things: Iterable[int]) -> Vocabulary:
        """The same classes and seen flags, with the given indices as things."""
        return Vocabulary(classes=self.classes, things=things, repeats=True).with_seen(self.seen)

    def with_seen(self, seen: Sequence[bool] | None) -> Vocabulary:
        """The same classes with these seen flags, which override those of the model; None = the model decides.

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
        """The same classes with the seen flags for another training vocabulary."""
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
        """Builds a vocabulary from one string per class.

        Args:
            words: one string per class, "name" or "name, synonym, synonym".
            things: words of the thing classes; with it (and without `stuff`) all other classes are stuff. A word
                selects the classes with this name, or if there is none, all classes with this synonym.
            stuff: words of the stuff classes.
            known: vocabularies that decide for classes in neither list. The first one with a word of the class as a
                class name decides, or if there is none, the first one with it as a synonym; otherwise it is a thing.
        Raises:
            VocabularyError: as the constructor; or a thing or stuff word names no class, or is in both lists.
        """
        if isinstance(words, str) or not all(isinstance(entry, str) for entry in words):
            raise VocabularyError(
                f'expected a list of strings like ["car", "person, pedestrian"], got {words!r}'
            )
        classes = _normalize_classes([entry.split(",") for entry in words])
        thing_indices = _classes_named("things", things, classes)
        stuff_indices = _classes_named("stuff", stuff, classes)
        if both := thing_indices & stuff_indices:
            raise VocabularyError(f"{classes[min(both)][0]!r} is both in things and in stuff; keep one")
        known_flags = _known_thing_flags(known)

        def is_thing(index: int) -> bool:
            if index in thing_indices or index in stuff_indices or (things is not None and stuff is None):
                return index in thing_indices
            return next((known_flags[word] for word in classes[index] if word in known_flags), True)

        return cls(classes=classes, things=[index for index in range(len(classes)) if is_thing(index)])

    @classmethod
    def from_text(cls, text: str, *, source: str) -> Vocabulary:
        """Parses the text of a vocabulary file; see cmpf.data.vocabulary_file for the format.

        Raises:
            VocabularyError: names `source`, the line and the reason.
        """
        classes, flags = parse_vocabulary_text(text, source=source)
        things = None if flags is None else [index for index, flag in enumerate(flags) if flag]
        return cls(classes=classes, things=things)

    @classmethod
    def from_file(cls, path: str | Path) -> Vocabulary:
        """Reads a vocabulary file of `id:name,synonym` lines; class indices follow the order of the lines.

        Raises:
            VocabularyError: the file cannot be read, or a line is malformed; names the file, the line and the reason.
        """
        return cls.from_text(read_vocabulary_text(path), source=str(path))


def _normalize_classes(classes: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise VocabularyError(f"expected {FORM}, got {classes!r}")
    if not classes:
        raise VocabularyError("the vocabulary is empty; name at least one class")
    normalized = []
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
        normalized.append(tuple(dict.fromkeys(" ".join(word.split()) for word in words)))
    return tuple(normalized)


def _check_repeats(classes: Sequence[Sequence[str]]) -> None:
    """Rejects classes with equal sets of words: CLIP lower-cases them, and the order of synonyms is irrelevant."""
    first: dict[frozenset[str], int] = {}
    for position, words in enumerate(classes):
        earlier = first.setdefault(word_set(words), position)
        if earlier != position:
            raise VocabularyError(
                f"class {words[0]!r} is repeated, at positions {earlier} and {position}; name each class once, "
                "or give one of them a word that the other lacks"
            )


def _unique_names(classes: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The first word of each class, made unique because metrics are keyed by it.

    Where several classes share their first word, each is followed by its first synonym that the others lack, in
    parentheses: "bag (purse)". A class without synonyms keeps the plain word. Where no synonym differs, the class
    index is used: "bag (12)".
    """
    by_first_word: dict[str, list[int]] = {}
    for index, words in enumerate(classes):
        by_first_word.setdefault(words[0].casefold(), []).append(index)
    names = [words[0] for words in classes]
    used = set(by_first_word)
    for indices in by_first_word.values():
        if len(indices) == 1:
            continue
        counts = Counter(word for index in indices for word in word_set(classes[index]))
        for index in indices:
            if len(classes[index]) > 1:
                shared = {word for word in word_set(classes[index]) if counts[word] > 1}
                names[index] = _qualified_name(classes[index], index=index, shared=shared, used=used)
                used.add(names[index].casefold())
    return tuple(names)


def _qualified_name(
    words: Sequence[str], *, index: int, shared: Collection[str], used: Collection[str]
) -> str:
    for word in words[1:]:
        name = f"{words[0]} ({word})"
        if word.casefold() not in shared and name.casefold() not in used:
            return name
    name = f"{words[0]} ({index})"
    while name.casefold() in used:
        name += f" ({index})"
    return name


def _thing_flags(things: Iterable[int] | None, count: int) -> tuple[bool, ...]:
    if things is None:
        return (True,) * count
    if isinstance(things, str | bytes) or not isinstance(things, Iterable):
        raise VocabularyError(f"things must be a list of class indices, got {things!r}")
    indices = list(things)
    for index in indices:
        if not isinstance(index, Integral) or isinstance(index, bool) or not 0 <= index < count:
            raise VocabularyError(
                f"things names the class index {index!r}; this vocabulary has 0..{count - 1} "
                "(Vocabulary.from_words takes names)"
            )
    selected = set(indices)
    return tuple(index in selected for index in range(count))


def _classes_named(argument: str, words: Iterable[str] | None, classes: Sequence[Sequence[str]]) -> set[int]:
    """Indices of the classes that the words select: for each word those with this name, or else with this synonym."""
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
    selected: set[int] = set()
    for word in words or ():
        normalized = " ".join(str(word).split())
        if normalized not in indices_of:
            near = get_close_matches(normalized, indices_of, n=1) or [next(iter(indices_of))]
            raise VocabularyError(
                f"{argument} names {word!r}, which is no class of the vocabulary; did you mean {near[0]!r}?"
            )
        selected |= indices_of[normalized]
    return selected


def _known_thing_flags(known: Sequence[Vocabulary]) -> dict[str, bool]:
    """Word -> thing flag. Names take precedence over synonyms, then earlier vocabularies over later ones."""
    names: dict[str, bool] = {}
    synonyms: dict[str, bool] = {}
    for vocabulary in known:
        for words, is_thing in zip(vocabulary.classes, vocabulary.is_thing, strict=True):
            names.setdefault(words[0], is_thing)
            for word in words[1:]:
                synonyms.setdefault(word, is_thing)
    return synonyms | names
