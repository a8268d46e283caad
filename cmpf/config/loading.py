# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""From YAML files and KEY VALUE pairs to one checked configuration that knows where each value comes from."""

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
from cmpf.config.keys import FREE, KEYS, MAPPINGS, SHOWN_ISSUES, Issue, Origin, as_error, nearest_key, quoted
from cmpf.config.relations import RELATIONS
from cmpf.config.schema import Config
from cmpf.config.values import literal
from cmpf.errors import ConfigError
from cmpf.registry import PLUGINS_KEY, merge_plugins


@dataclass(frozen=True)
class Resolved:
    """A configuration, and where each value that is no default was set last, by dotted key."""

    cfg: Config
    origins: Mapping[str, Origin]


def get_cfg(
    path: str | Path | None = None, overrides: Sequence[Any] = (), *, plugins: Sequence[str] = ()
) -> Config:
    """Defaults, then a YAML file with its bases, then overrides.

    Args:
        path: what `find_config` finds: a path, a path under configs/, or a bare name; None = defaults only.
        overrides: KEY VALUE KEY VALUE ..., as on a command line; values may be texts or Python values.
        plugins: modules, or paths of .py files, that are added to MODEL.CMPF.PLUGINS; of a module that stands there
            already they say where it lies.
    Returns:
        All keys; it cannot be changed, see `with_overrides`.
    Raises:
        ConfigError: with every issue of files, keys, values and overrides, each with its file and line.
    """
    cfg = resolve(path, overrides).cfg
    if not plugins:
        return cfg
    return with_overrides(cfg, {PLUGINS_KEY: merge_plugins(cfg.MODEL.CMPF.PLUGINS, plugins)})


def resolve(path: str | Path | None, overrides: Sequence[Any] = (), *, bases: bool = True) -> Resolved:
    """The same as `get_cfg`, and where each value comes from; without `bases` the file may name no other ones."""
    settings, issues = _read(path, bases) if path is not None else ([], [])
    given, odd = _pairs(overrides)
    return _merge(Config(), settings + given, issues + odd)


def with_overrides(cfg: Config, changes: Mapping[str, Any]) -> Config:
    """A configuration with other values: `with_overrides(cfg, {"MODEL.WEIGHTS": "", "SEED": 1})`.

    Raises:
        ConfigError: unknown keys, values that are not allowed, or keys that do not go together.
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
    """Takes the good settings, later ones over earlier ones, and raises what is wrong with all others."""
    tree, issues = base.model_dump(), list(issues)
    origins: dict[str, Origin] = {}
    bad: set[str] = set()
    for setting in settings:
        issue = _set(tree, setting, hint=len(issues) < SHOWN_ISSUES)
        origins[setting.key] = setting.origin
        if issue:
            issues.append(Issue(setting.key, issue, setting.origin))
            bad.add(setting.key)
    cfg = Config.model_validate(tree)
    for relation in RELATIONS:
        issue = "" if bad.intersection(relation.keys) else relation.issue(cfg)
        if issue:
            given = [origins[key] for key in relation.keys if key in origins]
            issues.append(Issue(relation.keys[0], issue, given[0] if given else Origin()))
    if issues:
        raise as_error(issues)
    return Resolved(cfg, origins)


def _set(tree: dict[str, Any], setting: Setting, *, hint: bool) -> str:
    """Writes one setting; returns what is wrong with it, or "". hint: look for the key that was meant."""
    if setting.key == FREE or setting.key.startswith(f"{FREE}."):
        return _set_free(tree, setting)
    setting = _of_mapping(tree, setting)
    key = KEYS.get(setting.key)
    if key is None:
        return _unknown(setting, hint)
    try:
        _put(tree, setting.key, key.read(setting.value))
    except ValidationError:
        return f"expected {key.allowed}, got {quoted(setting.value)}"
    return ""


def _of_mapping(tree: dict[str, Any], setting: Setting) -> Setting:
    """One line of a mapping as the whole mapping, with the lines before it."""
    for key in MAPPINGS:
        if setting.key.startswith(f"{key}."):
            before = reduce(getitem, key.split("."), tree)
            lines = dict(before) if isinstance(before, dict) else {}
            lines[setting.key.removeprefix(f"{key}.")] = setting.value
            return Setting(key, lines, setting.origin)
    return setting


def _set_free(tree: dict[str, Any], setting: Setting) -> str:
    """Values of a plug-in: YAML has typed those of a file; what a shell gives is read as a literal or as YAML."""
    value = setting.value
    if setting.origin.file is None and isinstance(value, str):
        value = literal(value)
        with suppress(yaml.YAMLError):  # an ordinary text
            value = load_yaml(value) if isinstance(value, str) else value
    given: dict[str, Any] = {}
    _put(given, setting.key, value)
    try:
        KEYS[FREE].read(reduce(getitem, FREE.split("."), given))
    except ValidationError as error:
        reason = error.errors()[0]["ctx"].get("error", "") if "ctx" in error.errors()[0] else ""
        return str(reason or f"expected {KEYS[FREE].allowed}, got {quoted(setting.value)}")
    whole = value.items() if setting.key == FREE else [("", value)]
    for name, item in whole:
        _put(tree, f"{setting.key}.{name}".rstrip("."), item)
    return ""


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        if not isinstance(tree.get(section), dict):
            tree[section] = {}
        tree = tree[section]
    tree[name] = value


def _unknown(setting: Setting, hint: bool) -> str:
    if any(key.startswith(setting.key + ".") for key in KEYS):
        return "" if setting.value == {} else f"is a section of keys, got the value {quoted(setting.value)}"
    owner = next((key for key in KEYS if setting.key.startswith(key + ".")), None)
    if owner:
        return f"{owner} is a key with a value, not a section"
    if not hint:
        return "unknown"
    from cmpf.config.published import hint_for  # read where something is wrong

    return hint_for(setting.key) or f"unknown, did you mean {nearest_key(setting.key, KEYS)}?"
