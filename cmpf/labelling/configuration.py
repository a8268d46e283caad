# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The configuration of a labelling run, saved with its results so that runs with different ones are not mixed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmpf.common.files import read_text, write_text
from cmpf.errors import CMPFError

if TYPE_CHECKING:  # comparing configurations does not need torch
    from cmpf.data.vocabulary import Vocabulary
    from cmpf.predictor import Predictor

MAX_BYTES = 64 * 2**20  # size limit of a configuration file; a vocabulary may have thousands of classes
MAX_SHOWN = 60  # characters of a value in an error message


def run_configuration(predictor: Predictor, vocabulary: Vocabulary, **options: Any) -> dict[str, Any]:
    """Everything that the labels of a run depend on; JSON-serializable.

    Args:
        vocabulary: the classes to segment.
        options: further settings, such as the model's name and a score threshold.
    """
    from cmpf.weights.saving import hash_weights

    return {
        **options,
        "weights": {
            "trained": hash_weights(predictor.model.trained_state_dict()),
            **predictor.model.encoder_hashes(),
        },
        **class_configuration(vocabulary),
    }


def class_configuration(vocabulary: Vocabulary) -> dict[str, Any]:
    """The part of a configuration that says what the class indices mean."""
    stuff = [name for name, thing in zip(vocabulary.names, vocabulary.is_thing, strict=True) if not thing]
    return {"vocabulary": [", ".join(synonyms) for synonyms in vocabulary.classes], "stuff": stuff}


def configured_vocabulary(configuration: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary of a configuration; the inverse of class_configuration."""
    from cmpf.data.vocabulary import Vocabulary

    vocabulary = Vocabulary(
        classes=[words.split(", ") for words in configuration["vocabulary"]], repeats=True
    )
    stuff = set(configuration["stuff"])
    return vocabulary.with_things(i for i, name in enumerate(vocabulary.names) if name not in stuff)


def save_or_compare_configuration(
    path: Path, configuration: Mapping[str, Any], *, fix: str, folder: Path | str | None = None
) -> None:
    """Saves the configuration of a run; if the file exists, checks that it holds an equal one.

    Args:
        fix: end of the error message.
        folder: output folder in the error message; None = the folder of the file.
    Raises:
        CMPFError: the file holds another configuration; says what differs.
    """
    if path.exists():
        saved = read_configuration(path)
        if different := differences(saved, json.loads(json.dumps(configuration))):
            raise CMPFError(
                f"{folder or path.parent} holds results of another configuration: {different}; {fix}"
            )
    else:
        write_text(path, json.dumps(configuration, ensure_ascii=False, indent=1) + "\n")


def read_configuration(path: Path) -> dict[str, Any]:
    """Reads a saved configuration.

    Raises:
        CMPFError: the file cannot be read or holds no JSON object.
    """
    try:
        text = read_text(path, limit=MAX_BYTES)
    except (OSError, ValueError) as error:
        raise CMPFError(f"{path}: cannot be read ({error}); give another folder, or start over") from error
    return parse_configuration(text, str(path))


def parse_configuration(text: str | bytes, where: str) -> dict[str, Any]:
    """Parses the text of a saved configuration; CMPFError, starting with `where`, if it is no JSON object."""
    try:
        configuration = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CMPFError(f"{where}: cannot be read ({error}); give another folder, or start over") from error
    if not isinstance(configuration, dict):
        raise CMPFError(f"{where}: no JSON object; give another folder, or start over")
    return configuration


def differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    """The differing keys as "KEY A there, B now", comma-separated, or ""; of lists only the elements that differ."""
    keys = dict.fromkeys([*saved, *current])
    return ", ".join(
        f"{key} {_difference(saved.get(key), current.get(key))}"
        for key in keys
        if saved.get(key) != current.get(key)
    )


def _difference(saved: Any, current: Any) -> str:
    if isinstance(saved, list) and isinstance(current, list):
        removed = [value for value in saved if value not in current]
        added = [value for value in current if value not in saved]
        if not removed and not added:
            return "in another order"
        saved, current = removed, added
    return f"{_shorten(saved)} there, {_shorten(current)} now"


def _shorten(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
