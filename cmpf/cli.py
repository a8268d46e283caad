# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The command `cmpf`. Exit codes: 0 done, 1 error (one line; --debug shows the traceback), 2 usage."""

from __future__ import annotations

import argparse
import glob
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from cmpf import __version__
from cmpf.errors import CMPFError

PREDICT_EXAMPLES = """examples:
  cmpf predict street.jpg --vocabulary "car; person, pedestrian; road; sky" --output out/
  cmpf predict photos/*.jpg --vocabulary my_words.txt --task semantic --formats overlay semantic
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except CMPFError as error:
        if arguments.debug:
            raise
        print(f"cmpf: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cmpf: stopped", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cmpf", description="Open-vocabulary segmentation with frozen CLIP and SAM."
    )
    parser.add_argument("--version", action="version", version=f"cmpf {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    predict = commands.add_parser(
        "predict",
        help="segment pictures into classes that you name",
        description="Segments pictures into classes that you name.",
        epilog=PREDICT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_predict_arguments(predict)
    predict.set_defaults(run=_predict)
    return parser


def _add_predict_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", help="picture files or quoted patterns such as 'photos/*.jpg'")
    parser.add_argument(
        "--vocabulary",
        required=True,
        help='classes: "car; person, pedestrian; sky", or a vocabulary .txt file',
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
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _predict(arguments: argparse.Namespace) -> int:
    paths = _expand(arguments.images)
    import cmpf

    predictor = cmpf.load(arguments.model, device=arguments.device, weights=arguments.weights)
    stuff = [name for name in arguments.stuff.split(";") if name.strip()] or None
    for path in paths:
        prediction = predictor.predict(
            path,
            arguments.vocabulary,
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


def _expand(patterns: Sequence[str]) -> list[str]:
    paths: list[str] = []
    for pattern in patterns:
        matches = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern))
        if not matches:
            raise CMPFError(f"{pattern}: no such picture; give files or a pattern that matches some")
        paths += matches
    return paths


if __name__ == "__main__":
    sys.exit(main())
