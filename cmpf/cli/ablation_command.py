# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf ablation and tools/ablation.py: train configurations with several seeds and compare them in a table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cmpf.cli.command import DONE, Commands, add_command, add_debug, positive, run_script

if TYPE_CHECKING:
    from cmpf.cli.ablation import Run

COMMAND = "ablation"
EXAMPLES = """examples:
  cmpf ablation
  cmpf ablation --configs shapes/fcclip_tiny shapes/query_injector_only --seeds 2 --iterations 100
  cmpf ablation --configs shapes/no_ensemble my_idea.yaml --output output/my_idea --opts SOLVER.BASE_LR 0.0002

Finished runs are reused and interrupted runs are resumed. Configurations that differ only at test time share one
training. The datasets are those of the configurations; python -m cmpf.shapeworld generates ShapeWorld.
"""
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
    "proposal_queries",
    "proposal_queries_candidates",
    "objectness_half",
    "objectness_full",
    "mask_adapter_tiny",
    "maftp_tiny",
    "ovrcoat_tiny",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line of tools/ablation.py and returns its exit code."""
    return run_script(add_parser, COMMAND, argv)


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        COMMAND,
        help="train configurations with several seeds and compare them in a table",
        description="Trains configurations with several seeds and compares them [the ablation on ShapeWorld].",
        examples=EXAMPLES,
    )
    parser.add_argument(
        "--seeds", type=positive, default=3, metavar="N", help="number of seeds per configuration [3]"
    )
    parser.add_argument(
        "--iterations", type=positive, metavar="N", help="training iterations [as configured]"
    )
    parser.add_argument(
        "--jobs",
        type=positive,
        default=2,
        metavar="N",
        help="number of parallel runs, with one thread each [2]",
    )
    parser.add_argument(
        "--output", default="output/ablation", metavar="DIR", help="output folder [output/ablation]"
    )
    parser.add_argument(
        "--configs",
        nargs="+",
        default=[f"shapes/{name}" for name in CONFIGS],
        metavar="FILE",
        help="configurations to compare [those of the ablation, shapes/*]",
    )
    parser.add_argument(
        "--opts", nargs="+", default=[], metavar="KEY VALUE", help="overrides for all configurations"
    )
    add_debug(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs all trainings and evaluations, then prints and writes the tables."""
    from cmpf.cli.ablation import Pool, plan

    output = Path(arguments.output)
    runs = plan(
        arguments.configs,
        seeds=arguments.seeds,
        iterations=arguments.iterations,
        output=output,
        opts=arguments.opts,
    )
    Pool(jobs=arguments.jobs).run_all(runs)
    text = write_tables(runs, output, names=[Path(config).stem for config in arguments.configs])
    print(f"\n{text}\nalso written to {output / 'ablation.md'} and {output / 'ablation.json'}")
    return DONE


def write_tables(runs: Sequence[Run], output: Path, *, names: Sequence[str]) -> str:
    """Writes ablation.json and ablation.md with a table per dataset; returns the text of the latter.

    Args:
        runs: finished runs.
        output: folder of both files.
        names: configurations in the order of the rows.
    """
    from cmpf.cli.ablation import markdown, summarize
    from cmpf.common.files import write_text

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
