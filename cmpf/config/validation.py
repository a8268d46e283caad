# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Checks settings against the known keys, their types and their ranges."""

from __future__ import annotations

import math
from ast import literal_eval
from collections.abc import Iterable
from difflib import SequenceMatcher
from operator import attrgetter
from typing import Any

from fvcore.common.config import CfgNode

from cmpf.config.issues import Issue, Origin
from cmpf.config.relations import RELATIONS
from cmpf.config.rules import RULES, Rule
from cmpf.config.yaml_files import Setting


def merge(cfg: CfgNode, settings: Iterable[Setting]) -> list[Issue]:
    """Writes good settings into `cfg`, in order, and reports the bad ones.

    Args:
        cfg: unfrozen tree of all keys; changed in place.
        settings: later ones win.
    Returns:
        Unknown keys, wrong types, values out of range, and keys that do not go together.
    """
    issues: list[Issue] = []
    origins: dict[str, Origin] = {}
    bad: set[str] = set()
    for setting in settings:
        problem = _set(cfg, setting)
        origins[setting.key] = setting.origin
        if problem:
            issues.append(Issue(setting.key, problem, setting.origin))
            bad.add(setting.key)
    for relation in RELATIONS:
        given = [key for key in relation.keys if key in origins]
        problem = "" if bad.intersection(relation.keys) else relation.issue(cfg)
        if problem:
            origin = origins[given[0]] if given else Origin()
            issues.append(Issue(relation.keys[0], problem, origin))
    return issues


def _set(cfg: CfgNode, setting: Setting) -> str:
    """Writes one setting; returns what is wrong with it, or ""."""
    rule = RULES.get(setting.key)
    if rule is None:
        return _unknown(setting)
    section, _, name = setting.key.rpartition(".")
    node = attrgetter(section)(cfg) if section else cfg
    value, fits = _coerce(setting.value, type(node[name]), rule)
    if not fits or not rule.test(value):
        return f"expected {rule.allowed}, got {_quoted(setting.value)}"
    node[name] = value
    return ""


def _unknown(setting: Setting) -> str:
    if any(key.startswith(setting.key + ".") for key in RULES):
        return "" if setting.value == {} else f"is a section of keys, got the value {_quoted(setting.value)}"
    owner = next((key for key in RULES if setting.key.startswith(key + ".")), None)
    if owner:
        return f"{owner} is a key with a value, not a section"
    return f"unknown, did you mean {nearest_key(setting.key)}?"


def nearest_key(key: str) -> str:
    """The known key most like `key`; its last part counts as much as the whole: sections get forgotten."""

    def likeness(candidate: str) -> float:
        whole = SequenceMatcher(None, key.upper(), candidate).ratio()
        last = SequenceMatcher(None, key.upper().rpartition(".")[2], candidate.rpartition(".")[2]).ratio()
        return whole + last

    return max(RULES, key=likeness)


def _coerce(value: Any, wanted: type, rule: Rule) -> tuple[Any, bool]:
    """The value in the key's type, and whether it fits it."""
    if wanted is str:
        return _text(value)
    if wanted is tuple:
        return _sequence(value, rule.element)
    return _scalar(_literal(value), wanted)


def _text(value: Any) -> tuple[Any, bool]:
    literal = _literal(value)  # a shell hands over '""' where a YAML file would give an empty text
    return (literal, True) if isinstance(literal, str) else (value, isinstance(value, str))


def _sequence(value: Any, element: type) -> tuple[Any, bool]:
    value = _literal(value)
    if element is str and isinstance(value, str) and value:
        value = (value,)  # one dataset needs no brackets
    if not isinstance(value, (list, tuple)):
        return value, False
    items = [_text(item) if element is str else _scalar(_literal(item), element) for item in value]
    return tuple(item for item, _ in items), all(fits for _, fits in items)


def _scalar(value: Any, wanted: type) -> tuple[Any, bool]:
    if wanted is bool:
        words = {"true": True, "false": False}
        value = words.get(value.lower(), value) if isinstance(value, str) else value
        return value, isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value, False
    try:
        finite = math.isfinite(float(value))
    except OverflowError:
        finite = False
    if not finite:
        return value, False
    return wanted(value), wanted(value) == value


def _literal(value: Any) -> Any:
    """A text read as a Python literal where it is one: YAML leaves 1e-4 a text, and so does a shell."""
    if not isinstance(value, str):
        return value
    try:
        return literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def _quoted(value: Any) -> str:
    if value is None:
        return "nothing"
    shown = f'"{value}"' if isinstance(value, str) else repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
