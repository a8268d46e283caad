# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf evaluate-predictions and cmpf collect-results, also scripts in tools/: score predictions, merge results."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmpf.cli.command import DONE, Commands, add_command, add_debug, run_script
from cmpf.errors import EvaluationError

if TYPE_CHECKING:
    from cmpf.evaluation import Protocols, Published, Results


COLLECT, FILE = "collect-results", "results.json"
COLLECT_EXAMPLES = """examples:
  cmpf collect-results output/ade20k output/cityscapes
  cmpf collect-results output/ade20k output/a847 --output output/table --published published.json

Each evaluation writes results.json to its OUTPUT_DIR; this command merges these files by dataset.
"""
PREDICTIONS = "evaluate-predictions"
PREDICTIONS_EXAMPLES = """examples:
  cmpf evaluate-predictions --task panoptic --gt-json gt.json --gt-dir gt --pred-json pred.json --pred-dir pred
  cmpf evaluate-predictions --task semantic --gt-dir annotations --pred-dir labels --num-classes 150 --ignore-label 255
  cmpf evaluate-predictions --task instance --gt-json instances_val2017.json --pred-json segm.json
  cmpf evaluate-predictions --task lvis --gt-json lvis_v1_val.json --pred-json boxes.json --iou-type bbox
"""
REQUIRED = {
    "panoptic": ("gt_json", "gt_dir", "pred_json", "pred_dir"),
    "semantic": ("gt_dir", "pred_dir", "num_classes", "ignore_label"),
    "instance": ("gt_json", "pred_json"),
    "lvis": ("gt_json", "pred_json"),
}
OPTIONAL = {"panoptic": (), "semantic": ("names",), "instance": ("iou_type",), "lvis": ("iou_type",)}


def collect_main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line of tools/collect_results.py and returns its exit code."""
    return run_script(add_parser, COLLECT, argv)


def predictions_main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line of tools/evaluate_predictions.py and returns its exit code."""
    return run_script(add_parser, PREDICTIONS, argv)


def add_parser(commands: Commands) -> None:
    """Adds both commands."""
    _add_predictions(commands)
    _add_collect(commands)


def _add_collect(commands: Commands) -> None:
    """Adds collect-results."""
    parser = add_command(
        commands,
        COLLECT,
        help="put the results of several evaluations into one table",
        description="Puts the results of several evaluation runs into one table.",
        examples=COLLECT_EXAMPLES,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="OUTPUT_DIR of an evaluation")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("output/results"),
        metavar="DIR",
        help="output folder [output/results]",
    )
    parser.add_argument(
        "--published",
        type=Path,
        metavar="FILE",
        help='JSON file of published values: {dataset: {"task/metric": percent}}',
    )
    add_debug(parser)
    parser.set_defaults(run=run_collect)


def run_collect(arguments: argparse.Namespace) -> int:
    """Merges the results, writes and prints the table."""
    from cmpf.evaluation import format_results, save_results

    results, protocols = merge_results(arguments.folders)
    published = None if arguments.published is None else read_published(arguments.published)
    save_results(results, arguments.output, published=published, protocols=protocols)
    print(format_results(results, published=published, protocols=protocols))
    print(f"also written to {arguments.output / 'results.md'} and {arguments.output / FILE}")
    return DONE


def merge_results(folders: Iterable[Path]) -> tuple[dict[str, Results], Protocols]:
    """The results and evaluation protocols of all folders by dataset, in the order of the folders.

    Raises:
        EvaluationError: a results.json is missing or damaged, or two folders have different numbers for a dataset.
    """
    from cmpf.evaluation import read_results

    results: dict[str, Results] = {}
    protocols: dict[str, dict[str, Any]] = {}
    source: dict[str, Path] = {}
    for folder in folders:
        path = folder / FILE
        folder_results, folder_protocols = read_results(path)
        for dataset, dataset_results in folder_results.items():
            if dataset in results and not _equal(results[dataset], dataset_results):
                raise EvaluationError(
                    f"{source[dataset]} and {path} have different numbers for {dataset}; leave one of them out"
                )
            results.setdefault(dataset, dataset_results)
            source.setdefault(dataset, path)
            unknown = {"protocol": "not stated: not comparable"}
            protocols.setdefault(dataset, folder_protocols.get(dataset, unknown))
    return results, protocols


def read_published(path: Path) -> Published:
    """Reads dataset -> "task/metric" -> percent from a JSON file.

    Raises:
        EvaluationError: the file does not exist or has another format.
    """
    content = _read_json(path, f"{path}: no such file of published values")
    try:
        return {dataset: {m: float(v) for m, v in values.items()} for dataset, values in content.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise EvaluationError(f'{path}: not of the form dataset: "task/metric": number') from error


def _read_json(path: Path, missing: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EvaluationError(f"{missing} ({error.strerror})") from error
    except ValueError as error:
        raise EvaluationError(f"{path}: not a complete JSON file ({error})") from error


def _equal(one: Results, other: Results) -> bool:
    """Whether two results are equal; NaN equals NaN."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _add_predictions(commands: Commands) -> None:
    """Adds evaluate-predictions."""
    parser = add_command(
        commands,
        PREDICTIONS,
        help="score prediction files of any model",
        description="Scores prediction files of any model, with the same results as the official tools.",
        examples=PREDICTIONS_EXAMPLES,
    )
    parser.add_argument("--task", required=True, choices=tuple(REQUIRED), help="type of the predictions")
    parser.add_argument("--gt-json", type=Path, metavar="FILE", help="ground truth: COCO or LVIS JSON")
    parser.add_argument("--gt-dir", type=Path, metavar="DIR", help="ground truth: panoptic or label maps")
    parser.add_argument("--pred-json", type=Path, metavar="FILE", help="predictions: COCO JSON")
    parser.add_argument("--pred-dir", type=Path, metavar="DIR", help="predictions: panoptic or label maps")
    parser.add_argument(
        "--num-classes",
        type=partial(_label, minimum=1),
        metavar="K",
        help="number of classes; labels are 0..K-1 (semantic)",
    )
    parser.add_argument(
        "--ignore-label", type=_label, metavar="N", help="ground-truth label to ignore (semantic)"
    )
    parser.add_argument(
        "--names", type=Path, metavar="FILE", help="file of class names, one per line (semantic)"
    )
    parser.add_argument(
        "--iou-type", choices=("segm", "bbox"), help="compare masks or boxes (instance, lvis) [segm]"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all metrics to this JSON file")
    add_debug(parser)
    parser.set_defaults(run=run_predictions, usage_error=parser.error)


def run_predictions(arguments: argparse.Namespace) -> int:
    """Scores the predictions, writes and prints the results."""
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
    """Scores the files of a command line; returns task -> metric -> percent."""
    from cmpf.evaluation.prediction_files.instances import score_instances
    from cmpf.evaluation.prediction_files.maps import class_names, score_panoptic, score_semantic

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
    """Exits with a usage error if flags of the task are missing, or belong to another task."""
    task = arguments.task
    missing = [name for name in REQUIRED[task] if getattr(arguments, name) is None]
    if missing:
        arguments.usage_error(f"--task {task} also needs {', '.join(map(_flag, missing))}")
    all_names = {name for group in (*REQUIRED.values(), *OPTIONAL.values()) for name in group}
    unused = sorted(all_names - {*REQUIRED[task], *OPTIONAL[task]})
    given = [name for name in unused if getattr(arguments, name) is not None]
    if given:
        arguments.usage_error(f"{', '.join(map(_flag, given))} do not belong to --task {task}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _label(text: str, *, minimum: int = 0) -> int:
    """Argument type: an integer that fits into a 16-bit label map."""
    if not text.isdecimal() or not minimum <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"must be from {minimum} to 65535, got {text}")
    return int(text)
