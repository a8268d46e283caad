# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Parsers of the values in a dataset's YAML file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cmpf.common.files import MAX_NAME, is_file
from cmpf.config.sections import Tree
from cmpf.data.vocabulary import Vocabulary
from cmpf.formats.label_map import MAX_LABEL

_MAX_PATH = 3000  # bytes; Linux allows 4,096 together with the folder of the YAML file


class WrongValueError(ValueError):
    """A value in a YAML file is invalid; the message says what was expected."""


def parse_text(value: Any) -> str:
    """A non-empty string."""
    if not isinstance(value, str) or not value.strip():
        raise WrongValueError(f"expected text, got {_shown(value)}")
    return value.strip()


def parse_path(value: Any) -> str:
    """A path that a file system can hold; the file need not exist."""
    path = parse_text(value)
    try:
        lengths = [len(os.fsencode(name)) for name in Path(path).parts]
        valid = "\0" not in path and max(lengths, default=0) <= MAX_NAME and sum(lengths) <= _MAX_PATH
    except UnicodeEncodeError:
        valid = False
    if not valid:
        raise WrongValueError(f"expected a path that a file system allows, got {_shown(value)}")
    return path


def parse_label(value: Any) -> int:
    """A pixel value of a label map."""
    if not _is_count(value) or value > MAX_LABEL:
        raise WrongValueError(f"expected a whole number 0..{MAX_LABEL}, got {_shown(value)}")
    return int(value)


def parse_test_size(value: Any) -> tuple[int, int]:
    """[shorter side, maximum longer side] in pixels."""
    valid = (
        isinstance(value, list) and len(value) == 2 and all(_is_count(side) and side > 0 for side in value)
    )
    if not valid or value[0] > value[1]:
        raise WrongValueError(
            f"expected [shorter side, longest longer side] such as [800, 1333], got {_shown(value)}"
        )
    return value[0], value[1]


def parse_label_map(value: Any) -> dict[int, int]:
    """{value in the files: class index}."""
    valid = isinstance(value, dict) and value and all(_is_count(n) for pair in value.items() for n in pair)
    if not valid or max(value) > MAX_LABEL:
        raise WrongValueError(
            f"expected {{value in the files: class index}} such as {{7: 0, 8: 1}}, got {_shown(value)}"
        )
    return dict(value)


def parse_extra(value: Any) -> Tree:
    """Arbitrary keys."""
    try:
        return Tree.model_validate(value)
    except ValidationError as error:
        raise WrongValueError(
            f"expected keys and values, got {_shown(value)} ({error.errors()[0]['msg']})"
        ) from error


def parse_class_names(value: Any) -> list[str]:
    """A list of class names, possibly empty."""
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise WrongValueError(f"expected a list of class names such as [apple, pear], got {_shown(value)}")
    return value


def parse_vocabulary(
    value: Any, *, known: Mapping[str, Callable[[], Vocabulary]], folder: Path
) -> Vocabulary:
    """A vocabulary file, a list of classes ("name, synonym, synonym"), or the name of a built-in dataset.

    Args:
        known: dataset name -> its vocabulary.
        folder: base of relative paths.
    Raises:
        WrongValueError: the value is none of the three.
        VocabularyError: the file or the list is invalid.
    """
    if isinstance(value, list):
        return Vocabulary.from_words(parse_class_names(value))
    name = parse_text(value)
    if name in known:
        return known[name]()
    file = folder / Path(name).expanduser()
    if is_file(file):
        return Vocabulary.from_file(file)
    near = get_close_matches(name, [*known, *_sibling_names(file)], n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise WrongValueError(
        f"{name}: neither a file ({file}) nor a known dataset; {hint}"
        "give a vocabulary file, a known dataset or a list of classes"
    )


def with_things(vocabulary: Vocabulary, things: list[str]) -> Vocabulary:
    """The same classes, with only the named ones as things.

    Raises:
        VocabularyError: a name is not a class.
    """
    return Vocabulary.from_words([", ".join(words) for words in vocabulary.classes], things=things)


def _sibling_names(file: Path) -> list[str]:
    return [path.name for path in file.parent.iterdir()] if file.parent.is_dir() else []


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _shown(value: Any) -> str:
    shown = "nothing" if value is None else repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
