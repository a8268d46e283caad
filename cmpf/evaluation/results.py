# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The table that is printed after an evaluation and saved as results.json and results.md."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmpf.common.files import write_text
from cmpf.errors import EvaluationError
from cmpf.evaluation.evaluator import Metrics, Results

NUMBERS, TABLE = "results.json", "results.md"
PROTOCOL = "protocol"  # beside the datasets in results.json, and in what is said of each: its name
PUBLISHED = "published"  # the protocol of figures in papers
_Row = list[str]
Expectation = tuple[str, str, float, float]  # task, metric, percent, tolerance
Protocols = Mapping[
    str, Mapping[str, Any]
]  # dataset -> what is said of its protocol, under PROTOCOL its name
Published = Mapping[str, Mapping[str, float]]  # dataset -> "task/metric" -> percent
# Columns of the first table, where any dataset has them; metrics with a published value are added.
HEADLINES = (
    "panoptic/PQ",
    "panoptic/S_PQ",
    "panoptic/U_PQ",
    "segm/AP",
    "segm/APr",
    "segm/APc",
    "segm/APf",
    "sem_seg/mIoU",
    "sem_seg/S_mIoU",
    "sem_seg/U_mIoU",
    "sem_seg/fwIoU",
    "mask_recall/recall_50",
)


def format_results(
    results: Mapping[str, Results],
    *,
    published: Published | None = None,
    protocols: Protocols | None = None,
    markdown: bool = False,
) -> str:
    """First the headline metrics of all datasets, then one table per task: a row per dataset, a column per metric.

    In the first table published values and the difference stand below each dataset that has any. Metrics of
    single classes (`metric-class`) are left out; results.json has them. NaN prints as "-".

    Args:
        results: dataset -> task -> metric -> percent.
        published: dataset -> "task/metric" -> percent, for whatever is known.
        protocols: how each dataset was evaluated; a table says so, and published values stand beside results of the
            published protocol alone. None = not known, and not asked for.
        markdown: pipes for a .md file, else aligned text for a terminal.
    """
    said = {
        name: str(of_dataset[PROTOCOL]) for name, of_dataset in (protocols or {}).items() if name in results
    }
    if protocols is not None:
        published = {
            name: values for name, values in (published or {}).items() if said.get(name) == PUBLISHED
        }
    table = [["dataset", PROTOCOL], *([name, label] for name, label in said.items())] if said else []
    blocks = [_headlines(results, published or {}), table, *_task_tables(results)]
    layout = _markdown if markdown else _text
    return "\n\n".join(layout(rows) for rows in blocks if rows) + "\n" if results else "no results\n"


def save_results(
    results: Mapping[str, Results],
    folder: str | Path,
    *,
    published: Published | None = None,
    protocols: Protocols | None = None,
) -> None:
    """Writes results.md and results.json (all metrics, undefined ones as null), each whole or not at all.

    results.json comes last: where it is, the evaluation has ended and both files are of it.

    Args:
        results, published, protocols: see format_results. results.json holds what is said of the protocols under
            "protocol", beside the datasets.
        folder: made if missing.
    """
    target = Path(folder)
    table = format_results(results, published=published, protocols=protocols, markdown=True)
    write_text(target / TABLE, table)
    write_text(target / NUMBERS, json_text({**results, **({PROTOCOL: protocols} if protocols else {})}))


def read_results(path: str | Path) -> tuple[dict[str, Results], dict[str, dict[str, Any]]]:
    """Results and protocols of a results.json; null becomes NaN.

    Raises:
        EvaluationError: the file is not there, not whole, or something else.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise EvaluationError(
            f"{path}: no results; the evaluation has not ended, or was another folder's ({error.strerror})"
        ) from error
    except ValueError as error:
        raise EvaluationError(f"{path}: no whole JSON file ({error})") from error
    return parse_results(content, source=str(path))


def parse_results(content: Any, *, source: str) -> tuple[dict[str, Results], dict[str, dict[str, Any]]]:
    """The same of the content of a results.json.

    Raises:
        EvaluationError: it has another form; names `source`.
    """
    try:
        protocols = {name: dict(said) for name, said in content.get(PROTOCOL, {}).items()}
        results = {
            dataset: {
                task: {
                    metric: math.nan if value is None else float(value) for metric, value in metrics.items()
                }
                for task, metrics in tasks.items()
            }
            for dataset, tasks in content.items()
            if dataset != PROTOCOL
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise EvaluationError(f"{source}: not of the form dataset: task: metric: number") from error
    return results, protocols


def verify_results(results: Mapping[str, Results], expected: Sequence[Expectation]) -> None:
    """Makes sure that an evaluation gave what it should.

    Args:
        results: dataset -> task -> metric -> percent.
        expected: (task, metric, percent, tolerance); of several datasets the first counts, or that of a task written
            "DATASET/TASK".
    Raises:
        EvaluationError: names every figure that is missing, not a number, or further away than its tolerance.
    """
    first = next(iter(results), "")
    misses = []
    for task, metric, value, tolerance in expected:
        dataset, _, name = task.rpartition("/")
        found = results.get(dataset or first, {}).get(name, {}).get(metric)
        if found is None:
            misses.append(f"{task}/{metric} was not measured")
        elif not abs(found - value) <= tolerance:
            misses.append(f"{task}/{metric} is {found:.4f}, not {value:g} ± {tolerance:g}")
    if misses:
        raise EvaluationError(f"the results are not those of TEST.EXPECTED_RESULTS: {'; '.join(misses)}")


def clear_results(folder: str | Path) -> None:
    """Removes what save_results wrote into a folder, if it is there."""
    for name in (NUMBERS, TABLE):  # the numbers first: without them the table is not taken for whole
        (Path(folder) / name).unlink(missing_ok=True)


def json_text(results: Mapping[str, object]) -> str:
    """Nested mappings of numbers as JSON, which knows no NaN: undefined values become null."""
    return json.dumps(_without_nan(results), indent=2, ensure_ascii=False) + "\n"


def _without_nan(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _headlines(results: Mapping[str, Results], published: Published) -> list[_Row]:
    """Rows of the first table; none if no dataset has a headline metric."""
    known = {name: dict(published.get(name, {})) for name in results}
    flat = {name: _flat(of_dataset) for name, of_dataset in results.items()}
    wanted = dict.fromkeys([*HEADLINES, *(metric for values in known.values() for metric in values)])
    # Metrics that nothing measured here are left out, or a published table of everything would fill the page.
    metrics = [metric for metric in wanted if any(metric in values for values in flat.values())]
    if not metrics:
        return []
    rows: list[_Row] = [["dataset", *_titles(metrics)]]
    for name, values in flat.items():
        rows.append([name, *(_number(values, metric) for metric in metrics)])
        if any(metric in known[name] for metric in metrics):
            rows.append(["  published", *(_number(known[name], metric) for metric in metrics)])
            rows.append(["  difference", *(_difference(values, known[name], metric) for metric in metrics)])
    return rows


def _titles(metrics: Sequence[str]) -> list[str]:
    """Metrics without their task, unless two tasks have one of the name."""
    short = [metric.partition("/")[2] for metric in metrics]
    return [s if short.count(s) == 1 else metric for s, metric in zip(short, metrics, strict=True)]


def _flat(results: Results) -> Metrics:
    return {f"{task}/{metric}": value for task, values in results.items() for metric, value in values.items()}


def _task_tables(results: Mapping[str, Results]) -> list[list[_Row]]:
    tables = []
    for task in dict.fromkeys(task for of_dataset in results.values() for task in of_dataset):
        of_task = {name: r[task] for name, r in results.items() if task in r}
        metrics = list(dict.fromkeys(m for values in of_task.values() for m in values if "-" not in m))
        rows = [[name, *(_number(values, m) for m in metrics)] for name, values in of_task.items()]
        tables.append([[task, *metrics], *rows])
    return tables


def _number(values: Mapping[str, float], metric: str) -> str:
    value = values.get(metric, math.nan)
    return "-" if math.isnan(value) else f"{value:.2f}"


def _difference(values: Mapping[str, float], known: Mapping[str, float], metric: str) -> str:
    difference = values.get(metric, math.nan) - known.get(metric, math.nan)
    return "-" if math.isnan(difference) else f"{difference:+.2f}"


def _text(rows: list[_Row]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)


def _markdown(rows: list[_Row]) -> str:
    lines = ["| " + " | ".join(cell.strip().replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|---|" + "---:|" * (len(rows[0]) - 1))
    return "\n".join(lines)
