# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf predict: segments images into classes that the user names."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from cmpf.cli.outcome import DONE, FAILED, add_allow_unused, add_debug, add_overrides, add_plugin
from cmpf.errors import ImageError

if TYPE_CHECKING:
    from cmpf.cli.outcome import Commands

EXAMPLES = """examples:
  cmpf predict street.jpg --vocabulary "car; person, pedestrian; road; sky" --output out/
  cmpf predict photos/ --vocabulary my_words.txt --task semantic --formats overlay semantic
  cmpf predict 'photos/**/*.jpg' --vocabulary openvocab_ade20k_panoptic_val
  cmpf predict street.jpg --vocabulary "car; road" --model output/mine --device cpu --json
  cmpf predict street.jpg --vocabulary "car; road" --ensemble --opts TEST.ENSEMBLE.ALPHA 0.3 INPUT.MIN_SIZE_TEST 640

classes are separated by ";", synonyms of a class by ",". Images that cannot be read are named and the others done;
then the exit code is 1. The files of an image are whole or not there.
"""
TASKS = ("all", "panoptic", "semantic", "instance")
FORMATS = ("overlay", "panoptic", "coco", "semantic", "instances")  # cmpf.inference.FORMATS, without torch


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "predict",
        help="segment images into classes that you name",
        description="Segments images into classes that you name.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_classes(parser)
    _add_model(parser)
    _add_results(parser)
    add_plugin(parser)
    add_allow_unused(parser)
    add_overrides(parser)
    add_debug(parser)
    parser.set_defaults(run=run)


def _add_classes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="files, folders, or quoted patterns such as 'photos/*.jpg'",
    )
    parser.add_argument(
        "--vocabulary",
        required=True,
        metavar="WORDS",
        help='classes: "car; person, pedestrian; sky", a vocabulary .txt file, or the classes of a dataset: '
        "its name or its YAML file",
    )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--stuff", metavar="WORDS", help='classes not counted one by one: "road; sky"')
    kinds.add_argument("--things", metavar="WORDS", help="classes counted one by one; all others are stuff")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default="cmpf_tiny",
        metavar="NAME",
        help="zoo name, config path, model folder or Hub repository [%(default)s]",
    )
    parser.add_argument("--weights", metavar="FILE", help="trained weights that replace the model's own")
    parser.add_argument("--task", default="all", choices=TASKS, help="what to compute [%(default)s]")
    parser.add_argument("--ensemble", action="store_true", help="add SAM's own masks (semantic results)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 [a CUDA device if there is one]")


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", default="output/predict", metavar="DIR", help="folder for the results [%(default)s]"
    )
    parser.add_argument(
        "--formats",
        nargs="+",
        default=["overlay"],
        choices=FORMATS,
        help="overlay: images; panoptic: COCO PNG + JSON; coco: COCO results of instances; semantic: 16-bit PNG; "
        "instances: NPZ of masks [overlay]",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object an image")


def run(arguments: argparse.Namespace) -> int:
    """Segments the images and writes the results; those that cannot be read are named."""
    from cmpf.formats.image_files import find_images

    images = find_images(arguments.images)  # before a model is loaded
    from tqdm import tqdm

    import cmpf
    from cmpf.factory import use_threads
    from cmpf.inference import unique_names

    ensemble = ["TEST.ENSEMBLE.ENABLED", True] if arguments.ensemble else []  # its SAM is part of the model
    predictor = cmpf.load(
        arguments.model,
        device=arguments.device,
        weights=arguments.weights,
        overrides=[*ensemble, *arguments.opts],
        plugins=arguments.plugin,
        allow_unused_weights=arguments.allow_unused_weights,
    )
    use_threads(predictor.cfg)
    words = predictor.vocabulary(
        arguments.vocabulary, things=_names(arguments.things), stuff=_names(arguments.stuff)
    )
    code = DONE
    bar = tqdm(images, unit="image", disable=None if len(images) > 1 else True)  # None: only on a terminal
    for image, name in zip(bar, unique_names(images), strict=True):
        try:
            prediction = predictor.predict(
                image, words, task=arguments.task, ensemble=arguments.ensemble or None
            )
        except ImageError as error:
            if arguments.debug:
                raise
            tqdm.write(f"cmpf: {error}", file=sys.stderr)
            code = FAILED
            continue
        files = [str(file) for file in prediction.save(arguments.output, arguments.formats, name=name)]
        tqdm.write(_line(str(image), files, prediction.summary(), as_json=arguments.json))
    return code


def _line(image: str, files: list[str], found: dict[str, int], *, as_json: bool) -> str:
    if as_json:
        return json.dumps({"image": image, "files": files, "found": found}, ensure_ascii=False)
    words = ", ".join(f"{count} {name}" for name, count in found.items())
    return f"{image}: {words or 'nothing'} -> {', '.join(files)}"


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name for name in text.split(";") if name.strip()]
