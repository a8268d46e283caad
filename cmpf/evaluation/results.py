# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The table that is printed after an evaluation and saved as results.json and results.md."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from cmpf.evaluation.protocol import Metrics, Results
from cmpf.files import write_text

_Row = list[str]


def format_results(
    results: Mapping[str, Results],
    *,
    published: Mapping[str, Results] | None = None,
    markdown: bool = False,
) -> str:
    """One table a task: a row a dataset, a column a metric; with published values below, and the difference.

    Metrics of single classes (`metric-class`) are left out; results.json has them. NaN prints as "-".

    Args:
        results: dataset -> task -> metric -> percent.
        published: the same, for whatever is known.
        markdown: pipes for a .md file, else aligned text for a terminal.
    """
    tasks = dict.fromkeys(task for of_dataset in results.values() for task in of_dataset)
    blocks = []
    for task in tasks:
        of_task = {name: r[task] for name, r in results.items() if task in r}
        metrics = list(dict.fromkeys(m for values in of_task.values() for m in values if "-" not in m))
        rows: list[_Row] = [[task, *metrics]]
        for name, values in of_task.items():
            rows.append([name, *(_number(values, m) for m in metrics)])
            known = (published or {}).get(name, {}).get(task, {})
            if any(m in known for m in metrics):
                rows.append(["  published", *(_number(known, m) for m in metrics)])
                rows.append(["  difference", *(_difference(values, known, m) for m in metrics)])
        blocks.append(_markdown(rows) if markdown else _text(rows))
    return "\n\n".join(blocks) + "\n" if blocks else "no results\n"


def save_results(
    results: Mapping[str, Results], folder: str | Path, *, published: Mapping[str, Results] | None = None
) -> None:
    """Writes results.json (all metrics, undefined ones as null) and results.md, each whole or not at all.

    Args:
        results, published: see format_results.
        folder: made if missing.
    """
    target = Path(folder)
    document = {
        dataset: {task: _without_nan(metrics) for task, metrics in tasks.items()}
        for dataset, tasks in results.items()
    }
    write_text(target / "results.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    write_text(target / "results.md", format_results(results, published=published, markdown=True))


def _without_nan(metrics: Metrics) -> dict[str, float | None]:
    """JSON knows no NaN."""
    return {name: None if math.isnan(value) else value for name, value in metrics.items()}


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
