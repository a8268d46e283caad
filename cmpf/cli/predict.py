# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf predict: segments pictures into classes that the user names."""

from __future__ import annotations

import argparse
import glob
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cmpf.cli.dataset_names import dataset_name
from cmpf.cli.outcome import add_debug
from cmpf.errors import CMPFError, VocabularyError

if TYPE_CHECKING:
    from cmpf.cli.outcome import Commands
    from cmpf.data.vocabulary import Vocabulary

EXAMPLES = """examples:
  cmpf predict street.jpg --vocabulary "car; person, pedestrian; road; sky" --output out/
  cmpf predict photos/*.jpg --vocabulary my_words.txt --task semantic --formats overlay semantic
  cmpf predict photos/*.jpg --vocabulary openvocab_ade20k_panoptic_val
"""


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "predict",
        help="segment pictures into classes that you name",
        description="Segments pictures into classes that you name.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_arguments(parser)
    add_debug(parser)
    parser.set_defaults(run=run)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", help="picture files or quoted patterns such as 'photos/*.jpg'")
    parser.add_argument(
        "--vocabulary",
        required=True,
        help='classes: "car; person, pedestrian; sky", a vocabulary .txt file, or the classes of a dataset: '
        "its name or its YAML file",
    )
    parser.add_argument(
        "--model", default="cmpf_tiny", help="zoo name, config path or model folder [cmpf_tiny]"
    )
    parser.add_argument("--weights", help="trained weights that replace the model's own")
    parser.add_argument("--task", default="all", choices=("all", "panoptic", "semantic", "instance"))
    parser.add_argument("--ensemble", action="store_true", help="add SAM's own masks (semantic results)")
    parser.add_argument(
        "--stuff", default="", help='classes that are not counted one by one, as in "road; sky"'
    )
    parser.add_argument("--output", default="output/predict", help="folder for the results [output/predict]")
    parser.add_argument(
        "--formats",
        nargs="+",
        default=["overlay"],
        choices=("overlay", "panoptic", "coco", "semantic"),
        help="what to write [overlay]",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 [a CUDA device if there is one]")
    parser.add_argument("--json", action="store_true", help="print one JSON object a picture")


def run(arguments: argparse.Namespace) -> int:
    """Segments the pictures and writes the results."""
    paths = _expand(arguments.images)
    import cmpf

    predictor = cmpf.load(arguments.model, device=arguments.device, weights=arguments.weights)
    stuff = [name for name in arguments.stuff.split(";") if name.strip()] or None
    vocabulary = _vocabulary(arguments.vocabulary, stuff)
    for path in paths:
        prediction = predictor.predict(
            path,
            vocabulary,
            task=arguments.task,
            ensemble=arguments.ensemble or None,
            stuff=stuff,
        )
        files = [str(file) for file in prediction.save(arguments.output, arguments.formats)]
        if arguments.json:
            print(json.dumps({"image": path, "files": files, "found": prediction.summary()}))
        else:
            found = ", ".join(f"{count} {name}" for name, count in prediction.summary().items())
            print(f"{path}: {found or 'nothing'} -> {', '.join(files)}")
    return 0


def _vocabulary(given: str, stuff: list[str] | None) -> str | Vocabulary:
    """The vocabulary of a dataset if the text means one, else the text, which the predictor reads.

    Raises:
        VocabularyError: stuff is named for a dataset, which says itself what is stuff.
    """
    from cmpf.data.catalog import dataset_names, get_vocabulary

    name = dataset_name(given)
    if name == given and name not in dataset_names():
        return given
    if stuff:
        raise VocabularyError(
            f"--stuff {'; '.join(stuff)}: the dataset {given} says what is stuff; leave it out"
        )
    return get_vocabulary(name)


def _expand(patterns: Sequence[str]) -> list[str]:
    paths: list[str] = []
    for pattern in patterns:
        matches = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern))
        if not matches:
            raise CMPFError(f"{pattern}: no such picture; give files or a pattern that matches some")
        paths += matches
    return paths
