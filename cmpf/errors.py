# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Exceptions of CMPF. Every message names the value, what is allowed and the fix."""

from __future__ import annotations

from collections.abc import Iterable

MAX_LETTERS = 20_000  # of a message


class CMPFError(Exception):
    """Base of everything that a user can cause; the command line prints it as one line.

    What files and visitors put into a message does nothing to a terminal or a log: control characters are escaped, and
    what is very long is cut.
    """

    def __str__(self) -> str:
        text = str(self.args[0]) if self.args else ""
        if len(text) > MAX_LETTERS:
            text = f"{text[:MAX_LETTERS]}... ({len(text):,} letters)"
        return "".join(
            c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
        )


class ConfigError(CMPFError, ValueError):
    """A configuration file or override is wrong; lists every issue at once."""


class VocabularyError(CMPFError, ValueError):
    """A list of categories is empty, repeats a class or cannot be read."""


class ImageError(CMPFError, ValueError):
    """An image cannot be read or has an impossible size."""


class DatasetError(CMPFError, LookupError):
    """A dataset is unknown, not on disk, or damaged."""


class ModelNameError(CMPFError, ValueError):
    """A model, encoder or zoo name is not known."""


class WeightsError(CMPFError, RuntimeError):
    """Weights are missing, damaged, or do not belong to the model."""


class EvaluationError(CMPFError, ValueError):
    """Predictions and ground truth do not fit together."""


class TrainingError(CMPFError, RuntimeError):
    """Training cannot go on (non-finite losses, frozen parameters in the optimizer, ...)."""


class PluginError(CMPFError, RuntimeError):
    """A module with parts of the user's own is missing, fails, or registers what CMPF cannot take."""


def summary(error: BaseException, limit: int = 300) -> str:
    """The message of another library's error on one line, cut at `limit` characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= limit else f"{text[:limit]}..."


def first_few(values: Iterable[object], most: int = 5) -> str:
    """The first of some values for a message, and how many more there are: "a, b, c, d, e and 7 more"."""
    texts = [str(value) for value in values]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
