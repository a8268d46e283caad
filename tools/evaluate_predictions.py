# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Scores predictions of any model that lie on disk, with the numbers of the official tools.

Exit codes: 0 done; 1 error (one line; --debug shows the traceback); 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cmpf.common.files import write_text
from cmpf.errors import CMPFError
from cmpf.evaluation import Results, format_results
from cmpf.evaluation.prediction_files.instances import score_instances
from cmpf.evaluation.prediction_files.panoptic import score_panoptic
from cmpf.evaluation.prediction_files.semantic import class_names, score_semantic
from cmpf.evaluation.results import json_text

EXAMPLES = """examples:
  tools/evaluate_predictions.py --task panoptic --gt-json panoptic_val2017.json --gt-dir panoptic_val2017
      --pred-json predictions.json --pred-dir predictions
  tools/evaluate_predictions.py --task semantic --gt-dir annotations --pred-dir labels --num-classes 150
      --ignore-label 255 --names ade20k.txt --json numbers.json
  tools/evaluate_predictions.py --task instance --gt-json instances_val2017.json --pred-json segm.json
  tools/evaluate_predictions.py --task lvis --gt-json lvis_v1_val.json --pred-json boxes.json --iou-type bbox
"""
NEEDED = {
    "panoptic": ("gt_json", "gt_dir", "pred_json", "pred_dir"),
    "semantic": ("gt_dir", "pred_dir", "num_classes", "ignore_label"),
    "instance": ("gt_json", "pred_json"),
    "lvis": ("gt_json", "pred_json"),
}
OPTIONAL = {"panoptic": (), "semantic": ("names",), "instance": ("iou_type",), "lvis": ("iou_type",)}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    _check_flags(parser, arguments)
    try:
        results = score(arguments)
        if arguments.json:
            write_text(arguments.json, json_text(results))
    except Exception as error:
        if arguments.debug:
            raise
        # What is not one of our own errors is a bug or a machine's trouble; then its kind tells something.
        kind = "" if isinstance(error, CMPFError) else f"{type(error).__name__}: "
        print(f"error: {kind}{error}", file=sys.stderr)
        return 1
    predictions = arguments.pred_json or arguments.pred_dir
    print(format_results({predictions.name: results}), end="")
    return 0


def score(arguments: argparse.Namespace) -> Results:
    """{task: {metric: percent}} of the files that the arguments name."""
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


def _check_flags(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Ends with a usage error when flags of the task are missing, or belong to another task."""
    task = arguments.task
    missing = [name for name in NEEDED[task] if getattr(arguments, name) is None]
    if missing:
        parser.error(f"--task {task} also needs {', '.join(map(_flag, missing))}")
    every = {name for group in (*NEEDED.values(), *OPTIONAL.values()) for name in group}
    foreign = sorted(every - {*NEEDED[task], *OPTIONAL[task]})
    given = [name for name in foreign if getattr(arguments, name) is not None]
    if given:
        parser.error(f"{', '.join(map(_flag, given))} do not belong to --task {task}")


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Scores predictions of any model that lie on disk.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--task", required=True, choices=tuple(NEEDED))
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
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


if __name__ == "__main__":
    sys.exit(main())
