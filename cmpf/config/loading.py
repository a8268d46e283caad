# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""From a YAML file and KEY VALUE pairs to one checked, frozen configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from cmpf.config.defaults import default_config
from cmpf.config.issues import Issue, Origin, as_error
from cmpf.config.paths import find_config
from cmpf.config.validation import merge
from cmpf.config.yaml_files import BASE_KEY, Setting, read_yaml
from cmpf.errors import ConfigError


def get_cfg(path: str | Path | None = None, overrides: Sequence[Any] = ()) -> CfgNode:
    """Defaults, then a YAML file with its bases, then overrides.

    Args:
        path: what `find_config` finds: a path, a path under configs/, or a bare name; None = defaults only.
        overrides: KEY VALUE KEY VALUE ..., as on a command line; values may be texts or Python values.
    Returns:
        A frozen tree with every key of `default_config`.
    Raises:
        ConfigError: with every issue of files, keys, values and overrides, each with its file and line.
    """
    settings, issues = _read(path) if path is not None else ([], [])
    given, odd = _pairs(overrides)
    cfg = default_config()
    issues = issues + odd + merge(cfg, settings + given)
    if issues:
        raise as_error(issues)
    cfg.freeze()
    return cfg


def _read(path: str | Path) -> tuple[list[Setting], list[Issue]]:
    try:
        return read_yaml(find_config(path))
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
