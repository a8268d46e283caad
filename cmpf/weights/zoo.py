# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Trained models by name: their weights, and their published figures."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmpf.config import Config, get_cfg
from cmpf.errors import WeightsError
from cmpf.weights.download import cache_folder, check_content, checked_asset, download, record_of
from cmpf.weights.key_mapping import OWN_CLIP_PREFIX
from cmpf.weights.loading import encoders_inside
from cmpf.weights.reading import read_metadata
from cmpf.weights.remote import Remote
from cmpf.weights.saving import BROUGHT_KEY, TrainedModel, save
from cmpf.weights.zoo_entries import ZooEntry, zoo, zoo_entry

logger = logging.getLogger(__name__)

DRIVE = "https://drive.usercontent.google.com/download?id={id}&export=download&confirm=t"
DRIVE_PAGE = "https://drive.google.com/file/d/{id}/view"
ORIGIN = "zoo"  # in the metadata of a small file: what it was made of


def zoo_weights(name: str, *, path: str | Path | None = None) -> Path:
    """The file of an entry's trained weights: shipped, made small by an earlier load, or downloaded.

    Raises:
        ModelNameError: no such entry. WeightsError: the file is damaged or cannot be downloaded; says where to find it
            and where to save it.
    """
    entry = zoo_entry(name, path=path)
    if entry.asset:
        return checked_asset(entry.asset)
    target, remote = published_file(name, entry), zoo_remote(name, entry)
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


def zoo_remote(name: str, entry: ZooEntry) -> Remote:
    """The file of an entry's authors."""
    return Remote(
        url=entry.url or DRIVE.format(id=entry.drive),
        title=f"weight file of {name}",
        sha256=entry.sha256 or None,
        size=entry.size or None,
        page=DRIVE_PAGE.format(id=entry.drive) if entry.drive else "",
    )


def published_file(name: str, entry: ZooEntry) -> Path:
    """Where the file of an entry's authors lies once it is downloaded."""
    given = entry.file or entry.url.partition("?")[0].rpartition("/")[2]
    return _folder(name) / (given or f"{name}.pth")


def small_file(name: str) -> Path:
    """Where the trained part of the authors' file lies after the first load; later ones read it."""
    return _folder(name) / f"{name}.safetensors"


def made_for(origin: Mapping[str, Any], entry: ZooEntry) -> bool:
    """Whether what a small file says of itself names an entry's configuration."""
    return (origin.get("config"), origin.get("overrides")) == (entry.config, entry.overrides)


def keep_small_file(name: str, model: TrainedModel, weights: Path) -> None:
    """Writes the trained part of a model, as it was loaded from its authors' file, with all that its config needs.

    Args:
        name: of the model; nothing is written of what is no entry of the zoo.
        weights: the file that it was loaded from; nothing is written for another than the authors' own.
    """
    entry = zoo().get(name)
    if entry is None or entry.asset or weights != published_file(name, entry):
        return
    try:
        own_clip = any(name.startswith(OWN_CLIP_PREFIX) for name in model.trained_state_dict())
        brought = {kind: file.name for kind, file in encoders_inside(weights).items()}
        if own_clip:  # the small file holds it
            brought.pop("clip", None)
        metadata = {ORIGIN: _origin(entry, weights), BROUGHT_KEY: brought}
        save(model, small_file(name), metadata=metadata)
    except OSError as error:
        logger.warning("%s cannot be written, each load reads %s: %s", small_file(name), weights, error)
        return
    logger.info("%s: the trained part of %s, read from now on", small_file(name), weights.name)


def _folder(name: str) -> Path:
    return cache_folder() / "zoo" / name


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
    elsewhere = saved.get(BROUGHT_KEY, {}).values()
    return saved.get(ORIGIN) == _origin(entry, target) and all(
        (small.parent / f).is_file() for f in elsewhere
    )


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
        ours.MASK_EMBEDDING,
        ours.TEXT_TRANSFER,
        ours.CONTENT_TRANSFER.FORM if ours.TEXT_TRANSFER != "none" else "",
        ours.CLIP.TRAINED,
    )
