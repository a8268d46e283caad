# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Evaluation protocols: the settings that must match the papers for results to be comparable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from cmpf.config import Config, find_config, get_cfg
from cmpf.data import get_spec
from cmpf.data.datasets.catalog import is_known
from cmpf.data.datasets.published import has_published_words
from cmpf.errors import ConfigError
from cmpf.factory.encoders import precision_name
from cmpf.factory.model import evaluation_size
from cmpf.factory.vocabularies import PUBLISHED, seen_of, words_of
from cmpf.weights.zoo import published_entry
from cmpf.weights.zoo_entries import ZooEntry

# `--protocol published` sets these for all datasets.
COMMON_SETTINGS: Mapping[str, Any] = {
    "DATASETS.VOCABULARIES": PUBLISHED,
    "DATASETS.SEEN": PUBLISHED,
    "MODEL.CMPF.PRECISION": "fp32",
    "SOLVER.AMP.DTYPE": "fp16",
    "TEST.ENSEMBLE.PUBLISHED_POOLING": True,
    "TEST.ENSEMBLE.SAM_NAME": "vit_h",
}
# It takes these from the published configuration of each dataset; they are also compared. Enabled tasks are among them:
# an evaluation of semantic results only sums masks before it resizes them.
COMPARED_KEYS = (
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
SIZE_KEYS = ("INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST")
ENSEMBLE_KEYS = (
    *("TASKS", "ALPHA", "SCORE_THRESHOLD", "MAX_MASKS", "SAM_NAME", "PUBLISHED_POOLING", "POINTS_PER_SIDE"),
    *("COARSE_POINTS_PER_SIDE", "PRED_IOU_THRESH", "STABILITY_THRESH", "NMS_THRESH", "MIN_AREA"),
)
ENSEMBLE_ENABLED = "TEST.ENSEMBLE.ENABLED"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a dataset is evaluated.

    Attributes:
        words: origin of the class names: "published", "own", or a file.
        seen: origin of the seen classes: "published" or "words".
        precision: dtype of the frozen encoders.
        ensemble: whether the OpenSeg Ensemble is used.
        benchmark: whether papers report results on the dataset.
        differences: other deviations from the published evaluation, each as KEY VALUE (published VALUE); empty for
            models that are not published.
    """

    words: str
    seen: str
    precision: str
    ensemble: bool
    benchmark: bool
    differences: tuple[str, ...]

    @property
    def label(self) -> str:
        """The protocol as tables show it."""
        if not self.benchmark:
            return "no published benchmark"
        if self.words != PUBLISHED:
            return "own words: not comparable"
        differences = [] if self.seen == PUBLISHED else ["seen classes by words"]
        differences += [] if self.precision == "float32" else [f"{self.precision} encoders"]
        differences += self.differences
        return f"not comparable: {', '.join(differences)}" if differences else PUBLISHED

    def as_json(self) -> dict[str, Any]:
        """The protocol's entry in the results file."""
        return {
            "protocol": self.label,
            "words": self.words,
            "seen": self.seen,
            "precision": self.precision,
            "ensemble": self.ensemble,
            "differences": list(self.differences),
        }


def protocol_of(cfg: Config, dataset: str) -> Protocol:
    """The protocol with which a configuration evaluates a dataset."""
    spec, entry = get_spec(dataset), published_entry(cfg)
    reference = _published_config(entry, dataset) if entry else None
    return Protocol(
        words=words_of(cfg, spec),
        seen=seen_of(cfg, spec),
        precision=precision_name(cfg),
        ensemble=cfg.TEST.ENSEMBLE.ENABLED,
        benchmark=has_published_words(spec),
        differences=_differences(cfg, reference, dataset) if reference else (),
    )


def protocols_of(cfg: Config) -> dict[str, dict[str, Any]]:
    """The protocols of DATASETS.TEST for the results file, by dataset, except datasets that only Detectron2 knows."""
    protocols = {}
    for name in cfg.DATASETS.TEST:
        if is_known(name):
            protocols[get_spec(name).name] = protocol_of(cfg, name).as_json()
    return protocols


def protocol_settings(cfg: Config) -> dict[str, Any]:
    """The overrides of `--protocol published` for DATASETS.TEST, {key: value}.

    Raises:
        ConfigError: the datasets' published settings contradict each other.
    """
    entry = published_entry(cfg)
    settings: dict[str, Any] = dict(COMMON_SETTINGS)
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
    """The settings of the published evaluation on a dataset; {} if there is none.

    The ensemble is used if the authors' table has results with it.
    """
    reference = _published_config(entry, dataset) if entry else None
    if entry is None or reference is None:
        return {}
    return {key: attrgetter(key)(reference) for key in (*COMPARED_KEYS, *SIZE_KEYS)} | {
        ENSEMBLE_ENABLED: dataset in entry.with_ensemble
    }


def _published_config(entry: ZooEntry, dataset: str) -> Config | None:
    """The configuration of a published model's evaluation on a dataset, from the folder of the model's own one."""
    own = find_config(entry.config)
    for path in sorted(own.parent.glob(f"{own.stem.partition('_eval_')[0]}_eval_*.yaml")):
        cfg = get_cfg(path)
        if dataset in cfg.DATASETS.TEST:
            return cfg
    return None


def _differences(cfg: Config, reference: Config, dataset: str) -> tuple[str, ...]:
    """Deviations from the published evaluation; using the ensemble or not is none."""
    keys: tuple[str, ...] = COMPARED_KEYS
    if cfg.TEST.ENSEMBLE.ENABLED:
        keys = (*keys, *(f"TEST.ENSEMBLE.{key}" for key in ENSEMBLE_KEYS))
    published = {key: attrgetter(key)(reference) for key in keys} | {
        key: value for key, value in COMMON_SETTINGS.items() if key in keys
    }
    differences = [
        f"{key} {attrgetter(key)(cfg)} (published {value})"
        for key, value in published.items()
        if attrgetter(key)(cfg) != value
    ]
    spec = get_spec(dataset)
    size, published_size = evaluation_size(cfg, spec), evaluation_size(reference, spec)
    if size != published_size:
        differences.append(f"test size {size} (published {published_size})")
    return tuple(differences)
