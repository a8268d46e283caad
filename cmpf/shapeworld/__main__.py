# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""`python -m cmpf.shapeworld`: writes the benchmark to disk. Exit codes: 0 done, 1 error, 2 usage."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from cmpf.common.cpu import usable_cores
from cmpf.errors import DatasetError
from cmpf.shapeworld.writer import WorldSpec, write_dataset

_PROGRAM = "python -m cmpf.shapeworld"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Prints one line instead of the usage text."""
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def _parser() -> _Parser:
    parser = _Parser(
        prog=_PROGRAM, description="Generates ShapeWorld as a COCO panoptic dataset.", allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, required=True, help="output folder, e.g. datasets/shapeworld")
    parser.add_argument(
        "--train", type=int, required=True, help="number of training images (seen categories only)"
    )
    parser.add_argument("--val", type=int, required=True, help="number of validation images (all categories)")
    parser.add_argument("--hard-val", type=int, default=0, help="number of crowded validation images [0]")
    parser.add_argument("--tune", type=int, default=0, help="number of images for choosing thresholds [0]")
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed; the same seed gives the same images [0]"
    )
    parser.add_argument(
        "--size", type=int, default=128, help="height and width of the images in pixels [128]"
    )
    parser.add_argument("--jobs", type=int, default=None, help="number of processes [one per core]")
    parser.add_argument("--force", action="store_true", help="replace a different ShapeWorld in the folder")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    jobs = usable_cores() if arguments.jobs is None else arguments.jobs
    if jobs < 1:
        parser.error(f"--jobs {jobs}: must be 1 or more")
    try:
        spec = WorldSpec(
            train=arguments.train,
            val=arguments.val,
            hard_val=arguments.hard_val,
            tune=arguments.tune,
            seed=arguments.seed,
            size=arguments.size,
        )
    except DatasetError as error:
        parser.error(str(error))
    try:
        written = write_dataset(arguments.out, spec, jobs=jobs, force=arguments.force)
    except DatasetError as error:
        print(f"{_PROGRAM}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{_PROGRAM}: stopped; run the same command to start again", file=sys.stderr)
        return 1
    total = sum(spec.counts.values())
    print(f"{arguments.out}: {total} images " + ("written" if written else "already exist, nothing to do"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
