# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""--dry-run of training and evaluation: reports which files exist and which are missing, without building a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cmpf.cli.command import DONE, FAILED
from cmpf.cli.dataset_report import align_columns
from cmpf.config import Config
from cmpf.data.datasets.catalog import locate_dataset
from cmpf.data.datasets.published import published_file
from cmpf.encoders import tiny
from cmpf.encoders.clip_factory import cached_file, saved_file, source_of, tag_record
from cmpf.encoders.sam import PUBLISHED, RANDOM, published_path
from cmpf.factory.encoders import mask_sam
from cmpf.factory.evaluation import truth_readers
from cmpf.factory.protocol import protocols_of
from cmpf.factory.vocabularies import words_of
from cmpf.registry import import_plugins, registered
from cmpf.weights.vocabularies import FETCH, is_available, vocabulary_path
from cmpf.weights.zoo import zoo_path, zoo_remote
from cmpf.weights.zoo_entries import zoo

PRESENT, MISSING = "found", "MISSING"
_DOWNLOADED = "downloaded when needed; without a network, save"


@dataclass(frozen=True)
class Requirement:
    """A file or folder that a run needs.

    kind: what it is, such as "dataset" or "CLIP".
    name: name of the dataset or model.
    path: where it is, or where it must be.
    exists: whether it exists.
    fix: how to get it.
    """

    kind: str
    name: str
    path: str
    exists: bool
    fix: str


def run(cfg: Config, *, eval_only: bool) -> int:
    """Prints the requirements of a run with this configuration.

    Returns:
        Exit code: 1 if something is missing.
    """
    import_plugins(cfg.MODEL.CMPF.PLUGINS)
    required = list(dict.fromkeys(requirements(cfg, eval_only=eval_only)))
    missing = [item for item in required if not item.exists]
    rows = [(PRESENT if item.exists else MISSING, item.kind, item.name, item.path) for item in required]
    print(align_columns(rows))
    for dataset, stated in protocols_of(cfg).items():
        print(f"protocol of {dataset}: {stated['protocol']}")
    for line in dict.fromkeys(f"missing {item.kind} {item.name}: {item.fix}" for item in missing):
        print(line)
    print(f"{len(missing)} of {len(required)} missing" if missing else "nothing is missing; nothing was run")
    return FAILED if missing else DONE


def requirements(cfg: Config, *, eval_only: bool) -> Iterator[Requirement]:
    """Datasets, vocabularies, trained weights, and the weights of CLIP and of both SAMs.

    Raises:
        DatasetError: a dataset is unknown.
    """
    if not eval_only:
        yield from _dataset(cfg, cfg.DATASETS.TRAIN[0], training=True)
    for name in cfg.DATASETS.TEST:
        yield from _dataset(cfg, name, training=False)
    for name in (cfg.DATASETS.TRAIN[0], *cfg.DATASETS.TEST):
        yield from _vocabulary(cfg, name)
    if cfg.MODEL.WEIGHTS:
        yield _trained_weights(Path(cfg.MODEL.WEIGHTS))
    yield from _clip(cfg)
    sam, ensemble = cfg.MODEL.CMPF.SAM, cfg.TEST.ENSEMBLE
    yield from _sam("SAM", sam.NAME, sam.CHECKPOINT)
    if ensemble.ENABLED and ensemble.SOURCE == "online":
        yield from _sam("SAM of the ensemble", *mask_sam(cfg))
    elif ensemble.ENABLED:
        fix = "create it with: cmpf save-sam-masks"
        yield _file("SAM's masks", "TEST.ENSEMBLE.CACHE_DIR", Path(ensemble.CACHE_DIR), fix)


def _dataset(cfg: Config, name: str, *, training: bool) -> Iterator[Requirement]:
    dataset = locate_dataset(name)
    readers = () if training else truth_readers(cfg, dataset)
    fix = dataset.spec.command_in(dataset.folder)
    for path in dataset.spec.paths_for(*readers):
        yield _file("dataset", dataset.name, dataset.folder / path, fix)


def _vocabulary(cfg: Config, name: str) -> Iterator[Requirement]:
    spec = locate_dataset(name).spec
    source, key = words_of(cfg, spec), published_file(spec)
    if source == "published" and key:
        yield Requirement("published vocabulary", key, str(vocabulary_path(key)), is_available(key), FETCH)
    elif source not in ("published", "own"):
        yield _file("vocabulary", spec.name, Path(source), "correct DATASETS.VOCABULARIES")


def _trained_weights(path: Path) -> Requirement:
    entry = zoo().get(path.parent.name)
    if entry is None or entry.asset or path != zoo_path(path.parent.name):
        fix = "correct the path, or give the name of a model: cmpf models"
    else:
        remote = zoo_remote(path.parent.name, entry)
        fix = f"{_DOWNLOADED} {remote.page or remote.url} as {path}"
    return _file("trained weights", path.name, path, fix)


def _clip(cfg: Config) -> Iterator[Requirement]:
    name, tag = cfg.MODEL.CMPF.CLIP.NAME, cfg.MODEL.CMPF.CLIP.PRETRAINED
    if not tag or name in registered("clip") or tag == name == tiny.CLIP_NAME:
        return  # random weights, a plug-in, or a model that is part of CMPF
    record = tag_record(name, tag)
    if not record:
        yield _file("CLIP", name, Path(tag).expanduser(), "correct MODEL.CMPF.CLIP.PRETRAINED")
        return
    path, download_path = cached_file(name, tag), saved_file(name, tag)
    fix = f"{_DOWNLOADED} {source_of(record)} as {download_path}"
    yield Requirement("CLIP", f"{name} {tag}", str(path or download_path), path is not None, fix)


def _sam(kind: str, name: str, checkpoint: str) -> Iterator[Requirement]:
    if (
        not name
        or checkpoint == RANDOM
        or name in registered("sam")
        or (name == tiny.SAM_NAME and not checkpoint)
    ):
        return
    if checkpoint:
        yield _file(kind, name, Path(checkpoint).expanduser(), "correct the path")
    elif name in PUBLISHED:
        path = published_path(name)
        fix = f"{_DOWNLOADED} {PUBLISHED[name]} as {path}"
        yield _file(kind, name, path, fix)


def _file(kind: str, name: str, path: Path, fix: str) -> Requirement:
    return Requirement(kind, name, str(path), path.exists(), fix)
