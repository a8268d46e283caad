# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Loads a validated configuration from YAML files and KEY VALUE overrides, with the origin of each value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cmpf.common.files import load_yaml
from cmpf.config.files import BASE_KEY, Setting, find_config, read_yaml
from cmpf.config.keys import (
    FREE,
    KEYS,
    MAPPING,
    MAX_LISTED_ISSUES,
    Issue,
    Origin,
    as_error,
    format_value,
    nearest_key,
)
from cmpf.config.relations import RELATIONS
from cmpf.config.schema import Config
from cmpf.config.values import literal
from cmpf.errors import ConfigError
from cmpf.registry import PLUGINS_KEY, merge_plugins


@dataclass(frozen=True)
class Resolved:
    """A configuration, and the origin of each value that was set, by dotted key."""

    cfg: Config
    origins: Mapping[str, Origin]


def get_cfg(
    path: str | Path | None = None, overrides: Sequence[Any] = (), *, plugins: Sequence[str] = ()
) -> Config:
    """Loads a configuration: the defaults, overridden by a YAML file with its bases, overridden by `overrides`.

    Args:
        path: a path, a path under configs/, or a bare name, see `find_config`; None = defaults only.
        overrides: [KEY, VALUE, KEY, VALUE, ...] as on a command line; values may be strings or Python values.
        plugins: modules, or paths of .py files, to add to MODEL.CMPF.PLUGINS; the path of a module that is already
            there replaces its name.
    Returns:
        An immutable configuration, see `with_overrides`.
    Raises:
        ConfigError: files, keys, values or overrides are invalid; the message lists every issue with file and line.
    """
    cfg = resolve(path, overrides).cfg
    if not plugins:
        return cfg
    return with_overrides(cfg, {PLUGINS_KEY: merge_plugins(cfg.MODEL.CMPF.PLUGINS, plugins)})


def resolve(path: str | Path | None, overrides: Sequence[Any] = (), *, bases: bool = True) -> Resolved:
    """Like `get_cfg`, but also returns the origin of each value. If not `bases`, `_BASE_` is not allowed."""
    settings, issues = _read(path, bases) if path is not None else ([], [])
    pairs, pair_issues = _pairs(overrides)
    return _merge(Config(), settings + pairs, issues + pair_issues)


def with_overrides(cfg: Config, changes: Mapping[str, Any]) -> Config:
    """A copy of a configuration with other values: `with_overrides(cfg, {"MODEL.WEIGHTS": "", "SEED": 1})`.

    Raises:
        ConfigError: a key is unknown, a value is not allowed, or keys contradict each other.
    """
    return _merge(cfg, [Setting(key, value, Origin()) for key, value in changes.items()], []).cfg


def _read(path: str | Path, bases: bool) -> tuple[list[Setting], list[Issue]]:
    try:
        return read_yaml(find_config(path), bases=bases)
    except ConfigError as error:
        return [], [Issue("", str(error), None)]


def _pairs(overrides: Sequence[Any]) -> tuple[list[Setting], list[Issue]]:
    if isinstance(overrides, str):
        return [], [Issue("", f'overrides must be a list of KEY VALUE pairs, got "{overrides}"', Origin())]
    issues: list[Issue] = []
    if len(overrides) % 2:
        issues.append(Issue(str(overrides[-1]), "has no value; overrides are KEY VALUE pairs", Origin()))
    pairs = list(zip(overrides[0::2], overrides[1::2], strict=False))
    for key, _ in pairs:
        if key == BASE_KEY:
            issues.append(Issue(BASE_KEY, "works in files only; give the file itself", Origin()))
    return [Setting(str(key), value, Origin()) for key, value in pairs if key != BASE_KEY], issues


def _merge(base: Config, settings: Iterable[Setting], issues: list[Issue]) -> Resolved:
    """Applies settings in ascending precedence and checks relations between keys; raises all issues at once."""
    tree, issues = base.model_dump(), list(issues)
    origins: dict[str, Origin] = {}
    invalid: set[str] = set()
    for setting in settings:
        issue = _set(tree, setting, suggest=len(issues) < MAX_LISTED_ISSUES)
        origins[setting.key] = setting.origin
        if issue:
            issues.append(Issue(setting.key, issue, setting.origin))
            invalid.add(setting.key)
    cfg = Config.model_validate(tree)
    for relation in RELATIONS:
        issue = "" if invalid.intersection(relation.keys) else relation.issue(cfg)
        if issue:
            places = [origins[key] for key in relation.keys if key in origins]
            issues.append(Issue(relation.keys[0], issue, places[0] if places else Origin()))
    if issues:
        raise as_error(issues)
    return Resolved(cfg, origins)


def _set(tree: dict[str, Any], setting: Setting, *, suggest: bool) -> str:
    """Applies one setting to the tree; returns its issue, or "" if it is valid.

    Args:
        tree: nested dict of all keys.
        setting: the setting.
        suggest: whether the issue of an unknown key names the most similar one.
    """
    if setting.key == FREE or setting.key.startswith(f"{FREE}."):
        return _set_free(tree, setting)
    setting = _expand_mapping(tree, setting)
    key = KEYS.get(setting.key)
    if key is None:
        return _unknown(setting, suggest)
    try:
        _put(tree, setting.key, key.parse(setting.value))
    except ValidationError:
        return f"expected {key.allowed}, got {format_value(setting.value)}"
    return ""


def _expand_mapping(tree: dict[str, Any], setting: Setting) -> Setting:
    """Converts the setting of one entry of MAPPING to one of the whole mapping, with its present entries."""
    if not setting.key.startswith(f"{MAPPING}."):
        return setting
    present = reduce(getitem, MAPPING.split("."), tree)
    entries = dict(present) if isinstance(present, dict) else {}
    entries[setting.key.removeprefix(f"{MAPPING}.")] = setting.value
    return Setting(MAPPING, entries, setting.origin)


def _set_free(tree: dict[str, Any], setting: Setting) -> str:
    """Applies a setting of a plug-in. String overrides are parsed as Python literals or YAML; files have types."""
    value = setting.value
    if setting.origin.file is None and isinstance(value, str):
        value = literal(value)
        with suppress(yaml.YAMLError):  # it stays a string
            value = load_yaml(value) if isinstance(value, str) else value
    candidate: dict[str, Any] = {}
    _put(candidate, setting.key, value)
    try:
        KEYS[FREE].parse(reduce(getitem, FREE.split("."), candidate))
    except ValidationError as error:
        reason = error.errors()[0].get("ctx", {}).get("error")
        return str(reason or f"expected {KEYS[FREE].allowed}, got {format_value(setting.value)}")
    entries = value.items() if setting.key == FREE else [("", value)]
    for name, item in entries:
        _put(tree, f"{setting.key}.{name}".rstrip("."), item)
    return ""


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        if not isinstance(tree.get(section), dict):
            tree[section] = {}
        tree = tree[section]
    tree[name] = value


def _unknown(setting: Setting, suggest: bool) -> str:
    """The issue of a setting that is not a key; "" for an empty section."""
    if any(key.startswith(setting.key + ".") for key in KEYS):
        return (
            ""
            if setting.value == {}
            else f"is a section of keys, got the value {format_value(setting.value)}"
        )
    owner = next((key for key in KEYS if setting.key.startswith(key + ".")), None)
    if owner:
        return f"{owner} is a key with a value, not a section"
    if not suggest:
        return "unknown"
    from cmpf.config.published import hint_for  # only needed for an error

    return hint_for(setting.key) or f"unknown, did you mean {nearest_key(setting.key, KEYS)}?"
