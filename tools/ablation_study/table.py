# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Mean and standard deviation over seeds, as numbers and as a Markdown table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from tools.ablation_study.runs import Run

COLUMNS = {  # title -> task, metric
    "PQ seen": ("panoptic", "S_PQ"),
    "PQ unseen": ("panoptic", "U_PQ"),
    "mIoU seen": ("sem_seg", "S_mIoU"),
    "mIoU unseen": ("sem_seg", "U_mIoU"),
    "recall@0.5 seen": ("mask_recall", "S_recall_50"),
    "recall@0.5 unseen": ("mask_recall", "U_recall_50"),
    "AP": ("segm", "AP"),
}

Rows = dict[str, dict[str, dict[str, Any]]]  # configuration -> column -> mean, std, values


def summarize(runs: Sequence[Run]) -> dict[str, Rows]:
    """Reads the results of finished runs.

    Returns:
        dataset -> configuration -> column -> {"mean", "std", "values"} in percent; values in the order of the
        seeds; std is that of a sample, None for fewer than two values; what was not measured is None.
    """
    values: dict[str, dict[str, dict[str, list[float | None]]]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        results = json.loads((run.folder / "results.json").read_text(encoding="utf-8"))
        for dataset, tasks in results.items():
            columns = values.setdefault(dataset, {}).setdefault(run.name, {title: [] for title in COLUMNS})
            for title, (task, metric) in COLUMNS.items():
                columns[title].append(tasks.get(task, {}).get(metric))
    return {
        dataset: {
            name: {title: _statistics(of_seeds) for title, of_seeds in columns.items()}
            for name, columns in rows.items()
        }
        for dataset, rows in values.items()
    }


def _statistics(values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    return {
        "mean": fmean(known) if known else None,
        "std": stdev(known) if len(known) > 1 else None,
        "values": list(values),
    }


def markdown(rows: Mapping[str, Mapping[str, Mapping[str, Any]]], *, names: Sequence[str]) -> str:
    """A row for each name: "mean ± standard deviation" in each column, "-" where nothing was measured."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    for name in names:
        cells = [_cell(rows[name][title]) for title in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(statistics: Mapping[str, Any]) -> str:
    if statistics["mean"] is None:
        return "-"
    spread = "" if statistics["std"] is None else f" ± {statistics['std']:.1f}"
    return f"{statistics['mean']:.1f}{spread}"
