# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The tree of keys as a list: what each may hold, its value in a configuration or in another tree; and what is wrong
with one, where and how it is told.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo

from cmpf.config.schema import Config
from cmpf.config.values import Allowed, Section, Tree
from cmpf.errors import ConfigError


@dataclass(frozen=True)
class Key:
    """One key. `name` is dotted; `section` is the class that has it as the field `field`."""

    name: str
    section: type[Section]
    field: FieldInfo

    @property
    def allowed(self) -> str:
        """What it may hold, in words."""
        words = [part.text for part in self.field.metadata if isinstance(part, Allowed)]
        return words[0] if words else "one of " + ", ".join(map(str, get_args(self.field.annotation)))

    @property
    def meaning(self) -> str:
        """One line about it."""
        return self.field.description or ""

    def read(self, value: Any) -> Any:
        """A value from a file, a shell or a program in the type of this key.

        Raises:
            pydantic.ValidationError: it cannot be one.
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
# A mapping with names of the user's in it; a file may have one name in a line, as in a section.
MAPPINGS = tuple(name for name, key in KEYS.items() if "{" in key.allowed)
FREE = next(name for name, key in KEYS.items() if key.field.annotation is Tree)


def leaves(node: Section | Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in a tree that is no section; a free tree without keys is no leaf."""
    for name, value in node:
        if isinstance(value, (Section, Tree)):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def write_into(tree: dict[str, Any], cfg: Config) -> None:
    """Puts every key with its value into a nested dict such as Detectron2's CfgNode.

    Sections that are not there are made in the class of `tree`. A key that is there keeps its kind of sequence:
    Detectron2 has lists where CMPF has tuples.
    """
    _section(tree, FREE)
    for key, value in leaves(cfg):
        above, _, name = key.rpartition(".")
        section = _section(tree, above)
        if isinstance(section.get(name), list) and isinstance(value, tuple):
            # Numbers of pixels must be whole in Detectron2's crops; in CMPF the same key may hold shares.
            value = [int(v) if isinstance(v, float) and v.is_integer() else v for v in value]
        section[name] = value


def read_from(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The values of all keys of CMPF in a nested dict, unchecked.

    Raises:
        KeyError: with the dotted name of a key that is not there.
    """
    found: dict[str, Any] = {}
    for key in KEYS:
        node: Any = tree
        for name in key.split("."):
            if not isinstance(node, Mapping) or name not in node:
                raise KeyError(key)
            node = node[name]
        found[key] = node
    return found


def _section(tree: dict[str, Any], key: str) -> dict[str, Any]:
    for name in key.split(".") if key else ():
        tree = tree.setdefault(name, type(tree)())
    return tree


SHOWN_ISSUES = 50


@dataclass(frozen=True)
class Origin:
    """Where a setting comes from: a line of a file, or an override when `file` is None."""

    file: Path | None = None
    line: int | None = None

    def __str__(self) -> str:
        if self.file is None:
            return "override"
        return f"{shown(self.file)} line {self.line}" if self.line else shown(self.file)


@dataclass(frozen=True)
class Issue:
    """One thing that is wrong; `key` is empty where a whole file is meant, `origin` None for no place."""

    key: str
    message: str
    origin: Origin | None

    def text(self, *, with_file: bool) -> str:
        line = f"line {self.origin.line}" if self.origin and self.origin.line else ""
        place = str(self.origin or "") if with_file else line
        return ": ".join(part for part in (place, self.key, self.message) if part)


def shown(path: Path) -> str:
    """A path as people read it: relative to the current folder where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)


def as_error(issues: Sequence[Issue]) -> ConfigError:
    """One error for all issues; the file stands once in front where all are in the same."""
    count = f"{len(issues)} issue{'s' if len(issues) > 1 else ''}"
    files = {issue.origin.file if issue.origin else None for issue in issues}
    only = next(iter(files)) if len(files) == 1 else None
    where = f" in {shown(only)}" if only else ""
    texts = [issue.text(with_file=not only) for issue in issues[:SHOWN_ISSUES]]
    if len(issues) > SHOWN_ISSUES:
        texts.append(f"and {len(issues) - SHOWN_ISSUES:,} more")
    return ConfigError(f"{count}{where}: " + " · ".join(texts))


def nearest_key(key: str, known: Iterable[str]) -> str:
    """The known key most like `key`; its last part counts as much as the whole: sections get forgotten."""

    def likeness(candidate: str) -> float:
        whole = SequenceMatcher(None, key.upper(), candidate).ratio()
        last = SequenceMatcher(None, key.upper().rpartition(".")[2], candidate.rpartition(".")[2]).ratio()
        return whole + last

    return max(known, key=likeness)


def quoted(value: Any) -> str:
    """A value as a message shows it."""
    if value is None:
        return "nothing"
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
