# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf evaluate-predictions, and the script tools/evaluate_predictions.py: the numbers of the official tools."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cmpf.cli.outcome import DONE, add_debug, run_script

if TYPE_CHECKING:
    from cmpf.cli.outcome import Commands
    from cmpf.evaluation import Results

COMMAND = "evaluate-predictions"
EXAMPLES = """examples:
  cmpf evaluate-predictions --task panoptic --gt-json gt.json --gt-dir gt --pred-json pred.json --pred-dir pred
  cmpf evaluate-predictions --task semantic --gt-dir annotations --pred-dir labels --num-classes 150 --ignore-label 255
  cmpf evaluate-predictions --task instance --gt-json instances_val2017.json --pred-json segm.json
  cmpf evaluate-predictions --task lvis --gt-json lvis_v1_val.json --pred-json boxes.json --iou-type bbox
"""
NEEDED = {
    "panoptic": ("gt_json", "gt_dir", "pred_json", "pred_dir"),
    "semantic": ("gt_dir", "pred_dir", "num_classes", "ignore_label"),
    "instance": ("gt_json", "pred_json"),
    "lvis": ("gt_json", "pred_json"),
}
OPTIONAL = {"panoptic": (), "semantic": ("names",), "instance": ("iou_type",), "lvis": ("iou_type",)}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line of tools/evaluate_predictions.py and returns its exit code."""
    return run_script(add_parser, COMMAND, argv)


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        COMMAND,
        help="score predictions of any model that lie on disk",
        description="Scores predictions of any model that lie on disk, with the numbers of the official tools.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--task", required=True, choices=tuple(NEEDED), help="what the predictions are")
    parser.add_argument("--gt-json", type=Path, metavar="FILE", help="ground truth: COCO or LVIS JSON")
    parser.add_argument("--gt-dir", type=Path, metavar="DIR", help="ground truth: panoptic or label maps")
    parser.add_argument("--pred-json", type=Path, metavar="FILE", help="predictions: COCO JSON")
    parser.add_argument("--pred-dir", type=Path, metavar="DIR", help="predictions: panoptic or label maps")
    parser.add_argument(
        "--num-classes", type=_number_of_classes, metavar="K", help="labels are 0..K-1 (semantic)"
    )
    parser.add_argument(
        "--ignore-label", type=_label, metavar="N", help="true label that does not count (semantic)"
    )
    parser.add_argument(
        "--names", type=Path, metavar="FILE", help="names of the classes, one a line (semantic)"
    )
    parser.add_argument("--iou-type", choices=("segm", "bbox"), help="masks or boxes (instance, lvis) [segm]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all numbers to this file")
    add_debug(parser)
    parser.set_defaults(run=run, usage_error=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Prints the numbers."""
    _check_flags(arguments)
    from cmpf.common.files import write_text
    from cmpf.evaluation import format_results
    from cmpf.evaluation.results import json_text

    results = score(arguments)
    if arguments.json:
        write_text(arguments.json, json_text(results))
    predictions = arguments.pred_json or arguments.pred_dir
    print(format_results({predictions.name: results}), end="")
    return DONE


def score(arguments: argparse.Namespace) -> Results:
    """{task: {metric: percent}} of the files that the arguments name."""
    from cmpf.evaluation.prediction_files.instances import score_instances
    from cmpf.evaluation.prediction_files.panoptic import score_panoptic
    from cmpf.evaluation.prediction_files.semantic import class_names, score_semantic

    if arguments.task == "panoptic":
        return score_panoptic(
            gt_json=arguments.gt_json,
            gt_dir=arguments.gt_dir,
            pred_json=arguments.pred_json,
            pred_dir=arguments.pred_dir,
        )
    if arguments.task == "semantic":
        return score_semantic(
            gt_dir=arguments.gt_dir,
            pred_dir=arguments.pred_dir,
            names=class_names(arguments.names, arguments.num_classes),
            ignore_label=arguments.ignore_label,
        )
    return score_instances(
        gt_json=arguments.gt_json,
        pred_json=arguments.pred_json,
        iou_type=arguments.iou_type or "segm",
        lvis=arguments.task == "lvis",
    )


def _check_flags(arguments: argparse.Namespace) -> None:
    """Ends with a usage error when flags of the task are missing, or belong to another task."""
    task = arguments.task
    missing = [name for name in NEEDED[task] if getattr(arguments, name) is None]
    if missing:
        arguments.usage_error(f"--task {task} also needs {', '.join(map(_flag, missing))}")
    every = {name for group in (*NEEDED.values(), *OPTIONAL.values()) for name in group}
    foreign = sorted(every - {*NEEDED[task], *OPTIONAL[task]})
    given = [name for name in foreign if getattr(arguments, name) is not None]
    if given:
        arguments.usage_error(f"{', '.join(map(_flag, given))} do not belong to --task {task}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _number_of_classes(text: str) -> int:
    if not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"must be from 1 to 65535, got {text}")
    return int(text)


def _label(text: str) -> int:
    if not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"must be from 0 to 65535, got {text}")
    return int(text)
