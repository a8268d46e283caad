# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Puts the results of several evaluation runs into one table.

Each run leaves results.json in its OUTPUT_DIR; this merges them by dataset.
Exit codes: 0 done; 1 error (one line; --debug shows the traceback); 2 usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cmpf.errors import CMPFError, EvaluationError
from cmpf.evaluation import Protocols, Published, Results, format_results, read_results, save_results

FILE = "results.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        results, protocols = merged(arguments.folders)
        published = None if arguments.published is None else read_published(arguments.published)
        save_results(results, arguments.output, published=published, protocols=protocols)
    except CMPFError as error:
        if arguments.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(format_results(results, published=published, protocols=protocols))
    print(f"also in {arguments.output / 'results.md'} and {arguments.output / FILE}")
    return 0


def merged(folders: Iterable[Path]) -> tuple[dict[str, Results], Protocols]:
    """Results of all folders and how they were evaluated, by dataset, in the order of the folders.

    Raises:
        EvaluationError: a folder has no whole results.json, or two folders have one dataset with other numbers.
    """
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


def _read_json(path: Path, missing: str) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EvaluationError(f"{missing} ({error.strerror})") from error
    except ValueError as error:
        raise EvaluationError(f"{path}: no whole JSON file ({error})") from error


def _same(one: Results, other: Results) -> bool:
    """Whether two results are equal, with NaN equal to NaN."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Puts the results of several evaluation runs into one table."
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="OUTPUT_DIR of a run")
    parser.add_argument(
        "--output", type=Path, default=Path("output/results"), metavar="DIR", help="[output/results]"
    )
    parser.add_argument(
        "--published", type=Path, metavar="FILE", help='JSON: {dataset: {"task/metric": percent}}'
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


if __name__ == "__main__":
    sys.exit(main())
