# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""CMPF's keys in another program's tree of settings, which is a nested dict such as Detectron2's CfgNode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cmpf.config.keys import FREE, KEYS, leaves
from cmpf.config.schema import Config


def write_into(tree: dict[str, Any], cfg: Config) -> None:
    """Puts every key with its value into a nested dict, and the sections above it, which get the class of `tree`.

    A key that is there keeps its kind of sequence: Detectron2 has lists where CMPF has tuples.
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
