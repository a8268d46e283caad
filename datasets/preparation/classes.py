# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Names of the classes that the scripts write into JSON files."""

from __future__ import annotations

from pathlib import Path

import cmpf
from cmpf.data.vocabulary_file import parse_vocabulary_text, read_vocabulary_text

_FOLDER = Path(cmpf.__file__).parent / "assets" / "vocabularies"


def class_names(vocabulary: str, *, count: int) -> tuple[str, ...]:
    """First word of each class of a vocabulary file that comes with CMPF, in the order of the class indices.

    Args:
        vocabulary: such as "ade20k_150".
        count: number of classes that it must have.
    Raises:
        VocabularyError: no such file.
        ValueError: another number of classes.
    """
    path = _FOLDER / f"{vocabulary}.txt"
    classes, _ = parse_vocabulary_text(read_vocabulary_text(path), source=str(path))
    if len(classes) != count:
        raise ValueError(f"{path}: {len(classes)} classes; expected {count}")
    return tuple(words[0] for words in classes)
