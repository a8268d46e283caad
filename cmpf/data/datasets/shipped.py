# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Vocabulary files in the package, read when they are first used."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cmpf.data.vocabulary import Vocabulary

VOCABULARIES = Path(__file__).resolve().parents[2] / "assets" / "vocabularies"


@dataclass(frozen=True)
class Shipped:
    """Returns the vocabulary of a file in the package, which is read on the first call.

    name: name of the file, without suffix.
    things_only: leave out the stuff classes, for an instance dataset.
    """

    name: str
    things_only: bool = False

    def __call__(self) -> Vocabulary:
        """The vocabulary, always the same object."""
        return _read(self)


@cache
def _read(shipped: Shipped) -> Vocabulary:
    vocabulary = Vocabulary.from_file(VOCABULARIES / f"{shipped.name}.txt")
    if not shipped.things_only:
        return vocabulary
    return Vocabulary(classes=[vocabulary.classes[index] for index in vocabulary.things])
