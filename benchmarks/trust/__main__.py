# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Runs all or some trials: `python -m benchmarks.trust [--only NAME ...]`. Exit code 1 if there are findings."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks.trust.fuzz import fuzz
from benchmarks.trust.kills import kills
from benchmarks.trust.load import hostile, page, predictions
from benchmarks.trust.trials import table

TRIALS = {"kills": kills, "hostile": hostile, "predictions": predictions, "page": page}
MAX_LISTED_FINDINGS = 20


def main() -> int:
    """Runs the selected trials and prints their table; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trust",
        description="Tests CMPF with crashes, full disks, hostile files and load. Exit code 1 if there are findings.",
    )
    parser.add_argument(
        "--only", nargs="*", choices=[*TRIALS, "fuzz"], default=[*TRIALS, "fuzz"], help="tests to run [all]"
    )
    parser.add_argument("--inputs", type=int, default=20_000, help="number of fuzzed inputs [20000]")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the fuzzed inputs [0]")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    results = []
    for name in arguments.only:
        trials = fuzz(arguments.inputs, seed=arguments.seed) if name == "fuzz" else [TRIALS[name]()]
        for trial in trials:
            results.append(trial)
            print(
                f"{trial.name}: {len(trial.findings)} findings in {trial.tried:,} inputs, {trial.seconds:.0f} s",
                flush=True,
            )
            for finding in trial.findings[:MAX_LISTED_FINDINGS]:
                print(f"  {finding}", flush=True)
    print(text := table(results))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text, encoding="utf-8")
    return int(any(trial.findings for trial in results))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # does not wait for threads of the web server
