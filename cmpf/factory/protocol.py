# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The protocol of an evaluation: what must be as in the papers, so that a figure can stand beside theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch

from cmpf.config import Config, find_config, get_cfg
from cmpf.data import get_spec
from cmpf.data.datasets.catalog import is_known
from cmpf.data.datasets.published import has_published_words
from cmpf.errors import ConfigError
from cmpf.factory.encoders import build_precision
from cmpf.factory.model import evaluation_size
from cmpf.factory.vocabularies import PUBLISHED, seen_of, words_of
from cmpf.weights.zoo import published_entry
from cmpf.weights.zoo_entries import ZooEntry

# What `--protocol published` sets for all datasets.
ALWAYS: Mapping[str, Any] = {
    "DATASETS.VOCABULARIES": PUBLISHED,
    "DATASETS.SEEN": PUBLISHED,
    "MODEL.CMPF.PRECISION": "fp32",
    "SOLVER.AMP.DTYPE": "fp16",
    "TEST.ENSEMBLE.PUBLISHED_POOLING": True,
    "TEST.ENSEMBLE.SAM_NAME": "vit_h",
}
# And what it takes from the published configuration of the dataset, so that all of it is compared, too. Which tasks are
# on belongs to it: the semantic sum of a purely semantic evaluation is taken before results are resized.
COMPARED = (
    *(f"MODEL.MASK_FORMER.TEST.{task}_ON" for task in ("SEMANTIC", "INSTANCE", "PANOPTIC")),
    *(f"MODEL.MASK_FORMER.TEST.{key}" for key in ("OBJECT_MASK_THRESHOLD", "OVERLAP_THRESHOLD")),
    *(f"MODEL.MASK_FORMER.TEST.{key}" for key in ("CLIP_OBJECTNESS", "INSTANCE_MASK_SCORE")),
    *(
        f"MODEL.CMPF.{key}"
        for key in (
            *("GEOMETRIC_ENSEMBLE_ALPHA", "GEOMETRIC_ENSEMBLE_BETA", "ENSEMBLE_ON_VALID_MASK"),
            "SAM.KEEP_ASPECT",
        )
    ),
    *(f"TEST.{key}" for key in ("DETECTIONS_PER_IMAGE", "IMS_PER_BATCH", "MIN_ISLAND_SHARE", "AUG.ENABLED")),
)
SIZES = ("INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST")
ENSEMBLE = (
    *("TASKS", "ALPHA", "SCORE_THRESHOLD", "MAX_MASKS", "SAM_NAME", "PUBLISHED_POOLING", "POINTS_PER_SIDE"),
    *("COARSE_POINTS_PER_SIDE", "PRED_IOU_THRESH", "STABILITY_THRESH", "NMS_THRESH", "MIN_AREA"),
)
ENABLED = "TEST.ENSEMBLE.ENABLED"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a dataset was evaluated.

    words: "published", "own" or a file. seen: "published" or "words". precision: of the frozen encoders.
    ensemble: whether the OpenSeg Ensemble took part. benchmark: whether papers report results on the dataset.
    differences: every other thing that is not as published, as KEY VALUE and the published value. A model that nobody
        has published has none.
    """

    words: str
    seen: str
    precision: str
    ensemble: bool
    benchmark: bool
    differences: tuple[str, ...]

    @property
    def label(self) -> str:
        """What tables say."""
        if not self.benchmark:
            return "no published benchmark"
        if self.words != PUBLISHED:
            return "own words: not comparable"
        others = [] if self.seen == PUBLISHED else ["seen classes by words"]
        others += [] if self.precision == "float32" else [f"{self.precision} encoders"]
        others += self.differences
        return f"not comparable: {', '.join(others)}" if others else PUBLISHED

    def as_json(self) -> dict[str, Any]:
        """For the results file."""
        return {
            "protocol": self.label,
            "words": self.words,
            "seen": self.seen,
            "precision": self.precision,
            "ensemble": self.ensemble,
            "differences": list(self.differences),
        }


def protocol_of(cfg: Config, dataset: str) -> Protocol:
    """The protocol by which a configuration evaluates a dataset."""
    spec, entry = get_spec(dataset), published_entry(cfg)
    reference = _published_config(entry, dataset) if entry else None
    return Protocol(
        words=words_of(cfg, spec),
        seen=seen_of(cfg, spec),
        precision="bfloat16" if build_precision(cfg) is torch.bfloat16 else "float32",
        ensemble=cfg.TEST.ENSEMBLE.ENABLED,
        benchmark=has_published_words(spec),
        differences=_differences(cfg, reference, dataset) if reference else (),
    )


def protocols_of(cfg: Config) -> dict[str, dict[str, Any]]:
    """What results say of their protocol, by the name that a dataset has in them."""
    found = {}
    for name in cfg.DATASETS.TEST:
        if is_known(name):  # another one is Detectron2's, and has nothing to be compared with
            found[get_spec(name).name] = protocol_of(cfg, name).as_json()
    return found


def protocol_settings(cfg: Config) -> dict[str, Any]:
    """KEY: VALUE of `--protocol published`, for the test datasets of a configuration.

    Raises:
        ConfigError: they were published with settings that exclude each other.
    """
    entry = published_entry(cfg)
    settings: dict[str, Any] = dict(ALWAYS)
    owner: dict[str, str] = {}
    for dataset in cfg.DATASETS.TEST:
        for key, value in _settings_of(entry, dataset).items():
            if key in owner and settings[key] != value:
                raise ConfigError(
                    f"--protocol published: {owner[key]} needs {key} {settings[key]} and {dataset} {value}; "
                    "evaluate them one after the other"
                )
            settings[key], owner[key] = value, dataset
    return settings


def _settings_of(entry: ZooEntry | None, dataset: str) -> dict[str, Any]:
    """What the published evaluation on a dataset sets; {} where nothing is published."""
    reference = _published_config(entry, dataset) if entry else None
    if entry is None or reference is None:
        return {}
    # The ensemble where the authors' table has figures with it.
    return {key: attrgetter(key)(reference) for key in (*COMPARED, *SIZES)} | {
        ENABLED: dataset in entry.with_ensemble
    }


def _published_config(entry: ZooEntry, dataset: str) -> Config | None:
    """The configuration of a published model's evaluation on a dataset: one that stands beside the model's own."""
    own = find_config(entry.config)
    for path in sorted(own.parent.glob(f"{own.stem.partition('_eval_')[0]}_eval_*.yaml")):
        cfg = get_cfg(path)
        if dataset in cfg.DATASETS.TEST:
            return cfg
    return None


def _differences(cfg: Config, reference: Config, dataset: str) -> tuple[str, ...]:
    """What an evaluation has other than the published one, whose ensemble may be off."""
    keys: tuple[str, ...] = COMPARED
    if cfg.TEST.ENSEMBLE.ENABLED:
        keys = (*keys, *(f"TEST.ENSEMBLE.{key}" for key in ENSEMBLE))
    published = {key: attrgetter(key)(reference) for key in keys} | {
        key: value for key, value in ALWAYS.items() if key in keys
    }
    found = [
        f"{key} {attrgetter(key)(cfg)} (published {value})"
        for key, value in published.items()
        if attrgetter(key)(cfg) != value
    ]
    spec = get_spec(dataset)
    size, wanted = evaluation_size(cfg, spec), evaluation_size(reference, spec)
    return (*found, *([f"test size {size} (published {wanted})"] if size != wanted else []))
