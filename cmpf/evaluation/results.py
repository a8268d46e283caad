# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Formats results as tables; writes, reads and verifies results.json and results.md."""

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
PROTOCOL = "protocol"  # key of the protocols in results.json, and of the name in each protocol
PUBLISHED = "published"  # name of the protocol of published results
_Row = list[str]
Expectation = tuple[str, str, float, float]  # task, metric, percent, tolerance
Protocols = Mapping[
    str, Mapping[str, Any]
]  # dataset -> its evaluation protocol, with the name under PROTOCOL
Published = Mapping[str, Mapping[str, float]]  # dataset -> "task/metric" -> percent
# Columns of the first table if any dataset has them; metrics with a published value are added.
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
    """Formats results as tables with a row per dataset: first the headline metrics, then one table per task.

    In the first table each dataset is followed by its published values and the difference to them, if known. Metrics of
    single classes (`metric-class`) are omitted; results.json contains them. NaN is shown as "-".

    Args:
        results: dataset -> task -> metric -> percent.
        published: dataset -> "task/metric" -> percent, where known.
        protocols: evaluation protocol of each dataset, shown in a table; published values are then shown only for
            results with the published protocol. None = unknown.
        markdown: format as Markdown instead of aligned text.
    """
    protocol_names = {
        name: str(protocol[PROTOCOL]) for name, protocol in (protocols or {}).items() if name in results
    }
    if protocols is not None:
        published = {
            name: values
            for name, values in (published or {}).items()
            if protocol_names.get(name) == PUBLISHED
        }
    protocol_rows = [["dataset", PROTOCOL], *map(list, protocol_names.items())] if protocol_names else []
    tables = [_headlines(results, published or {}), protocol_rows, *_task_tables(results)]
    layout = _markdown if markdown else _text
    return "\n\n".join(layout(rows) for rows in tables if rows) + "\n" if results else "no results\n"


def save_results(
    results: Mapping[str, Results],
    folder: str | Path,
    *,
    published: Published | None = None,
    protocols: Protocols | None = None,
) -> None:
    """Writes results.md and results.json (all metrics, undefined ones as null), each atomically.

    results.json is written last, so its presence means that the evaluation has finished.

    Args:
        results, published, protocols: see format_results. results.json holds the protocols under "protocol".
        folder: created if missing.
    """
    folder = Path(folder)
    table = format_results(results, published=published, protocols=protocols, markdown=True)
    write_text(folder / TABLE, table)
    write_text(folder / NUMBERS, json_text({**results, **({PROTOCOL: protocols} if protocols else {})}))


def read_results(path: str | Path) -> tuple[dict[str, Results], dict[str, dict[str, Any]]]:
    """Reads results and protocols from a results.json; null becomes NaN.

    Raises:
        EvaluationError: the file is missing, damaged or of another form.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise EvaluationError(
            f"{path}: no results; the evaluation has not finished, or wrote to another folder ({error.strerror})"
        ) from error
    except ValueError as error:
        raise EvaluationError(f"{path}: not a complete JSON file ({error})") from error
    return parse_results(content, source=str(path))


def parse_results(content: Any, *, source: str) -> tuple[dict[str, Results], dict[str, dict[str, Any]]]:
    """As read_results, from the parsed content of a results.json.

    Raises:
        EvaluationError: it has another form; names `source`.
    """
    try:
        protocols = {name: dict(protocol) for name, protocol in content.get(PROTOCOL, {}).items()}
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
    """Checks results against expected values.

    Args:
        results: dataset -> task -> metric -> percent.
        expected: (task, metric, percent, tolerance). The task is one of the first dataset, or "DATASET/TASK".
    Raises:
        EvaluationError: names every value that is missing, NaN or outside its tolerance.
    """
    first = next(iter(results), "")
    mismatches = []
    for task, metric, value, tolerance in expected:
        dataset, _, name = task.rpartition("/")
        measured = results.get(dataset or first, {}).get(name, {}).get(metric)
        if measured is None:
            mismatches.append(f"{task}/{metric} was not measured")
        elif not abs(measured - value) <= tolerance:
            mismatches.append(f"{task}/{metric} is {measured:.4f}, not {value:g} ± {tolerance:g}")
    if mismatches:
        raise EvaluationError(f"the results are not those of TEST.EXPECTED_RESULTS: {'; '.join(mismatches)}")


def clear_results(folder: str | Path) -> None:
    """Removes the files that save_results wrote to a folder, if any."""
    for name in (NUMBERS, TABLE):  # results.json first, because its presence marks the results as complete
        (Path(folder) / name).unlink(missing_ok=True)


def json_text(results: Mapping[str, object]) -> str:
    """Formats nested mappings of numbers as JSON, with null for NaN."""
    return json.dumps(_without_nan(results), indent=2, ensure_ascii=False) + "\n"


def _without_nan(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _headlines(results: Mapping[str, Results], published: Published) -> list[_Row]:
    """Rows of the first table; empty if no dataset has a headline metric."""
    known = {name: dict(published.get(name, {})) for name in results}
    flat = {name: _flatten(tasks) for name, tasks in results.items()}
    candidates = dict.fromkeys([*HEADLINES, *(metric for values in known.values() for metric in values)])
    metrics = [metric for metric in candidates if any(metric in values for values in flat.values())]
    if not metrics:
        return []
    rows: list[_Row] = [["dataset", *_titles(metrics)]]
    for name, values in flat.items():
        rows.append([name, *(_format_value(values, metric) for metric in metrics)])
        if any(metric in known[name] for metric in metrics):
            rows.append(["  published", *(_format_value(known[name], metric) for metric in metrics)])
            differences = (_format_difference(values, known[name], metric) for metric in metrics)
            rows.append(["  difference", *differences])
    return rows


def _titles(metrics: Sequence[str]) -> list[str]:
    """Metric names, with their task only where two tasks have the same metric."""
    short = [metric.partition("/")[2] for metric in metrics]
    return [s if short.count(s) == 1 else metric for s, metric in zip(short, metrics, strict=True)]


def _flatten(results: Results) -> Metrics:
    return {f"{task}/{metric}": value for task, values in results.items() for metric, value in values.items()}


def _task_tables(results: Mapping[str, Results]) -> list[list[_Row]]:
    tables = []
    for task in dict.fromkeys(task for tasks in results.values() for task in tasks):
        by_dataset = {name: tasks[task] for name, tasks in results.items() if task in tasks}
        metrics = list(dict.fromkeys(m for values in by_dataset.values() for m in values if "-" not in m))
        rows = [[name, *(_format_value(values, m) for m in metrics)] for name, values in by_dataset.items()]
        tables.append([[task, *metrics], *rows])
    return tables


def _format_value(values: Mapping[str, float], metric: str) -> str:
    value = values.get(metric, math.nan)
    return "-" if math.isnan(value) else f"{value:.2f}"


def _format_difference(values: Mapping[str, float], known: Mapping[str, float], metric: str) -> str:
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
