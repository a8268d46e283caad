# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The model zoo: trained models by name, with their weights and published figures (configs/model_zoo.yaml)."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlsplit

import yaml
from annotated_types import Ge, Le, MinLen
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from cmpf.config import Config, config_root, get_cfg
from cmpf.config.errors import Issue, Origin, as_error
from cmpf.errors import ConfigError, ModelNameError, WeightsError
from cmpf.weights.download import cache_folder, checked_asset, download

ZOO_FILE = "model_zoo.yaml"


_Text = Annotated[str, MinLen(1)]
_Address = Annotated[str, StringConstraints(pattern=r"^https?://\S+/[^/\s]+$")]
_Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Metric = Annotated[str, StringConstraints(pattern=r"^\w+/\w+$")]
_Figures = Annotated[dict[_Metric, Annotated[float, Ge(0), Le(100)]], MinLen(1)]


class ZooEntry(BaseModel):
    """One trained model. Every key but config may be absent."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    config: _Text = Field(description="the path of a config under configs/")
    overrides: dict[str, Any] = Field(
        {}, description="KEY: VALUE pairs of the configuration that its weights need"
    )
    asset: _Text = Field("", description="the name of a file in cmpf/assets")
    url: _Address = Field("", description="the https:// address of a file")
    sha256: _Hash = Field("", description="64 hexadecimal digits")
    source: _Text = Field("", description="the address of the authors' page")
    published: dict[str, _Figures] = Field(
        {}, description="dataset: {task/metric: percent}, as the authors report"
    )


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
    return {name: ZooEntry(**_given(entry)) for name, entry in content.items()}


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


def _issues(content: object) -> Iterator[tuple[str, str]]:
    """What is wrong with the content of a zoo file, as (key, message)."""
    if not isinstance(content, dict) or not content:
        yield "", "expected NAME: {config: ..., ...} entries"
        return
    for name, entry in content.items():
        if isinstance(entry, dict):
            yield from ((f"{name}.{key}", message) for key, message in _entry_issues(_given(entry)))
        else:
            yield str(name), f"expected config and weights, got {entry!r}"


def _given(entry: dict[Any, Any]) -> dict[str, Any]:
    """Keys with values; null is as good as absent."""
    return {str(key): value for key, value in entry.items() if value is not None}


def _entry_issues(entry: dict[str, Any]) -> Iterator[tuple[str, str]]:
    try:
        ZooEntry.model_validate(entry)
    except ValidationError as error:
        for detail in error.errors():
            keys = [str(key) for key in detail["loc"] if key != "[key]"]
            yield ".".join(keys), _message(keys, detail["type"], detail["input"])
    if "url" in entry and "sha256" not in entry:
        yield "sha256", "is missing: a download must be checked"
    if not entry.keys() & {"asset", "url", "source"}:
        yield "source", "is missing: asset, url or source says where the weights are"


def _message(keys: list[str], kind: str, value: object) -> str:
    known = {name: field.description for name, field in ZooEntry.model_fields.items()}
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        near = get_close_matches(keys[0], known, n=1)
        return f"unknown, did you mean {near[0]}?" if near else f"unknown, known are {', '.join(known)}"
    words = (
        known[keys[0]] if len(keys) == 1 else ("task/metric: percent", "task/metric: 0 to 100")[len(keys) - 2]
    )
    return f"expected {words}, got {value!r}"
