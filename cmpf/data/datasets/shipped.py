# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Vocabulary files in the package, read when they are first used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cmpf.data.vocabulary import Vocabulary

VOCABULARIES = Path(__file__).resolve().parents[2] / "assets" / "vocabularies"


@dataclass(frozen=True)
class Shipped:
    """Returns the vocabulary of a file in the package, or a subset of its classes.

    name: name of the file, without suffix.
    read: reads the vocabulary, given the name.
    """

    name: str
    read: Callable[[str], Vocabulary]

    def __call__(self) -> Vocabulary:
        """The vocabulary."""
        return self.read(self.name)


def shipped_vocabulary(name: str) -> Callable[[], Vocabulary]:
    """The vocabulary of a file in the package, which is read on the first call."""
    return Shipped(name, read_shipped)


def shipped_things(name: str) -> Callable[[], Vocabulary]:
    """The thing classes of a vocabulary file in the package, for an instance dataset."""
    return Shipped(name, _read_shipped_things)


@cache
def read_shipped(name: str) -> Vocabulary:
    """Reads a vocabulary file of the package, given its name without suffix."""
    return Vocabulary.from_file(VOCABULARIES / f"{name}.txt")


@cache
def _read_shipped_things(name: str) -> Vocabulary:
    vocabulary = read_shipped(name)
    return Vocabulary(classes=[vocabulary.classes[index] for index in vocabulary.things])
