# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What makes labels what they are: the configuration of a run, kept beside its results and compared with the next."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmpf.common.files import read_text, write_text
from cmpf.errors import CMPFError

if TYPE_CHECKING:  # what is compared needs no torch
    from cmpf.data.vocabulary import Vocabulary
    from cmpf.predictor import Predictor

MAX_BYTES = 64 * 2**20  # of a configuration: vocabularies have thousands of classes
SHOWN = 60  # letters of a value in an error message


def configuration_of(predictor: Predictor, words: Vocabulary, **options: Any) -> dict[str, Any]:
    """What has to be equal for two runs to give equal labels, as JSON takes it.

    Args:
        words: the classes that are looked for.
        options: what else the labels depend on, such as the model's name and a threshold.
    """
    from cmpf.weights.saving import hash_weights

    return {
        **options,
        "weights": {
            "trained": hash_weights(predictor.model.trained_state_dict()),
            **predictor.model.encoder_hashes(),
        },
        "vocabulary": [", ".join(synonyms) for synonyms in words.classes],
        "stuff": [name for name, thing in zip(words.names, words.is_thing, strict=True) if not thing],
    }


def keep_configuration(
    path: Path, configuration: Mapping[str, Any], *, fix: str, folder: Path | str | None = None
) -> None:
    """Writes the configuration of a run, or makes sure that the one that is there is equal.

    Args:
        fix: ends the error message. folder: that of the results; None = that of the file.
    Raises:
        CMPFError: what is there is of another configuration; says what differs.
    """
    if path.exists():
        there = read_configuration(path)
        if different := differences(there, json.loads(json.dumps(configuration))):
            raise CMPFError(
                f"{folder or path.parent} holds results of another configuration: {different}; {fix}"
            )
    else:
        write_text(path, json.dumps(configuration, ensure_ascii=False, indent=1) + "\n")


def read_configuration(path: Path) -> dict[str, Any]:
    """The configuration that is kept in a file.

    Raises:
        CMPFError: the file cannot be read, or holds none.
    """
    try:
        text = read_text(path, limit=MAX_BYTES)
    except (OSError, ValueError) as error:
        raise CMPFError(f"{path}: cannot be read ({error}); give another folder, or begin anew") from error
    return configuration_in(text, str(path))


def configuration_in(text: str | bytes, where: str) -> dict[str, Any]:
    """The configuration that a text holds; CMPFError, which begins with `where`, if it holds none."""
    try:
        there = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CMPFError(f"{where}: cannot be read ({error}); give another folder, or begin anew") from error
    if not isinstance(there, dict):
        raise CMPFError(f"{where}: no JSON object; give another folder, or begin anew")
    return there


def differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs, "key: A there, B now", or ""; of lists only what one of them has alone."""
    keys = dict.fromkeys([*there, *now])
    return ", ".join(
        f"{key} {_difference(there.get(key), now.get(key))}" for key in keys if there.get(key) != now.get(key)
    )


def _difference(there: Any, now: Any) -> str:
    if isinstance(there, list) and isinstance(now, list):
        alone = [value for value in there if value not in now], [value for value in now if value not in there]
        if not any(alone):
            return "in another order"
        there, now = alone
    return f"{_shown(there)} there, {_shown(now)} now"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
