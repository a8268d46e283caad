# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""--dry-run of training and evaluation: what is there and what is missing. Builds no model, downloads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cmpf.cli.command import DONE, FAILED
from cmpf.cli.dataset_report import columns
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

HERE, MISSING = "there", "MISSING"
_DOWNLOADED = "downloaded when needed; without network save"


@dataclass(frozen=True)
class Need:
    """One thing that a run needs. place: where it is or belongs. fix: what brings it; "" where it is there."""

    kind: str
    name: str
    place: str
    there: bool
    fix: str


def run(cfg: Config, *, eval_only: bool) -> int:
    """Prints what a run of this configuration needs.

    Returns:
        1 where something is missing, else 0.
    """
    import_plugins(cfg.MODEL.CMPF.PLUGINS)
    found = list(dict.fromkeys(needs(cfg, eval_only=eval_only)))
    missing = [need for need in found if not need.there]
    print(columns([(HERE if n.there else MISSING, n.kind, n.name, n.place) for n in found]))
    for dataset, said in protocols_of(cfg).items():
        print(f"protocol of {dataset}: {said['protocol']}")
    for line in dict.fromkeys(f"missing {need.kind} {need.name}: {need.fix}" for need in missing):
        print(line)
    print(f"{len(missing)} of {len(found)} missing" if missing else "everything is there; nothing was run")
    return FAILED if missing else DONE


def needs(cfg: Config, *, eval_only: bool) -> Iterator[Need]:
    """Datasets, words, trained weights, and the weights of CLIP and of both SAMs.

    Raises:
        DatasetError: an unknown dataset.
    """
    if not eval_only:
        yield from _dataset(cfg, cfg.DATASETS.TRAIN[0], trained_on=True)
    for name in cfg.DATASETS.TEST:
        yield from _dataset(cfg, name, trained_on=False)
    for name in (cfg.DATASETS.TRAIN[0], *cfg.DATASETS.TEST):
        yield from _words(cfg, name)
    if cfg.MODEL.WEIGHTS:
        yield _trained(Path(cfg.MODEL.WEIGHTS))
    yield from _clip(cfg)
    ours, ensemble = cfg.MODEL.CMPF, cfg.TEST.ENSEMBLE
    yield from _sam("SAM", ours.SAM.NAME, ours.SAM.CHECKPOINT)
    if ensemble.ENABLED and ensemble.SOURCE == "online":
        yield from _sam("SAM of the ensemble", *mask_sam(cfg))
    elif ensemble.ENABLED:
        make = "make it with: cmpf save-sam-masks"
        yield _file("SAM's masks", "TEST.ENSEMBLE.CACHE_DIR", Path(ensemble.CACHE_DIR), make)


def _dataset(cfg: Config, name: str, *, trained_on: bool) -> Iterator[Need]:
    dataset = locate_dataset(name)
    readers = () if trained_on else truth_readers(cfg, dataset)
    fix = dataset.spec.command_in(dataset.folder)
    for path in dataset.spec.paths_for(*readers):
        yield _file("dataset", dataset.name, dataset.folder / path, fix)


def _words(cfg: Config, name: str) -> Iterator[Need]:
    spec = locate_dataset(name).spec
    chosen, key = words_of(cfg, spec), published_file(spec)
    if chosen == "published" and key:
        yield Need("published words", key, str(vocabulary_path(key)), is_available(key), FETCH)
    elif chosen not in ("published", "own"):
        yield _file("words", spec.name, Path(chosen), "correct DATASETS.VOCABULARIES")


def _trained(path: Path) -> Need:
    entry = zoo().get(path.parent.name)
    if entry is None or entry.asset or path != zoo_path(path.parent.name):
        fix = "correct the path, or take a model by its name: cmpf models"
    else:
        remote = zoo_remote(path.parent.name, entry)
        fix = f"{_DOWNLOADED} {remote.page or remote.url} as {path}"
    return _file("trained weights", path.name, path, fix)


def _clip(cfg: Config) -> Iterator[Need]:
    name, tag = cfg.MODEL.CMPF.CLIP.NAME, cfg.MODEL.CMPF.CLIP.PRETRAINED
    if not tag or name in registered("clip") or tag == name == tiny.CLIP_NAME:
        return  # random weights, those of a plug-in, or those that come with CMPF
    record = tag_record(name, tag)
    if not record:
        yield _file("CLIP", name, Path(tag).expanduser(), "correct MODEL.CMPF.CLIP.PRETRAINED")
        return
    path, place = cached_file(name, tag), saved_file(name, tag)
    fix = f"{_DOWNLOADED} {source_of(record)} as {place}"
    yield Need("CLIP", f"{name} {tag}", str(path or place), path is not None, fix)


def _sam(kind: str, name: str, checkpoint: str) -> Iterator[Need]:
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


def _file(kind: str, name: str, path: Path, fix: str) -> Need:
    return Need(kind, name, str(path), path.exists(), fix)
