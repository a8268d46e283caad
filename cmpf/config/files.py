# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Finds configuration files and reads them, with their `_BASE_` files, as settings with file and line."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from cmpf.common.files import BoundedLoader, read_yaml_text
from cmpf.config.keys import Issue, Origin, format_path
from cmpf.errors import ConfigError

BASE_KEY = "_BASE_"
MAX_FILES = 100  # files read for one configuration
_PACKAGE = Path(__file__).resolve().parent.parent


def config_root() -> Path:
    """Folder of CMPF's own configs: in the package if it is installed, beside it in a checkout."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def find_config(name_or_path: str | Path) -> Path:
    """Finds a YAML file by path, by its path under configs/, or by its bare name.

    Args:
        name_or_path: "my/own.yaml", "configs/shapes/cmpf_tiny.yaml", "shapes/cmpf_tiny" or "cmpf_tiny".
    Returns:
        Absolute path of an existing file.
    Raises:
        ConfigError: there is no such file, it is a folder, or several configs have this bare name.
    """
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path.resolve()
    root = config_root()
    relative = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    for candidate in (relative, relative.with_name(relative.name + ".yaml")) if relative.name else ():
        if (root / candidate).is_file():
            return root / candidate
    shipped = {str(file.relative_to(root).with_suffix("")): file for file in sorted(root.rglob("*.yaml"))}
    same_name = [name for name in shipped if str(relative) == Path(name).name]
    if len(same_name) == 1:
        return shipped[same_name[0]]
    if same_name:
        raise ConfigError(
            f"{name_or_path}: several configs have this name: {', '.join(same_name)}; write one"
        )
    near = _nearest(str(relative).removesuffix(".yaml"), list(shipped))
    hint = f"did you mean {' or '.join(near)}?" if near else f"shipped configs are in {root}"
    issue = "is a folder, expected a YAML file" if path.is_dir() else "no such config file"
    raise ConfigError(f"{name_or_path}: {issue}; {hint}")


def _nearest(name: str, known: list[str]) -> list[str]:
    """At most three known names that are similar to `name`, or whose last part is."""
    similar = get_close_matches(name, known, n=3, cutoff=0.5)
    last_parts = get_close_matches(Path(name).name, [Path(other).name for other in known], n=3, cutoff=0.6)
    return list(dict.fromkeys(similar + [other for other in known if Path(other).name in last_parts]))[:3]


@dataclass(frozen=True)
class Setting:
    """A dotted key with its raw value and origin. An empty section has the value {}."""

    key: str
    value: Any
    origin: Origin


def read_yaml(
    path: Path, *, bases: bool = True, chain: tuple[Path, ...] = (), count: Counter[str] | None = None
) -> tuple[list[Setting], list[Issue]]:
    """Reads the settings of a file and its bases.

    Args:
        path: an existing file.
        bases: whether `_BASE_` is allowed.
        chain: files whose `_BASE_` led to this one, to detect cycles.
        count: number of "files" read so far.
    Returns:
        Settings in ascending precedence, and issues of the files themselves (not of keys or values).
    """
    path = path.resolve()
    origin = Origin(path)
    try:
        loader = BoundedLoader(read_yaml_text(path))
        root = loader.get_single_node()
    except OSError as error:
        return [], [Issue("", f"cannot be read: {error.strerror}", origin)]
    except UnicodeDecodeError:
        return [], [Issue("", "is not UTF-8 text", origin)]
    except yaml.YAMLError as error:
        return [], [_malformed(error, path)]
    if not isinstance(root, yaml.MappingNode) or not root.value:
        return [], [Issue("", "holds no settings; expected KEY: value lines", origin)]
    settings, issues = _Walker(loader, path).walk(root)
    inherited: list[Setting] = []
    count = Counter() if count is None else count
    for base in [setting for setting in settings if setting.key == BASE_KEY]:
        if not bases:
            issues.append(Issue(BASE_KEY, "a model's configuration stands alone; remove it", base.origin))
            continue
        base_settings, base_issues = _read_bases(base, path, (*chain, path), count)
        inherited += base_settings
        issues += base_issues
    return inherited + [setting for setting in settings if setting.key != BASE_KEY], issues


def _read_bases(
    base: Setting, path: Path, chain: tuple[Path, ...], count: Counter[str]
) -> tuple[list[Setting], list[Issue]]:
    names = base.value if isinstance(base.value, list) else [base.value]
    settings: list[Setting] = []
    issues: list[Issue] = []
    for name in names:
        if not isinstance(name, str) or not name:
            issues.append(
                Issue(BASE_KEY, f"expected a file name or a list of them, got {name!r}", base.origin)
            )
            continue
        target = (path.parent / Path(name).expanduser()).resolve()
        count["files"] += 1
        if count["files"] > MAX_FILES:
            issue = f"leads to more than {MAX_FILES} files; name fewer of them"
            issues.append(Issue(BASE_KEY, issue, base.origin))
            break
        if target in chain:
            cycle = " -> ".join(format_path(file) for file in (*chain[chain.index(target) :], target))
            issues.append(Issue(BASE_KEY, f"the files go in a circle: {cycle}", base.origin))
        elif not target.is_file():
            issues.append(Issue(BASE_KEY, f"no such file: {format_path(target)}", base.origin))
        else:
            base_settings, base_issues = read_yaml(target, chain=chain, count=count)
            settings += base_settings
            issues += base_issues
    return settings, issues


def _malformed(error: yaml.YAMLError, path: Path) -> Issue:
    mark = getattr(error, "problem_mark", None)
    issue = getattr(error, "problem", None) or "unreadable character"
    return Issue("", f"is not valid YAML: {issue}", Origin(path, mark.line + 1 if mark else None))


class _Walker:
    """Converts a tree of YAML nodes, which have line numbers, to settings."""

    def __init__(self, loader: yaml.SafeLoader, path: Path) -> None:
        self._loader = loader
        self._path = path
        self._settings: list[Setting] = []
        self._issues: list[Issue] = []

    def walk(self, root: yaml.MappingNode) -> tuple[list[Setting], list[Issue]]:
        self._mapping(root, (), {id(root)})
        return self._settings, self._issues

    def _mapping(self, node: yaml.MappingNode, prefix: tuple[str, ...], ancestors: set[int]) -> None:
        seen: set[str] = set()
        for key_node, value_node in node.value:
            origin = Origin(self._path, key_node.start_mark.line + 1)
            names = (*prefix, str(key_node.value)) if isinstance(key_node, yaml.ScalarNode) else prefix
            key = ".".join(names)
            if not isinstance(key_node, yaml.ScalarNode):
                self._issues.append(Issue(key, "a list or mapping cannot be a key", origin))
            elif key in seen:
                self._issues.append(Issue(key, "is written twice in this section", origin))
            elif id(value_node) in ancestors:
                self._issues.append(Issue(key, "contains itself", origin))
            elif isinstance(value_node, yaml.MappingNode) and value_node.value:
                self._mapping(value_node, names, ancestors | {id(value_node)})
            else:
                self._leaf(key, value_node, origin)
            seen.add(key)

    def _leaf(self, key: str, node: yaml.Node, origin: Origin) -> None:
        try:
            value = self._loader.construct_object(node, deep=True)
        except yaml.YAMLError as error:
            issue = getattr(error, "problem", None) or str(error)
            self._issues.append(Issue(key, f"cannot be read: {issue}", origin))
            return
        self._settings.append(Setting(key, value, origin))
