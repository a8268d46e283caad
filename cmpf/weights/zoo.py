# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Weights of zoo models and their published metrics."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmpf.config import Config, get_cfg
from cmpf.errors import WeightsError
from cmpf.weights.download import (
    cache_folder,
    check_content,
    checked_asset,
    download,
    hash_record_path,
    recorded_hash,
)
from cmpf.weights.key_mapping import OWN_CLIP_PREFIX
from cmpf.weights.loading import encoders_inside
from cmpf.weights.reading import read_metadata
from cmpf.weights.remote import Remote
from cmpf.weights.saving import ENCODER_FILES_KEY, ORIGIN_KEY, TrainedModel, save
from cmpf.weights.zoo_entries import ZooEntry, zoo, zoo_entry

logger = logging.getLogger(__name__)

DRIVE = "https://drive.usercontent.google.com/download?id={id}&export=download&confirm=t"
DRIVE_PAGE = "https://drive.google.com/file/d/{id}/view"


def zoo_weights(name: str) -> Path:
    """The file of an entry's trained weights: an asset, the small file of an earlier load, or a download.

    Raises:
        ModelNameError: there is no such entry.
        WeightsError: the file is damaged or cannot be downloaded.
    """
    entry = zoo_entry(name)
    if entry.asset:
        return checked_asset(entry.asset)
    target, remote = published_file(name, entry), zoo_remote(name, entry)
    if _is_current(small_file(name), entry, target):
        return small_file(name)
    if not target.is_file():
        return download(remote, target)
    record = hash_record_path(target)
    if not record.is_file() or record.stat().st_mtime < target.stat().st_mtime:  # the file was saved by hand
        read_metadata(target)  # rejects a file without weights before its hash is recorded
        check_content(target, target, remote)
    return target


def zoo_path(name: str) -> Path:
    """Path of an entry's weights, which may not be downloaded yet."""
    entry = zoo_entry(name)
    if entry.asset:
        return checked_asset(entry.asset)
    target, small = published_file(name, entry), small_file(name)
    return small if _is_current(small, entry, target) else target


def zoo_remote(name: str, entry: ZooEntry) -> Remote:
    """The checkpoint that an entry's authors published."""
    return Remote(
        url=entry.url or DRIVE.format(id=entry.drive),
        title=f"weight file of {name}",
        sha256=entry.sha256 or None,
        size=entry.size or None,
        page=DRIVE_PAGE.format(id=entry.drive) if entry.drive else "",
    )


def published_file(name: str, entry: ZooEntry) -> Path:
    """Path of the authors' checkpoint of an entry in the cache."""
    file = entry.file or entry.url.partition("?")[0].rpartition("/")[2]
    return _folder(name) / (file or f"{name}.pth")


def small_file(name: str) -> Path:
    """Path of the trained part of the authors' checkpoint, which the first load writes and later ones read."""
    return _folder(name) / f"{name}.safetensors"


def made_for(origin: Mapping[str, Any], entry: ZooEntry) -> bool:
    """Whether the origin in a small file's metadata is an entry's configuration."""
    return (origin.get("config"), origin.get("overrides")) == (entry.config, entry.overrides)


def save_small_file(name: str, model: TrainedModel, weights: Path) -> None:
    """Saves the trained part of a model that was loaded from its authors' checkpoint.

    Args:
        name: the model's name; nothing is written if it is not in the zoo.
        model: the loaded model.
        weights: the file that it was loaded from; nothing is written if it is not the authors' checkpoint.
    """
    entry = zoo().get(name)
    if entry is None or entry.asset or weights != published_file(name, entry):
        return
    try:
        tuned_clip = any(key.startswith(OWN_CLIP_PREFIX) for key in model.trained_state_dict())
        encoder_files = {kind: file.name for kind, file in encoders_inside(weights).items()}
        if tuned_clip:  # it is part of the small file
            encoder_files.pop("clip", None)
        metadata = {ORIGIN_KEY: _origin(entry, weights), ENCODER_FILES_KEY: encoder_files}
        save(model, small_file(name), metadata=metadata)
    except OSError as error:
        logger.warning("%s cannot be written, so every load reads %s: %s", small_file(name), weights, error)
        return
    logger.info("saved the trained part of %s as %s for later loads", weights.name, small_file(name))


def _folder(name: str) -> Path:
    return cache_folder() / "zoo" / name


def _origin(entry: ZooEntry, weights: Path) -> dict[str, Any]:
    """Metadata of a small file: the configuration to load it with, and the checkpoint that it was extracted from."""
    return {
        "config": entry.config,
        "overrides": entry.overrides,
        "file": weights.name,
        "sha256": entry.sha256 or recorded_hash(weights),
    }


def _is_current(small: Path, entry: ZooEntry, target: Path) -> bool:
    """Whether a small file exists, is readable and belongs to the entry's present configuration and checkpoint."""
    if not small.is_file():
        return False
    try:
        saved = read_metadata(small)
    except WeightsError as error:
        logger.warning("recreating %s: %s", small, error)
        return False
    encoder_files = saved.get(ENCODER_FILES_KEY, {}).values()
    return saved.get(ORIGIN_KEY) == _origin(entry, target) and all(
        (small.parent / file).is_file() for file in encoder_files
    )


def published_metrics(cfg: Config) -> dict[str, dict[str, float]]:
    """Metrics that the authors report for the model of a configuration.

    With the OpenSeg Ensemble, semantic metrics are those measured with the ensemble.

    Returns:
        {dataset: {"task/metric": percent}} of the first entry with the same architecture; {} if there is none.
    """
    entry = published_entry(cfg)
    if entry is None:
        return {}
    metrics = {dataset: dict(values) for dataset, values in entry.published.items()}
    if cfg.TEST.ENSEMBLE.ENABLED:
        for dataset, values in metrics.items():
            others = {name: value for name, value in values.items() if not name.startswith("sem_seg/")}
            metrics[dataset] = others | entry.with_ensemble.get(dataset, {})
    return {dataset: values for dataset, values in metrics.items() if values}


def published_entry(cfg: Config) -> ZooEntry | None:
    """The first zoo entry with published metrics and a configuration's architecture; None if there is none."""
    for entry in zoo().values():
        if entry.published and _architecture(get_cfg(entry.config)) == _architecture(cfg):
            return entry
    return None


def _architecture(cfg: Config) -> tuple[object, ...]:
    """The settings in which the published models differ."""
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
