# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What a run found: a table for people, JSON for programs, and where it was measured."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Measurement
from cmpf.common.files import replacing

MEMORY = {
    "cpu": "torch's CPU allocator (profiler); NumPy, Pillow and scratch memory inside libraries are not counted",
    "cuda": "torch.cuda.max_memory_allocated",
}
HEADERS = ("case", "ours", "published", "times as fast", "quartiles", "our MB", "their MB", "difference")


def environment(device: torch.device) -> dict[str, Any]:
    """Machine, versions, and what the memory column means."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "memory": MEMORY.get(device.type, "not measured"),
    }


def table(results: Mapping[str, Measurement | str]) -> str:
    """A Markdown table; a case that could not be measured has its reason instead of numbers."""
    rows = [HEADERS, *(_row(name, result) for name, result in results.items())]
    numbers = [row for row in rows if len(row) == len(HEADERS)]
    widths = [max(len(row[column]) for row in numbers) for column in range(len(HEADERS))]
    widths[0] = max(len(row[0]) for row in rows)
    lines = []
    for row in rows:
        if len(row) < len(HEADERS):
            lines.append(f"| {row[0]:<{widths[0]}} | {row[1]} |" + " |" * (len(HEADERS) - 2))
            continue
        cells = [f"{row[0]:<{widths[0]}}", *(f"{v:>{w}}" for v, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("| " + " | ".join(cells) + " |")
    rule = "|" + "|".join(["---"] + ["---:"] * (len(HEADERS) - 1)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def write_json(
    path: Path, results: Mapping[str, Measurement | str], *, device: torch.device, quick: bool
) -> None:
    """Writes everything that was measured, whole or not at all. Times in seconds, memory in bytes."""
    cases = {
        name: {"failed": result} if isinstance(result, str) else asdict(result)
        for name, result in results.items()
    }
    content = {"environment": environment(device), "quick": quick, "cases": cases}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _row(name: str, result: Measurement | str) -> tuple[str, ...]:
    if isinstance(result, str):
        return name, result
    return (
        name,
        seconds(result.ours.median),
        seconds(result.published.median),
        f"{result.ratio.median:.2f}",
        f"{result.ratio.low:.2f} to {result.ratio.high:.2f}",
        f"{result.ours_memory / 1e6:,.1f}",
        f"{result.published_memory / 1e6:,.1f}",
        f"{result.difference:.0e}",
    )


def seconds(value: float) -> str:
    """A time with three digits: "12.3 ms", "1.23 s"."""
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def _processor() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
