# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Parses vocabulary files: one class per line, `id:name,synonym,synonym`, the format of OpenSeg and FC-CLIP.

Lines that start with `#` are comments; the comment `# isthing: 1 0 1` gives one flag per class, in file order.
OpenSeg's placeholder class `invalid_class_id` is skipped. Ids must be unique but are otherwise ignored: class indices
follow the order of the lines. Classes may share words, even the first one, as long as their sets of words differ
(ADE20K's 847 classes have three bags). Extra white space and a comma at the end of a line are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from cmpf.common.files import read_text
from cmpf.errors import VocabularyError

FORM = "id:name,synonym,synonym"
PLACEHOLDER = "invalid_class_id"
_MAX_BYTES = 2**24
_MAX_DIGITS = 18  # of an id; int() raises ValueError for thousands of digits
_FLAGS = re.compile(r"#\s*isthing\s*:(.*)", re.IGNORECASE)
_LINE_END = re.compile(r"\r\n|\r|\n")  # as editors count lines; str.splitlines splits at more characters


def read_vocabulary_text(path: str | Path) -> str:
    """Reads a UTF-8 text file.

    Raises:
        VocabularyError: the file cannot be read, is larger than 16 MiB or no regular file, or a line is not UTF-8.
    """
    try:
        return read_text(path, limit=_MAX_BYTES)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise VocabularyError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or error
        raise VocabularyError(f"{path}: cannot be read as a vocabulary file ({reason})") from error


def parse_vocabulary_text(
    text: str, *, source: str, repeats: bool = False
) -> tuple[tuple[tuple[str, ...], ...], tuple[bool, ...] | None]:
    """Parses the classes and, if present, the thing flags.

    Args:
        source: name of the file in error messages.
        repeats: allow classes with the same words, which some published files have.
    Returns:
        The synonyms of each class, and (K,) thing flags or None.
    Raises:
        VocabularyError: names the line and the reason.
    """
    classes: list[tuple[str, ...]] = []
    flags: tuple[int, tuple[bool, ...]] | None = None
    line_of: dict[int | frozenset[str], int] = {}
    for number, line in enumerate(_LINE_END.split(text), start=1):
        where = f"{source}, line {number}"
        content = line.strip()
        if content.startswith("#"):
            header = _FLAGS.match(content)
            flags = (number, _parse_flags(header[1], where)) if header else flags
        elif content:
            class_id, words = _parse_class(content, where)
            if (earlier := line_of.setdefault(class_id, number)) != number:
                raise VocabularyError(
                    f"{where}: id {class_id} is already on line {earlier}; give each class its own"
                )
            if words[0] == PLACEHOLDER:
                continue
            if (earlier := line_of.setdefault(word_set(words), number)) != number and not repeats:
                raise VocabularyError(
                    f"{where}: class {words[0]!r} has the same words as line {earlier}; name each class once, or "
                    "give one of them a word that the other lacks"
                )
            classes.append(words)
    if not classes:
        raise VocabularyError(f"{source}: no class in it; write one per line, {FORM}")
    if flags is not None and len(flags[1]) != len(classes):
        raise VocabularyError(
            f"{source}, line {flags[0]}: {len(flags[1])} isthing flags for {len(classes)} classes; "
            "write one per class"
        )
    return tuple(classes), None if flags is None else flags[1]


def word_set(words: Iterable[str]) -> frozenset[str]:
    """The words of a class regardless of order and case; classes with equal sets are the same class."""
    return frozenset(word.casefold() for word in words)


def _parse_class(content: str, where: str) -> tuple[int, tuple[str, ...]]:
    class_id, colon, names = content.partition(":")
    if not colon or not class_id.strip().isdecimal():
        raise VocabularyError(f"{where}: {content!r} does not begin with a number and a colon; write {FORM}")
    if len(class_id.strip()) > _MAX_DIGITS:
        raise VocabularyError(
            f"{where}: an id of {len(class_id.strip()):,} digits; write at most {_MAX_DIGITS}"
        )
    words = tuple(" ".join(word.split()) for word in names.strip().removesuffix(",").split(","))
    if not all(words):
        raise VocabularyError(f"{where}: empty name or synonym in {content!r}; write {FORM}")
    return int(class_id), words


def _parse_flags(flags: str, where: str) -> tuple[bool, ...]:
    values = flags.replace(",", " ").split()
    wrong = [value for value in values if value not in ("0", "1")]
    if wrong:
        raise VocabularyError(f"{where}: isthing flag {wrong[0]!r}; write 1 for things and 0 for stuff")
    return tuple(value == "1" for value in values)
