# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Values in the YAML file of a dataset, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from cmpf.common.files import is_file
from cmpf.data.vocabulary import Vocabulary
from cmpf.formats.label_map import MAX_LABEL


class WrongValueError(ValueError):
    """What was expected of a value, and what it is."""


def text(value: Any) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise WrongValueError(f"expected text, got {_shown(value)}")
    return value.strip()


def label(value: Any) -> int:
    """A value that a pixel of a label map may have."""
    if not _is_count(value) or value > MAX_LABEL:
        raise WrongValueError(f"expected a whole number 0..{MAX_LABEL}, got {_shown(value)}")
    return int(value)


def two_sides(value: Any) -> tuple[int, int]:
    """[shorter side, longest longer side] in pixels."""
    right = (
        isinstance(value, list) and len(value) == 2 and all(_is_count(side) and side > 0 for side in value)
    )
    if not right or value[0] > value[1]:
        raise WrongValueError(
            f"expected [shorter side, longest longer side] such as [800, 1333], got {_shown(value)}"
        )
    return value[0], value[1]


def index_map(value: Any) -> dict[int, int]:
    """{value in the files: class index}."""
    right = isinstance(value, dict) and value and all(_is_count(n) for pair in value.items() for n in pair)
    if not right or max(value) > MAX_LABEL:
        raise WrongValueError(
            f"expected {{value in the files: class index}} such as {{7: 0, 8: 1}}, got {_shown(value)}"
        )
    return dict(value)


def class_words(value: Any) -> list[str]:
    """A list of class names, which may be empty."""
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise WrongValueError(f"expected a list of class names such as [apple, pear], got {_shown(value)}")
    return value


def vocabulary_of(value: Any, *, known: Mapping[str, Callable[[], Vocabulary]], folder: Path) -> Vocabulary:
    """A vocabulary file, a list of classes ("name, synonym, synonym"), or the name of a known dataset.

    Args:
        known: dataset name -> its vocabulary.
        folder: to which the path of a file is relative.
    Raises:
        WrongValueError: none of the three.
        VocabularyError: the file or the list is wrong; names what.
    """
    if isinstance(value, list):
        return Vocabulary.from_words(class_words(value))
    name = text(value)
    if name in known:
        return known[name]()
    file = folder / Path(name).expanduser()
    if is_file(file):
        return Vocabulary.from_file(file)
    near = get_close_matches(name, [*known, *_files_beside(file)], n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise WrongValueError(
        f"{name}: neither a file ({file}) nor a known dataset; {hint}"
        "give a vocabulary file, a known dataset or a list of classes"
    )


def with_things(vocabulary: Vocabulary, things: list[str]) -> Vocabulary:
    """The same classes, of which only the named ones are things.

    Raises:
        VocabularyError: a name is no class.
    """
    return Vocabulary.from_words([", ".join(words) for words in vocabulary.classes], things=things)


def _files_beside(file: Path) -> list[str]:
    return [path.name for path in file.parent.iterdir()] if file.parent.is_dir() else []


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _shown(value: Any) -> str:
    shown = "nothing" if value is None else repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
