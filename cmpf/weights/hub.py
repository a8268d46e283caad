# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Where a model comes from: the zoo, a folder, a configuration file, or a repository of the Hugging Face Hub."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cmpf.config import find_config, get_cfg
from cmpf.data.datasets.catalog import FILE_PREFIX
from cmpf.errors import ModelNameError, PluginError, WeightsError, summary
from cmpf.registry import module_name
from cmpf.weights.zoo import zoo, zoo_weights

FOLDER_CONFIG, FOLDER_WEIGHTS, FOLDER_CARD = "config.yaml", "model_final.safetensors", "README.md"
# The classes that the model was trained on, where its training dataset is no row of the table.
FOLDER_DATASET, FOLDER_WORDS = "train_dataset.yaml", "train_vocabulary.txt"
# Nothing else of a repository is downloaded, and none of these can hold code.
HUB_FILES = (FOLDER_CONFIG, FOLDER_WEIGHTS, FOLDER_CARD, FOLDER_DATASET, FOLDER_WORDS)
HUB_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")

Source = tuple[Path, list[Any], "Path | None"]


def find_model(model: str, *, need_weights: bool, plugins: Sequence[str] = ()) -> Source:
    """Config, overrides and weights of a model.

    Args:
        model: a name of the zoo, a folder, the path of a .yaml config, or USER/REPOSITORY of the Hub, @REVISION after
            it for a certain one. What is there on disk goes first.
        need_weights: False = they are given otherwise, and a zoo's need not be had.
        plugins: those that the user names.
    Returns:
        The weights are None where the config names them.
    Raises:
        ModelNameError: nothing has this name, or the folder or repository is no model. WeightsError: the weights of
            a zoo model or the repository cannot be had. PluginError: a repository asks for a plug-in that the user
            does not name; what others publish imports no code by itself.
    """
    known = zoo()
    if model in known:
        entry = known[model]
        overrides = [part for pair in entry.overrides.items() for part in pair]
        return find_config(entry.config), overrides, zoo_weights(model) if need_weights else None
    path = Path(model)
    if model and path.is_dir():
        return _in_folder(
            path, f"folder {model}", "train_net.py and save_pretrained write both", need_weights
        )
    if path.suffix in (".yaml", ".yml"):
        return find_config(model), [], None
    if (name := HUB_NAME.fullmatch(model)) and not path.exists():
        source = _from_hub(name["repo"], name["revision"], need_weights)
        _check_plugins(model, source[0], plugins)
        return source
    near = difflib.get_close_matches(model, known, n=1, cutoff=0.4)
    hint = f", did you mean {near[0]}?" if near else "."
    raise ModelNameError(
        f"model {model!r} is unknown{hint} Give one of {', '.join(known)}, the path of a .yaml config, "
        f"a folder with {FOLDER_CONFIG} and {FOLDER_WEIGHTS}, or USER/REPOSITORY of the Hugging Face Hub"
    )


def _in_folder(folder: Path, title: str, origin: str, need_weights: bool) -> Source:
    wanted = (FOLDER_CONFIG, FOLDER_WEIGHTS) if need_weights else (FOLDER_CONFIG,)
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise ModelNameError(f"{title} holds no {' and no '.join(missing)}; {origin}")
    overrides: list[Any] = []
    if (dataset := folder / FOLDER_DATASET).is_file():
        overrides = ["DATASETS.TRAIN", [f"{FILE_PREFIX}{dataset.absolute()}"]]
    return folder / FOLDER_CONFIG, overrides, folder / FOLDER_WEIGHTS if need_weights else None


def _check_plugins(model: str, config: Path, given: Sequence[str]) -> None:
    allowed = {module_name(plugin) for plugin in given}
    wanted = [plugin for plugin in get_cfg(config).MODEL.CMPF.PLUGINS if module_name(plugin) not in allowed]
    if wanted:
        flags = " ".join(f"--plugin {plugin}" for plugin in wanted)
        raise PluginError(
            f"{model} needs the plug-in{'s' if len(wanted) > 1 else ''} {', '.join(wanted)}: code, which no model of "
            f"the Hub brings or may choose. Get it from the model's authors, read it, and name it: {flags}, in Python "
            f"plugins={wanted!r}"
        )


def _from_hub(repository: str, revision: str | None, need_weights: bool) -> Source:
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
    return _in_folder(Path(folder), f"{page}", "is it a CMPF model?", need_weights)
