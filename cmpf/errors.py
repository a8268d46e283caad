# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Exceptions of CMPF. Each message names the value, what is allowed, and the fix."""

from __future__ import annotations

from collections.abc import Iterable

MAX_LENGTH = 20_000  # characters of a message


class CMPFError(Exception):
    """Base class of all errors that a user can cause; the command line prints them as one line.

    Messages may contain untrusted text from files and requests. Therefore control characters are escaped, and long
    messages are cut.
    """

    def __str__(self) -> str:
        text = str(self.args[0]) if self.args else ""
        if len(text) > MAX_LENGTH:
            text = f"{text[:MAX_LENGTH]}... ({len(text):,} letters)"
        return "".join(
            c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
        )


class ConfigError(CMPFError, ValueError):
    """A configuration file or override is wrong; lists all issues."""


class VocabularyError(CMPFError, ValueError):
    """A vocabulary is empty, repeats a class, or cannot be read."""


class ImageError(CMPFError, ValueError):
    """An image cannot be read or has an invalid size."""


class DatasetError(CMPFError, LookupError):
    """A dataset is unknown, not on disk, or damaged."""


class ModelNameError(CMPFError, ValueError):
    """The name of a model or encoder is unknown."""


class WeightsError(CMPFError, RuntimeError):
    """Weights are missing, damaged, or of another model."""


class EvaluationError(CMPFError, ValueError):
    """Predictions do not match the ground truth."""


class TrainingError(CMPFError, RuntimeError):
    """Training cannot continue (non-finite losses, frozen parameters in the optimizer, ...)."""


class PluginError(CMPFError, RuntimeError):
    """A plugin is missing, fails to import, or registers an invalid component."""


def summary(error: BaseException, limit: int = 300) -> str:
    """Type and message of an exception on one line, cut at `limit` characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= limit else f"{text[:limit]}..."


def first_few(values: Iterable[object], limit: int = 5) -> str:
    """The first values, and the number of the others, for a message: "a, b, c, d, e and 7 more"."""
    texts = [str(value) for value in values]
    more = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more
