# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What the folder of a model may decide on this machine: how the model is built and used, and nothing about files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from cmpf.common.yaml_files import load_yaml, read_yaml_text
from cmpf.config import Config
from cmpf.config.loading import resolve
from cmpf.data.datasets.catalog import FILE_PREFIX
from cmpf.errors import ConfigError, PluginError
from cmpf.registry import module_name

# Keys of the dataset file beside a model that name files.
_DATASET_PATHS = ("images", "annotations", "vocabulary", "panoptic", "instances", "label_files")


def check_foreign(title: str, config: Path, *, dataset: Path, plugins: Sequence[str]) -> None:
    """Makes sure that a model from others names no file of this machine and no code.

    What a training here wrote, into the folder that its OUTPUT_DIR names, may name files, but no code either.
    What it says about OUTPUT_DIR and MODEL.WEIGHTS never counts, so both may stand there. SOLVER, LOG and the like
    mean something for trainings only, which no command starts from the folder of a model.

    Args:
        title: of the model, for messages.
        config: its configuration.
        dataset: the file of its training classes, which may not be there.
        plugins: those that the user names.
    Raises:
        ConfigError: the configuration is wrong, or names files. PluginError: it asks for a plug-in that the user
            does not name.
    """
    cfg = resolve(config, bases=False).cfg
    own = Path(cfg.OUTPUT_DIR).expanduser().resolve() == config.parent.resolve()
    if not own:
        issues = [*_named_files(cfg, dataset.name), *_dataset_files(dataset)]
        if issues:
            raise ConfigError(
                f"{title}: the model of somebody else may not name files of this machine, but has "
                f"{', '.join(issues)}. Remove them from it; or, if you trust it, give --config-file {config} with "
                "--weights FILE"
            )
    _check_plugins(title, cfg, plugins)


def _named_files(cfg: Config, dataset: str) -> Iterator[str]:
    """KEY VALUE of each key that names a file or folder."""
    ensemble, ours = cfg.TEST.ENSEMBLE, cfg.MODEL.CMPF
    for key, value in (
        ("MODEL.CMPF.CLIP.PRETRAINED", ours.CLIP.PRETRAINED),
        ("MODEL.CMPF.SAM.CHECKPOINT", ours.SAM.CHECKPOINT),
        ("TEST.ENSEMBLE.SAM_CHECKPOINT", ensemble.SAM_CHECKPOINT),
    ):
        if _is_path(value):
            yield f"{key} {value}"
    if ensemble.SOURCE == "cache" or ensemble.CACHE_DIR:
        yield f"TEST.ENSEMBLE.CACHE_DIR {ensemble.CACHE_DIR}"
    for key, names in (("DATASETS.TRAIN", cfg.DATASETS.TRAIN), ("DATASETS.TEST", cfg.DATASETS.TEST)):
        for name in names:
            if (name.startswith(FILE_PREFIX) or _is_path(name)) and name != f"{FILE_PREFIX}{dataset}":
                yield f"{key} {name}"


def _dataset_files(dataset: Path) -> Iterator[str]:
    """What the file of training classes names outside of its folder."""
    if not dataset.is_file():
        return
    try:
        content: Any = load_yaml(read_yaml_text(dataset))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return  # whoever reads its classes says what is wrong with it
    for key in _DATASET_PATHS if isinstance(content, dict) else ():
        value = content.get(key)
        if isinstance(value, str) and _leaves_folder(value):
            yield f"{key} {value} in {dataset.name}"


def _is_path(value: str) -> bool:
    """OpenCLIP's tags and names of models and datasets have none of these letters; a bare name may be a file here."""
    if any(sign in value for sign in "/\\~.:"):
        return True
    return 0 < len(value) < 200 and Path(value).is_file()


def _leaves_folder(value: str) -> bool:
    paths = PurePosixPath(value), PureWindowsPath(value)
    return value.startswith("~") or any(path.is_absolute() or ".." in path.parts for path in paths)


def _check_plugins(title: str, cfg: Config, given: Sequence[str]) -> None:
    allowed = {module_name(plugin) for plugin in given}
    wanted = [plugin for plugin in cfg.MODEL.CMPF.PLUGINS if module_name(plugin) not in allowed]
    if wanted:
        flags = " ".join(f"--plugin {plugin}" for plugin in wanted)
        raise PluginError(
            f"{title} needs the plug-in{'s' if len(wanted) > 1 else ''} {', '.join(wanted)}: code, which no model "
            f"brings or chooses by itself. Get it from the model's authors, read it, and name it: {flags}, in Python "
            f"plugins={wanted!r}"
        )
