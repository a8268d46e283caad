# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Saves a model as a folder that cmpf.load reads and that can be uploaded to the Hugging Face Hub as it is."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from cmpf import weights
from cmpf.common.files import write_text
from cmpf.config import Config, with_overrides
from cmpf.data import Vocabulary, get_spec
from cmpf.data.datasets.catalog import FILE_PREFIX
from cmpf.factory.model import PLUGINS
from cmpf.factory.model_card import Metrics, model_card
from cmpf.model import CMPF
from cmpf.registry import module_name, origins
from cmpf.weights.hub import (
    FOLDER_CARD,
    FOLDER_CONFIG,
    FOLDER_DATASET,
    FOLDER_WEIGHTS,
    FOLDER_WORDS,
)

logger = logging.getLogger(__name__)


def save_pretrained(
    cfg: Config,
    model: CMPF,
    folder: Path,
    *,
    title: str,
    metrics: str | Path | Metrics | None,
    licence: str,
    notes: str,
) -> list[Path]:
    """See Predictor.save_pretrained.

    Args:
        cfg: what the model was built from.
    """
    title = title or folder.absolute().name
    trained = model.trained_state_dict()
    card = model_card(  # first of all: it fails where the metrics are wrong, and nothing is written then
        cfg,
        vocabulary=model.train_vocabulary,
        title=title,
        parameters=sum(parameter.numel() for parameter in trained.values()),
        metrics=metrics,
        licence=licence,
        notes=notes,
    )
    folder.mkdir(parents=True, exist_ok=True)
    written = _write_dataset(cfg, model.train_vocabulary, folder)
    write_text(folder / FOLDER_CONFIG, _portable(cfg).dump())
    words = [list(words) for words in model.train_vocabulary.classes]
    plugins = {name: Path(file).name for name, file in origins(cfg.MODEL.CMPF.PLUGINS).items()}
    metadata = {"train_classes": words} | ({PLUGINS: plugins} if plugins else {})
    weights.save(model, folder / FOLDER_WEIGHTS, metadata=metadata)
    write_text(folder / FOLDER_CARD, card)
    return [folder / FOLDER_CONFIG, folder / FOLDER_WEIGHTS, folder / FOLDER_CARD, *written]


def _portable(cfg: Config) -> Config:
    """The configuration without what holds on this machine only."""
    for key, value in (
        ("MODEL.CMPF.CLIP.PRETRAINED", cfg.MODEL.CMPF.CLIP.PRETRAINED),
        ("MODEL.CMPF.SAM.CHECKPOINT", cfg.MODEL.CMPF.SAM.CHECKPOINT),
        ("TEST.ENSEMBLE.SAM_CHECKPOINT", cfg.TEST.ENSEMBLE.SAM_CHECKPOINT),
    ):
        if Path(value).is_file():
            logger.warning("%s is the file %s: others need it too, and at this place", key, value)
    here = {"MODEL.WEIGHTS": "", "MODEL.DEVICE": "auto", "NUM_THREADS": 0, "OUTPUT_DIR": "./output"}
    masks = {"TEST.ENSEMBLE.SOURCE": "online", "TEST.ENSEMBLE.CACHE_DIR": ""}
    if cfg.MODEL.CMPF.DEFORMABLE_ATTENTION == "triton":  # an error where it cannot run
        here["MODEL.CMPF.DEFORMABLE_ATTENTION"] = "auto"
    datasets = {"DATASETS.TRAIN": _shipped(cfg.DATASETS.TRAIN), "DATASETS.TEST": _shipped(cfg.DATASETS.TEST)}
    plugins = {"MODEL.CMPF.PLUGINS": tuple(module_name(name) for name in cfg.MODEL.CMPF.PLUGINS)}
    return with_overrides(cfg, {**here, **masks, **datasets, **plugins})


def _shipped(names: Sequence[str]) -> tuple[str, ...]:
    """Names of datasets, where one's own is the file that lies beside the configuration."""
    own = f"{FILE_PREFIX}{FOLDER_DATASET}"
    return tuple(own if name.startswith(FILE_PREFIX) else name for name in names)


def _write_dataset(cfg: Config, vocabulary: Vocabulary, folder: Path) -> list[Path]:
    """The seen classes of a dataset that only this machine knows: they belong to the model, the images do not."""
    name = cfg.DATASETS.TRAIN[0]
    if not name.startswith(FILE_PREFIX):
        for stale in (FOLDER_DATASET, FOLDER_WORDS):  # of another model that was saved here
            (folder / stale).unlink(missing_ok=True)
        return []
    entry = get_spec(name)
    flags = " ".join(str(int(thing)) for thing in vocabulary.is_thing)
    lines = [f"{index}:{','.join(words)}" for index, words in enumerate(vocabulary.classes, start=1)]
    write_text(folder / FOLDER_WORDS, "\n".join([f"# isthing: {flags}", *lines, ""]))
    values = {
        "name": entry.name,
        "task": entry.kind,
        "images": "images",
        "annotations": "annotations",
        "vocabulary": FOLDER_WORDS,
    }
    head = "# The classes that the model was trained on; the images are not in this folder.\n"
    text = head + "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items())
    write_text(folder / FOLDER_DATASET, text)
    return [folder / FOLDER_DATASET, folder / FOLDER_WORDS]
