# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The ablation on ShapeWorld: trains the configurations with several seeds and prints one table.

Finished runs are reused, interrupted ones go on where they were; configurations that differ only at test time
share one training.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cmpf.cli.ablation import Pool, Run, markdown, plan, summarize
from cmpf.common.files import write_text
from cmpf.errors import CMPFError

CONFIGS = (
    "fcclip_tiny",
    "query_injector_only",
    "feature_injector_only",
    "no_ensemble",
    "ensemble_published",
    "candidates_plain",
    "candidates_surest",
    "cmpf_tiny",
    "proposals_one_grid",
    "objectness_half",
    "objectness_full",
    "mask_adapter_tiny",
    "maftp_tiny",
    "ovrcoat_tiny",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    arguments = _parser().parse_args(argv)
    output = Path(arguments.output)
    try:
        runs = plan(
            arguments.configs,
            seeds=arguments.seeds,
            iterations=arguments.iterations,
            output=output,
            opts=arguments.opts,
        )
        Pool(jobs=arguments.jobs).work_off(runs)
    except CMPFError as error:
        if arguments.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    text = write_tables(runs, output, names=[Path(config).stem for config in arguments.configs])
    print(f"\n{text}\nalso in {output / 'ablation.md'} and {output / 'ablation.json'}")
    return 0


def write_tables(runs: Sequence[Run], output: Path, *, names: Sequence[str]) -> str:
    """Writes ablation.json and ablation.md, a table for each dataset, and gives the latter's text.

    Args:
        runs: all finished.
        output: folder of both files.
        names: configurations in the order of the rows.
    """
    tables = summarize(runs)
    seeds = len({run.seed for run in runs})
    spread = f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
    length = runs[0].cfg.SOLVER.MAX_ITER
    text = "\n".join(
        f"{dataset}: {spread}, {length} iterations, percent\n\n{markdown(rows, names=names)}"
        for dataset, rows in tables.items()
    )
    write_text(output / "ablation.json", json.dumps(tables, indent=1) + "\n")
    write_text(output / "ablation.md", text)
    return text


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Trains and compares the ablation's configurations on ShapeWorld."
    )
    parser.add_argument(
        "--seeds", type=_positive, default=3, metavar="N", help="seeds for each configuration [3]"
    )
    parser.add_argument("--iterations", type=_positive, metavar="N", help="of training [as configured]")
    parser.add_argument(
        "--jobs", type=_positive, default=2, metavar="N", help="processes of one thread each [2]"
    )
    parser.add_argument("--output", default="output/ablation", metavar="DIR", help="[output/ablation]")
    parser.add_argument(
        "--configs",
        nargs="+",
        default=[f"shapes/{name}" for name in CONFIGS],
        metavar="FILE",
        help="[all ten]",
    )
    parser.add_argument(
        "--opts", nargs="+", default=[], metavar="KEY VALUE", help="changes to all configurations"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


if __name__ == "__main__":
    sys.exit(main())
