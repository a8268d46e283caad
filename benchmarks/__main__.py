# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Runs the benchmarks: `python -m benchmarks [--quick] [--only NAME ...] [--device cuda] [--json FILE]`."""

from __future__ import annotations

import argparse
import difflib
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler that measures memory would log every start

import torch

from benchmarks.cases import CASES, Build
from benchmarks.counting import available_memory
from benchmarks.harness import DisagreementError, Measurement, measure
from benchmarks.report import environment, table, write_json
from benchmarks.setting import Setting
from cmpf.common.cpu import keep_freed_memory

ROUNDS, SECONDS = 15, 20.0
QUICK_ROUNDS, QUICK_SECONDS = 3, 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Measures cases and prints a table.

    Returns:
        Exit code: 1 if a pair disagrees or a case fails, 2 for an unknown case or device.
    """
    arguments = _parser().parse_args(argv)
    unknown = [name for name in arguments.only if not _matching_cases(name)]
    if unknown:
        near = difflib.get_close_matches(unknown[0], CASES, n=1)
        hint = f", did you mean {near[0]}?" if near else "."
        print(f"unknown case {unknown[0]!r}{hint} Choose from: {', '.join(CASES)}", file=sys.stderr)
        return 2
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("--device cuda: torch finds no CUDA device; use --device cpu", file=sys.stderr)
        return 2
    keep_freed_memory()  # as CMPF's commands do; it speeds up both formulations
    setting = Setting(torch.device(arguments.device), arguments.quick)
    names = [
        name
        for name in CASES
        if not arguments.only or any(name in _matching_cases(o) for o in arguments.only)
    ]
    results: dict[str, Measurement | str] = {}
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        results[name] = _run(CASES[name], setting, arguments.seconds)
        if arguments.json:  # after every case, so that an interrupted run keeps its results
            write_json(arguments.json, results, device=setting.device, quick=setting.quick)
        gc.collect()
    print(", ".join(f"{key} {value}" for key, value in environment(setting.device).items()))
    print(table(results))
    return int(any(isinstance(result, str) and not result.startswith(SKIPPED) for result in results.values()))


SKIPPED = "not run"


def _run(build: Build, setting: Setting, seconds: float | None) -> Measurement | str:
    """Measures a case; returns a message if that is impossible or fails."""
    try:
        pair = build(setting)
        available = available_memory(setting.device)
        if pair.published_bytes > 0.8 * available:
            needed = f"{pair.published_bytes / 1e9:.1f} GB, {available / 1e9:.1f} GB are free"
            return f"{SKIPPED}: the published formulation needs {needed}"
        rounds = QUICK_ROUNDS if setting.quick else ROUNDS
        limit = seconds if seconds is not None else (QUICK_SECONDS if setting.quick else SECONDS)
        return measure(pair, device=setting.device, rounds=rounds, seconds=limit)
    except DisagreementError as error:
        return f"DISAGREES: {error}"
    except Exception as error:  # the other cases still run
        return f"FAILED: {type(error).__name__}: {error}".splitlines()[0]


def _matching_cases(name: str) -> list[str]:
    """The case with this name, or all cases that start with it."""
    return [name] if name in CASES else [case for case in CASES if case.startswith(name)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compares CMPF with a plain implementation of the published formulation: time, memory, results.",
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="[cpu]")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"cases, or prefixes of their names [all]: {', '.join(CASES)}",
    )
    parser.add_argument("--json", type=Path, help="also write all measurements to this file")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to test in a minute that all cases run"
    )
    parser.add_argument(
        "--seconds", type=float, help=f"time limit of a case after its first three rounds [{SECONDS:g}]"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
