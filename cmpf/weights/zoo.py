# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The model zoo: trained models by name, with their weights and published figures (configs/model_zoo.yaml)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import yaml

from cmpf.config import Config, config_root, get_cfg
from cmpf.config.errors import Issue, Origin, as_error
from cmpf.errors import ConfigError, ModelNameError, WeightsError
from cmpf.weights.download import cache_folder, checked_asset, download

ZOO_FILE = "model_zoo.yaml"


@dataclass(frozen=True)
class ZooEntry:
    """One trained model.

    config: path under configs/. overrides: keys and values that its weights need besides. asset: file in cmpf/assets,
    "" = none. url: where its weights are downloaded from, "" = nowhere. sha256: of that file. source: page of its
    authors. published: dataset -> "task/metric" -> percent, as its authors report.
    """

    name: str
    config: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    asset: str = ""
    url: str = ""
    sha256: str = ""
    source: str = ""
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def zoo(path: str | Path | None = None) -> dict[str, ZooEntry]:
    """All entries by name, in the order of the file.

    Args:
        path: another file of the same form; None = configs/model_zoo.yaml.
    Raises:
        ConfigError: with every issue of the file.
    """
    path = Path(path) if path is not None else config_root() / ZOO_FILE
    content = _read(path)
    issues = [Issue(key, message, Origin(path)) for key, message in _issues(content)]
    if issues:
        raise as_error(issues)
    return {
        name: ZooEntry(name=name, **{key: value for key, value in entry.items() if value is not None})
        for name, entry in content.items()
    }


def zoo_weights(name: str, *, path: str | Path | None = None) -> Path:
    """The file of an entry's trained weights: shipped, or downloaded into the cache folder.

    Raises:
        ModelNameError: no such entry. WeightsError: the file is damaged, cannot be downloaded, or is not published
            where CMPF could get it; says where to find it and how to give it.
    """
    entries = zoo(path)
    if name not in entries:
        raise ModelNameError(f"the zoo has no model {name!r}. It has {', '.join(entries)}")
    entry = entries[name]
    if entry.asset:
        return checked_asset(entry.asset)
    if not entry.url:
        raise WeightsError(
            f"the weights of {name} come from {entry.source}, which publishes them under no address that CMPF can "
            "check. Download the checkpoint there and give it as weights=FILE, --weights FILE or MODEL.WEIGHTS FILE; "
            "python tools/convert_checkpoint.py FILE OUT.safetensors makes a small, safe file of it"
        )
    target = cache_folder() / "zoo" / name / PurePosixPath(urlsplit(entry.url).path).name
    return download(entry.url, target, sha256=entry.sha256, title=f"weights of {name}")


def published_metrics(cfg: Config, *, path: str | Path | None = None) -> dict[str, dict[str, float]]:
    """What the authors report for the model of a configuration: dataset -> "task/metric" -> percent.

    Returns:
        The figures of the entry with the same CLIP and SAM; {} if there is none or an injector is off.
    """
    ours = cfg.MODEL.CMPF
    if not (ours.QUERY_INJECTOR.ENABLED and ours.FEATURE_INJECTOR.ENABLED):
        return {}
    for entry in zoo(path).values():
        if not entry.published:
            continue
        theirs = get_cfg(entry.config).MODEL.CMPF
        if (ours.CLIP.NAME, ours.SAM.NAME) == (theirs.CLIP.NAME, theirs.SAM.NAME):
            return {dataset: dict(figures) for dataset, figures in entry.published.items()}
    return {}


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"the model zoo {path} cannot be read: {reason}") from error


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_address(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"https?://\S+/[^/\s]+", value) is not None


def _is_mapping(value: object) -> bool:
    return isinstance(value, dict)


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


# Key -> what it may hold, as a test and in words. Every key but config may also be absent or null.
KEYS: dict[str, tuple[Callable[[object], bool], str]] = {
    "config": (_is_text, "the path of a config under configs/"),
    "overrides": (_is_mapping, "KEY: VALUE pairs of the configuration"),
    "asset": (_is_text, "the name of a file in cmpf/assets"),
    "url": (_is_address, "the https:// address of a file"),
    "sha256": (_is_hash, "64 hexadecimal digits"),
    "source": (_is_text, "the address of the authors' page"),
    "published": (_is_mapping, "dataset: {task/metric: percent}"),
}


def _issues(content: object) -> list[tuple[str, str]]:
    """What is wrong with the content of a zoo file, as (key, message)."""
    if not isinstance(content, dict) or not content:
        return [("", "expected NAME: {config: ..., ...} entries")]
    issues: list[tuple[str, str]] = []
    for name, entry in content.items():
        if isinstance(entry, dict):
            issues += [(f"{name}.{key}", message) for key, message in _entry_issues(entry)]
        else:
            issues.append((str(name), f"expected config and weights, got {entry!r}"))
    return issues


def _entry_issues(entry: dict[Any, Any]) -> list[tuple[str, str]]:
    issues: list[tuple[str, str]] = []
    for key, value in entry.items():
        if key not in KEYS:
            near = get_close_matches(str(key), KEYS, n=1)
            known = f"did you mean {near[0]}?" if near else f"known are {', '.join(KEYS)}"
            issues.append((str(key), f"unknown, {known}"))
        elif value is not None and not KEYS[key][0](value):
            issues.append((key, f"expected {KEYS[key][1]}, got {value!r}"))
        elif key == "published" and value is not None:
            issues += _figure_issues(value)
    if entry.get("config") is None:
        issues.append(("config", "is missing"))
    if entry.get("url") is not None and entry.get("sha256") is None:
        issues.append(("sha256", "is missing: a download must be checked"))
    if all(entry.get(key) is None for key in ("asset", "url", "source")):
        issues.append(("source", "is missing: asset, url or source says where the weights are"))
    return issues


def _figure_issues(published: dict[Any, Any]) -> list[tuple[str, str]]:
    issues = []
    for dataset, figures in published.items():
        if not isinstance(figures, dict) or not figures:
            issues.append((f"published.{dataset}", f"expected task/metric: percent, got {figures!r}"))
            continue
        for metric, value in figures.items():
            number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 100
            if not re.fullmatch(r"\w+/\w+", str(metric)) or not number:
                issues.append(
                    (f"published.{dataset}.{metric}", f"expected task/metric: 0 to 100, got {value!r}")
                )
    return issues
