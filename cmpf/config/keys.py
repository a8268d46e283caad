# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The configuration keys as a flat list, and the issues of settings with their origins."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo

from cmpf.config.schema import Config
from cmpf.config.sections import Section, Tree
from cmpf.config.values import Allowed
from cmpf.errors import ConfigError


@dataclass(frozen=True)
class Key:
    """A configuration key.

    Attributes:
        name: dotted name.
        section: the class that has the key as a field.
        field: the field.
    """

    name: str
    section: type[Section]
    field: FieldInfo

    @property
    def allowed(self) -> str:
        """A description of the allowed values."""
        texts = [part.text for part in self.field.metadata if isinstance(part, Allowed)]
        return texts[0] if texts else "one of " + ", ".join(map(str, get_args(self.field.annotation)))

    @property
    def meaning(self) -> str:
        """A one-line description."""
        return self.field.description or ""

    def parse(self, value: Any) -> Any:
        """Validates a value from a file, a command line or Python and converts it to the key's type.

        Raises:
            pydantic.ValidationError: the value is not allowed.
        """
        last = self.name.rpartition(".")[2]
        return getattr(self.section.model_validate({last: value}), last)


def _walk(section: type[Section], prefix: str) -> Iterator[Key]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _walk(field.annotation, f"{prefix}{name}.")
        else:
            yield Key(prefix + name, section, field)


KEYS: dict[str, Key] = {key.name: key for key in _walk(Config, "")}
FREE = "MODEL.CMPF.EXTRA"  # a tree of arbitrary keys
# Its value may be a mapping, of which files and overrides may set single entries.
MAPPING = "DATASETS.VOCABULARIES"


def leaves(node: Section | Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) for all keys of a configuration, including those in the free tree."""
    for name, value in node:
        if isinstance(value, (Section, Tree)):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def write_into(tree: dict[str, Any], cfg: Config) -> None:
    """Writes all keys of a configuration into a nested dict such as Detectron2's CfgNode.

    Missing sections are created with the class of `tree`. Where the tree has a list, as Detectron2 does, a tuple is
    written as a list.
    """
    _section(tree, FREE)
    for key, value in leaves(cfg):
        parent, _, name = key.rpartition(".")
        section = _section(tree, parent)
        if isinstance(section.get(name), list) and isinstance(value, tuple):
            # Detectron2's crops need integers; CMPF's key also allows fractions of the image.
            value = [int(v) if isinstance(v, float) and v.is_integer() else v for v in value]
        section[name] = value


def read_from(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the values of all of CMPF's keys from a nested dict, without validation.

    Returns:
        {dotted key: value}.
    Raises:
        KeyError: with the dotted name of a missing key.
    """
    values: dict[str, Any] = {}
    for key in KEYS:
        node: Any = tree
        for name in key.split("."):
            if not isinstance(node, Mapping) or name not in node:
                raise KeyError(key)
            node = node[name]
        values[key] = node
    return values


def _section(tree: dict[str, Any], key: str) -> dict[str, Any]:
    for name in key.split(".") if key else ():
        tree = tree.setdefault(name, type(tree)())
    return tree


MAX_LISTED_ISSUES = 50


@dataclass(frozen=True)
class Origin:
    """Where a setting comes from: a line of a file, or an override if `file` is None."""

    file: Path | None = None
    line: int | None = None

    def __str__(self) -> str:
        if self.file is None:
            return "override"
        return f"{format_path(self.file)} line {self.line}" if self.line else format_path(self.file)


@dataclass(frozen=True)
class Issue:
    """An issue of a setting or a file.

    Attributes:
        key: dotted key; "" if the issue concerns a whole file.
        message: what is wrong.
        origin: where it is; None = no particular place.
    """

    key: str
    message: str
    origin: Origin | None

    def text(self, *, with_file: bool) -> str:
        """The issue as "FILE line N: KEY: MESSAGE", with or without the file."""
        line = f"line {self.origin.line}" if self.origin and self.origin.line else ""
        place = str(self.origin or "") if with_file else line
        return ": ".join(part for part in (place, self.key, self.message) if part)


def format_path(path: Path) -> str:
    """A path for messages: relative to the current folder if that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)


def as_error(issues: Sequence[Issue]) -> ConfigError:
    """One error for all issues; if all are in the same file, it is named once."""
    count = f"{len(issues)} issue{'s' if len(issues) > 1 else ''}"
    files = {issue.origin.file if issue.origin else None for issue in issues}
    common_file = next(iter(files)) if len(files) == 1 else None
    where = f" in {format_path(common_file)}" if common_file else ""
    texts = [issue.text(with_file=not common_file) for issue in issues[:MAX_LISTED_ISSUES]]
    if len(issues) > MAX_LISTED_ISSUES:
        texts.append(f"and {len(issues) - MAX_LISTED_ISSUES:,} more")
    return ConfigError(f"{count}{where}: " + " · ".join(texts))


def nearest_key(key: str, known: Iterable[str]) -> str:
    """The known key most similar to `key`. The last part counts twice, because users forget sections."""

    def similarity(candidate: str) -> float:
        whole = SequenceMatcher(None, key.upper(), candidate).ratio()
        last = SequenceMatcher(None, key.upper().rpartition(".")[2], candidate.rpartition(".")[2]).ratio()
        return whole + last

    return max(known, key=similarity)


def format_value(value: Any) -> str:
    """A value for messages."""
    if value is None:
        return "nothing"
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
