# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The tree of keys as a list: what each may hold, its value in a configuration or in another program's tree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic.fields import FieldInfo

from cmpf.config.schema import Config
from cmpf.config.values import Allowed, Section, Tree


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
