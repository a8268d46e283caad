# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf collect-results, and the script tools/collect_results.py: results of several evaluations in one table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmpf.cli.outcome import DONE, add_debug, run_script
from cmpf.errors import EvaluationError

if TYPE_CHECKING:
    from cmpf.cli.outcome import Commands
    from cmpf.evaluation import Protocols, Published, Results

COMMAND, FILE = "collect-results", "results.json"
EXAMPLES = """examples:
  cmpf collect-results output/ade20k output/cityscapes
  cmpf collect-results output/ade20k output/a847 --output output/table --published published.json

Each evaluation leaves results.json in its OUTPUT_DIR; this merges them by dataset.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line of tools/collect_results.py and returns its exit code."""
    return run_script(add_parser, COMMAND, argv)


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        COMMAND,
        help="put the results of several evaluations into one table",
        description="Puts the results of several evaluation runs into one table.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="OUTPUT_DIR of a run")
    parser.add_argument(
        "--output", type=Path, default=Path("output/results"), metavar="DIR", help="[output/results]"
    )
    parser.add_argument(
        "--published", type=Path, metavar="FILE", help='JSON: {dataset: {"task/metric": percent}}'
    )
    add_debug(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the table and writes it."""
    from cmpf.evaluation import format_results, save_results

    results, protocols = merged(arguments.folders)
    published = None if arguments.published is None else read_published(arguments.published)
    save_results(results, arguments.output, published=published, protocols=protocols)
    print(format_results(results, published=published, protocols=protocols))
    print(f"also in {arguments.output / 'results.md'} and {arguments.output / FILE}")
    return DONE


def merged(folders: Iterable[Path]) -> tuple[dict[str, Results], Protocols]:
    """Results of all folders and how they were evaluated, by dataset, in the order of the folders.

    Raises:
        EvaluationError: a folder has no whole results.json, or two folders have one dataset with other numbers.
    """
    from cmpf.evaluation import read_results

    results: dict[str, Results] = {}
    protocols: dict[str, dict[str, Any]] = {}
    source: dict[str, Path] = {}
    for folder in folders:
        path = folder / FILE
        found, said = read_results(path)
        for dataset, of_dataset in found.items():
            if dataset in results and not _same(results[dataset], of_dataset):
                raise EvaluationError(
                    f"{source[dataset]} and {path} have different numbers for {dataset}; leave one of them out"
                )
            results.setdefault(dataset, of_dataset)
            source.setdefault(dataset, path)
            protocols.setdefault(dataset, said.get(dataset, {"protocol": "not stated: not comparable"}))
    return results, protocols


def read_published(path: Path) -> Published:
    """dataset -> "task/metric" -> percent of a JSON file.

    Raises:
        EvaluationError: the file is not there, or has another form.
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
        raise EvaluationError(f"{path}: no whole JSON file ({error})") from error


def _same(one: Results, other: Results) -> bool:
    """Whether two results are equal, with NaN equal to NaN."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
