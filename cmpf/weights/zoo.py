# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The model zoo: trained models by name, with their weights and published figures (configs/model_zoo.yaml)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from annotated_types import Ge, Gt, Le, MinLen
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from cmpf.common.yaml_files import load_yaml, read_yaml_text
from cmpf.config import Config, config_root, get_cfg
from cmpf.config.errors import Issue, Origin, as_error
from cmpf.errors import ConfigError, ModelNameError, WeightsError
from cmpf.weights.download import cache_folder, check_content, checked_asset, download, record_of
from cmpf.weights.methods import METHODS
from cmpf.weights.reading import read_metadata
from cmpf.weights.remote import Remote
from cmpf.weights.saving import TrainedModel, save

logger = logging.getLogger(__name__)

ZOO_FILE = "model_zoo.yaml"
DRIVE = "https://drive.usercontent.google.com/download?id={id}&export=download&confirm=t"
DRIVE_PAGE = "https://drive.google.com/file/d/{id}/view"
ORIGIN = "zoo"  # in the metadata of a small file: what it was made of

_Text = Annotated[str, MinLen(1)]
_Address = Annotated[str, StringConstraints(pattern=r"^https?://\S+/[^/\s]+$")]
_File = Annotated[str, StringConstraints(pattern=r"^[\w.-]+$")]
_Drive = Annotated[str, StringConstraints(pattern=r"^[\w-]{20,}$")]
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
    method: str = Field("", description=f"one of {', '.join(METHODS)}")
    best: str = Field("", description="what it is best at, in a few words")
    asset: _Text = Field("", description="the name of a file in cmpf/assets")
    url: _Address = Field("", description="the https:// address of a file")
    drive: _Drive = Field("", description="the id of a file of Google Drive")
    file: _File = Field("", description="the name of the file, as its authors call it")
    sha256: _Hash = Field("", description="64 hexadecimal digits")
    size: Annotated[int, Gt(0)] = Field(0, description="bytes of the file, as its authors state them")
    licence: _Text = Field("", description="the licence of the weights")
    disk: Annotated[int, Gt(0)] = Field(
        0, description="megabytes of the weights and frozen encoders together"
    )
    speed: Literal["", "fast", "medium", "slow"] = Field("", description="fast, medium or slow")
    published: dict[str, _Figures] = Field(
        {}, description="dataset: {task/metric: percent}, as the authors report"
    )
    with_ensemble: dict[str, _Figures] = Field(
        {}, description="dataset: {task/metric: percent}, as the authors report with the OpenSeg Ensemble"
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


def zoo_entry(name: str, *, path: str | Path | None = None) -> ZooEntry:
    """One entry.

    Raises:
        ModelNameError: no such entry.
    """
    entries = zoo(path)
    if name not in entries:
        raise ModelNameError(f"the zoo has no model {name!r}. It has {', '.join(entries)}")
    return entries[name]


def zoo_weights(name: str, *, path: str | Path | None = None) -> Path:
    """The file of an entry's trained weights: shipped, made small by an earlier load, or downloaded.

    Raises:
        ModelNameError: no such entry. WeightsError: the file is damaged or cannot be downloaded; says where to find it
            and where to save it.
    """
    entry = zoo_entry(name, path=path)
    if entry.asset:
        return checked_asset(entry.asset)
    target, remote = published_file(name, entry), _remote(name, entry)
    if _is_current(small_file(name), entry, target):
        return small_file(name)
    if not target.is_file():
        return download(remote, target)
    record = record_of(target)
    if not record.is_file() or record.stat().st_mtime < target.stat().st_mtime:  # saved by hand
        read_metadata(target)  # it must be weights before its hash is worth keeping
        check_content(target, target, remote)
    return target


def zoo_place(name: str) -> Path:
    """Where the weights of an entry lie, or will lie once they are downloaded."""
    entry = zoo_entry(name)
    if entry.asset:
        return checked_asset(entry.asset)
    target, small = published_file(name, entry), small_file(name)
    return small if _is_current(small, entry, target) else target


def published_file(name: str, entry: ZooEntry) -> Path:
    """Where the file of an entry's authors lies once it is downloaded."""
    given = entry.file or entry.url.partition("?")[0].rpartition("/")[2]
    return _folder(name) / (given or f"{name}.pth")


def small_file(name: str) -> Path:
    """Where the trained part of the authors' file lies after the first load; later ones read it."""
    return _folder(name) / f"{name}.safetensors"


def keep_small_file(name: str, model: TrainedModel, weights: Path) -> None:
    """Writes the trained part of a model that was loaded from its authors' file, with all that its config needs.

    Args:
        weights: the file that it was loaded from; nothing is written for another than the authors' own.
    """
    entry = zoo_entry(name)
    if entry.asset or weights != published_file(name, entry):
        return
    try:
        save(model, small_file(name), metadata={ORIGIN: _origin(entry, weights)})
    except OSError as error:
        logger.warning(
            "%s cannot be written, so that each load reads %s: %s", small_file(name), weights, error
        )
        return
    logger.info("%s: the trained part of %s, read from now on", small_file(name), weights.name)


def _folder(name: str) -> Path:
    return cache_folder() / "zoo" / name


def _remote(name: str, entry: ZooEntry) -> Remote:
    return Remote(
        url=entry.url or DRIVE.format(id=entry.drive),
        title=f"weights of {name}",
        sha256=entry.sha256 or None,
        size=entry.size or None,
        page=DRIVE_PAGE.format(id=entry.drive) if entry.drive else "",
    )


def _origin(entry: ZooEntry, weights: Path) -> dict[str, Any]:
    """What a small file says of itself: the configuration to load it with, and the file that it was made of."""
    record = record_of(weights)
    recorded = record.read_text(encoding="utf-8").split()[0] if record.is_file() else ""
    return {
        "config": entry.config,
        "overrides": entry.overrides,
        "file": weights.name,
        "sha256": entry.sha256 or recorded,
    }


def _is_current(small: Path, entry: ZooEntry, target: Path) -> bool:
    """Whether an earlier load has left a small file of the entry as it is today; a damaged one is made again."""
    if not small.is_file():
        return False
    try:
        saved = read_metadata(small)
    except WeightsError as error:
        logger.warning("%s is made again: %s", small, error)
        return False
    return bool(saved.get(ORIGIN) == _origin(entry, target))


def published_metrics(cfg: Config, *, path: str | Path | None = None) -> dict[str, dict[str, float]]:
    """What the authors report for the model of a configuration: dataset -> "task/metric" -> percent.

    Returns:
        The figures of the first entry of the same architecture; {} if there is none. With the OpenSeg Ensemble semantic
        figures are those that were measured with it, and without it the others.
    """
    entry = published_entry(cfg, path=path)
    if entry is None:
        return {}
    figures = {dataset: dict(of_dataset) for dataset, of_dataset in entry.published.items()}
    if cfg.TEST.ENSEMBLE.ENABLED:
        for dataset, of_dataset in figures.items():
            plain = {
                metric: value for metric, value in of_dataset.items() if not metric.startswith("sem_seg/")
            }
            figures[dataset] = plain | entry.with_ensemble.get(dataset, {})
    return {dataset: of_dataset for dataset, of_dataset in figures.items() if of_dataset}


def published_entry(cfg: Config, *, path: str | Path | None = None) -> ZooEntry | None:
    """The first entry with figures of the same architecture as a configuration's; None if there is none."""
    for entry in zoo(path).values():
        if entry.published and _architecture(get_cfg(entry.config)) == _architecture(cfg):
            return entry
    return None


def _architecture(cfg: Config) -> tuple[object, ...]:
    """What tells the published models apart."""
    ours = cfg.MODEL.CMPF
    return (
        ours.CLIP.NAME,
        ours.SAM.NAME,
        ours.QUERY_INJECTOR.ENABLED,
        ours.FEATURE_INJECTOR.ENABLED,
    )


def _read(path: Path) -> Any:
    try:
        return load_yaml(read_yaml_text(path))
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
    if entry.get("method", "cmpf") not in METHODS:
        yield "method", f"expected one of {', '.join(METHODS)}, got {entry['method']!r}"
    if not entry.keys() & {"asset", "url", "drive"}:
        yield "drive", "is missing: asset, url or drive says where the weights are"


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
