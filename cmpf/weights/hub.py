# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Finds models by zoo name, folder, file or Hugging Face Hub repository, and saves models as folders."""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from cmpf.common.files import load_yaml, read_yaml_text, write_text
from cmpf.config import Config, find_config, with_overrides
from cmpf.config.loading import resolve
from cmpf.data import Vocabulary, get_spec
from cmpf.data.datasets.catalog import FILE_PREFIX
from cmpf.data.datasets.custom import PATHS
from cmpf.errors import ConfigError, ModelNameError, PluginError, WeightsError, summary
from cmpf.registry import module_name
from cmpf.weights.reading import read_metadata
from cmpf.weights.saving import ORIGIN_KEY, TrainedModel, save
from cmpf.weights.zoo import made_for, zoo_path, zoo_weights
from cmpf.weights.zoo_entries import zoo

logger = logging.getLogger(__name__)

FOLDER_CONFIG, FOLDER_WEIGHTS, FOLDER_CARD = "config.yaml", "model_final.safetensors", "README.md"
# The training classes of a model that was trained on a custom dataset.
FOLDER_DATASET, FOLDER_WORDS = "train_dataset.yaml", "train_vocabulary.txt"
# Only these files of a repository are downloaded; none of them can contain code.
HUB_FILES = (FOLDER_CONFIG, FOLDER_WEIGHTS, FOLDER_CARD, FOLDER_DATASET, FOLDER_WORDS)
HUB_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")

Source = tuple[Path, list[Any], "Path | None"]


def find_model(model: str, *, need_weights: bool, plugins: Sequence[str] = ()) -> Source:
    """Finds the configuration, overrides and weights of a model.

    Args:
        model: a zoo name, a folder, a .yaml configuration, a .safetensors file that the first load of a zoo model
            wrote, or USER/REPOSITORY[@REVISION] of the Hugging Face Hub. An existing path takes precedence over the
            Hub.
        need_weights: False = the caller has other weights, so those of a zoo model are not downloaded.
        plugins: plug-ins that the user allows.
    Returns:
        Configuration file, overrides [KEY, VALUE, ...], and file of weights (None: not needed, or in the config).
    Raises:
        ModelNameError: the name is unknown, or the folder or repository does not contain a model.
        WeightsError: weights or a repository cannot be downloaded.
        ConfigError, PluginError: see check_foreign.
    """
    known = zoo()
    if model in known:
        entry = known[model]
        weights = zoo_weights(model) if need_weights else None
        return find_config(entry.config), _flatten(entry.overrides), weights
    path = Path(model)
    if model and path.is_dir():
        return _from_folder(
            path, f"folder {model}", "train_net.py and save_pretrained write both", need_weights, plugins
        )
    if path.suffix in (".yaml", ".yml"):
        return find_config(model), [], None
    if path.suffix == ".safetensors" and path.is_file():
        return _from_file(path)
    if (name := HUB_NAME.fullmatch(model)) and not path.exists():
        return _from_hub(name["repo"], name["revision"], need_weights, plugins)
    near = difflib.get_close_matches(model, known, n=1, cutoff=0.4)
    hint = f", did you mean {near[0]}?" if near else "."
    raise ModelNameError(
        f"model {model!r} is unknown{hint} Give one of {', '.join(known)}, the path of a .yaml config, "
        f"a folder with {FOLDER_CONFIG} and {FOLDER_WEIGHTS}, or USER/REPOSITORY of the Hugging Face Hub"
    )


def weights_place(model: str) -> Path | None:
    """Path at which the weights of a model are or will be after a download; None if its configuration names them."""
    if model in zoo():
        return zoo_path(model)
    return Path(model) / FOLDER_WEIGHTS if Path(model).is_dir() else None


def _from_file(path: Path) -> Source:
    """The zoo configuration that a file of weights was written for; the file itself has no settings."""
    origin = read_metadata(path).get(ORIGIN_KEY)
    entry = next((entry for entry in zoo().values() if origin and made_for(origin, entry)), None)
    if entry is None:
        raise ModelNameError(
            f"{path} was made for no configuration of the zoo: give its configuration as the model, and this file as "
            "weights"
        )
    return find_config(entry.config), _flatten(entry.overrides), path


def _flatten(overrides: Mapping[str, Any]) -> list[Any]:
    """{key: value} -> [KEY, VALUE, KEY, VALUE, ...]."""
    return [part for pair in overrides.items() for part in pair]


def _from_folder(folder: Path, title: str, hint: str, need_weights: bool, plugins: Sequence[str]) -> Source:
    required = (FOLDER_CONFIG, FOLDER_WEIGHTS) if need_weights else (FOLDER_CONFIG,)
    missing = [name for name in required if not (folder / name).is_file()]
    if missing:
        raise ModelNameError(f"{title} holds no {' and no '.join(missing)}; {hint}")
    check_foreign(title, folder / FOLDER_CONFIG, dataset=folder / FOLDER_DATASET, plugins=plugins)
    overrides: list[Any] = []
    if (dataset := folder / FOLDER_DATASET).is_file():
        overrides = ["DATASETS.TRAIN", [f"{FILE_PREFIX}{dataset.absolute()}"]]
    return folder / FOLDER_CONFIG, overrides, folder / FOLDER_WEIGHTS if need_weights else None


def _from_hub(repository: str, revision: str | None, need_weights: bool, plugins: Sequence[str]) -> Source:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    page = f"https://huggingface.co/{repository}"
    try:
        folder = snapshot_download(repository, revision=revision, allow_patterns=list(HUB_FILES))
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelNameError(
            f"model {repository!r}: neither a folder here nor a repository of the Hub that you may read "
            f"({summary(error, 150)}). Look at {page}; for a private one: hf auth login"
        ) from error
    except (HfHubHTTPError, OSError, ValueError, RuntimeError) as error:
        offline = " HF_HUB_OFFLINE is set: unset it." if os.environ.get("HF_HUB_OFFLINE") else ""
        raise WeightsError(
            f"{repository} is not in the Hub's cache and cannot be downloaded from {page} "
            f"({summary(error, 150)}).{offline} Without network, copy {FOLDER_CONFIG} and {FOLDER_WEIGHTS} of that "
            "page into a folder and give the folder"
        ) from error
    return _from_folder(Path(folder), page, "is it a CMPF model?", need_weights, plugins)


def save_folder(
    cfg: Config,
    model: TrainedModel,
    folder: Path,
    *,
    vocabulary: Vocabulary,
    card: str,
    metadata: Mapping[str, Any],
) -> list[Path]:
    """Writes a folder that `find_model` reads and that can be uploaded to the Hub unchanged.

    Args:
        cfg: the configuration that the model was built from.
        model: its trained weights are saved.
        folder: created if missing.
        vocabulary: classes that the model was trained on.
        card: text of README.md.
        metadata: additional metadata of the weights.
    Returns:
        The written files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dataset_files = _write_dataset(cfg, vocabulary, folder)
    write_text(folder / FOLDER_CONFIG, _portable(cfg).dump())
    classes = [list(words) for words in vocabulary.classes]
    save(model, folder / FOLDER_WEIGHTS, metadata={"train_classes": classes, **metadata})
    write_text(folder / FOLDER_CARD, card)
    return [folder / FOLDER_CONFIG, folder / FOLDER_WEIGHTS, folder / FOLDER_CARD, *dataset_files]


def _portable(cfg: Config) -> Config:
    """The configuration without settings that only hold on this machine."""
    for key, value in _encoder_files(cfg).items():
        if Path(value).is_file():
            logger.warning("%s is the local file %s: other users need a copy at the same path", key, value)
    defaults = {"MODEL.WEIGHTS": "", "MODEL.DEVICE": "auto", "NUM_THREADS": 0, "OUTPUT_DIR": "./output"}
    masks = {"TEST.ENSEMBLE.SOURCE": "online", "TEST.ENSEMBLE.CACHE_DIR": ""}
    if cfg.MODEL.CMPF.DEFORMABLE_ATTENTION == "triton":  # would be an error on machines without it
        defaults["MODEL.CMPF.DEFORMABLE_ATTENTION"] = "auto"
    datasets = {f"DATASETS.{key}": _with_local_file(getattr(cfg.DATASETS, key)) for key in ("TRAIN", "TEST")}
    plugins = {"MODEL.CMPF.PLUGINS": tuple(module_name(name) for name in cfg.MODEL.CMPF.PLUGINS)}
    return with_overrides(cfg, {**defaults, **masks, **datasets, **plugins})


def _encoder_files(cfg: Config) -> dict[str, str]:
    """Keys that may name a file with an encoder's weights, and their values."""
    return {
        "MODEL.CMPF.CLIP.PRETRAINED": cfg.MODEL.CMPF.CLIP.PRETRAINED,
        "MODEL.CMPF.SAM.CHECKPOINT": cfg.MODEL.CMPF.SAM.CHECKPOINT,
        "TEST.ENSEMBLE.SAM_CHECKPOINT": cfg.TEST.ENSEMBLE.SAM_CHECKPOINT,
    }


def _with_local_file(names: Sequence[str]) -> tuple[str, ...]:
    """Dataset names, with the file of a custom dataset replaced by the one beside the configuration."""
    local = f"{FILE_PREFIX}{FOLDER_DATASET}"
    return tuple(local if name.startswith(FILE_PREFIX) else name for name in names)


def _write_dataset(cfg: Config, vocabulary: Vocabulary, folder: Path) -> list[Path]:
    """Writes the training classes of a custom dataset, without its images; returns the written files."""
    name = cfg.DATASETS.TRAIN[0]
    if not name.startswith(FILE_PREFIX):
        for stale in (FOLDER_DATASET, FOLDER_WORDS):  # from another model that was saved here before
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


def check_foreign(title: str, config: Path, *, dataset: Path, plugins: Sequence[str]) -> None:
    """Rejects a model from somebody else that names files of this machine or code.

    A model in the folder that its own OUTPUT_DIR names was trained here: it may name files, but no code. Keys that are
    not used when a model is loaded from a folder (OUTPUT_DIR, MODEL.WEIGHTS, SOLVER, LOG, ...) are not checked.

    Args:
        title: the model's name, for messages.
        config: the model's configuration file.
        dataset: the file of its training classes; may be missing.
        plugins: plug-ins that the user allows.
    Raises:
        ConfigError: the configuration is invalid or names files.
        PluginError: it needs a plug-in that the user did not allow.
    """
    cfg = resolve(config, bases=False).cfg
    trained_here = Path(cfg.OUTPUT_DIR).expanduser().resolve() == config.parent.resolve()
    issues = [] if trained_here else [*_named_files(cfg, dataset.name), *_dataset_files(dataset)]
    if issues:
        raise ConfigError(
            f"{title}: the model of somebody else may not name files of this machine, but has {', '.join(issues)}. "
            f"Remove them from it; or, if you trust it, give --config-file {config} with --weights FILE"
        )
    _check_plugins(title, cfg, plugins)


def _named_files(cfg: Config, dataset: str) -> Iterator[str]:
    """Yields "KEY VALUE" for each key that names a file or folder."""
    ensemble = cfg.TEST.ENSEMBLE
    for key, value in _encoder_files(cfg).items():
        if _is_path(value):
            yield f"{key} {value}"
    if ensemble.SOURCE == "cache" or ensemble.CACHE_DIR:
        yield f"TEST.ENSEMBLE.CACHE_DIR {ensemble.CACHE_DIR}"
    for key, names in (("DATASETS.TRAIN", cfg.DATASETS.TRAIN), ("DATASETS.TEST", cfg.DATASETS.TEST)):
        for name in names:
            if (name.startswith(FILE_PREFIX) or _is_path(name)) and name != f"{FILE_PREFIX}{dataset}":
                yield f"{key} {name}"


def _dataset_files(dataset: Path) -> Iterator[str]:
    """Yields "KEY VALUE in FILE" for each path in the dataset file that leaves its folder."""
    try:
        content: Any = load_yaml(read_yaml_text(dataset))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return  # missing, or reported when its classes are read
    for key in PATHS if isinstance(content, dict) else ():
        value = content.get(key)
        if isinstance(value, str) and _leaves_folder(value):
            yield f"{key} {value} in {dataset.name}"


def _is_path(value: str) -> bool:
    """Whether a value is a path: names of models, datasets and OpenCLIP's tags contain none of these characters."""
    if any(character in value for character in "/\\~.:"):
        return True
    return 0 < len(value) < 200 and Path(value).is_file()


def _leaves_folder(value: str) -> bool:
    paths = PurePosixPath(value), PureWindowsPath(value)
    return value.startswith("~") or any(path.is_absolute() or ".." in path.parts for path in paths)


def _check_plugins(title: str, cfg: Config, plugins: Sequence[str]) -> None:
    allowed = {module_name(plugin) for plugin in plugins}
    missing = [plugin for plugin in cfg.MODEL.CMPF.PLUGINS if module_name(plugin) not in allowed]
    if missing:
        flags = " ".join(f"--plugin {plugin}" for plugin in missing)
        raise PluginError(
            f"{title} needs the plug-in{'s' if len(missing) > 1 else ''} {', '.join(missing)}: code, which no model "
            f"brings or chooses by itself. Get it from the model's authors, read it, and name it: {flags}, in Python "
            f"plugins={missing!r}"
        )
