# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Disk size, time and memory of zoo models for docs/models.md: `python -m benchmarks.models [NAME ...]`.

Weights are random, which does not affect the cost. Each model runs in a separate process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np

THREADS = 2
HEIGHT, WIDTH = 600, 800  # of the photo, which models resize to their test size
WORDS = "cup; spoon; table; plate; person; window; floor; wall; lamp; plant"
RANDOM = {"MODEL.CMPF.CLIP.PRETRAINED": "", "MODEL.CMPF.SAM.CHECKPOINT": "random", "MODEL.DEVICE": "cpu"}


def main(argv: Sequence[str] | None = None) -> int:
    """Prints one row per model as soon as it is measured."""
    from cmpf.weights.zoo_entries import zoo

    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="zoo names [all models of the zoo]")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one:
        print(json.dumps(measure(arguments.names[0])))
        return 0
    print(
        "| model | disk, GB | seconds | peak memory, GB |\n|---|---:|---:|---:|",
        flush=True,
    )
    for name in arguments.names or zoo():
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.models", "--one", name],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": str(THREADS), "CUDA_VISIBLE_DEVICES": ""},
        )
        costs = json.loads(done.stdout.splitlines()[-1])
        print(
            f"| `{name}` | {costs['disk'] / 1e9:.2f} | {costs['seconds']:.1f} | {costs['peak'] / 1e9:.1f} |",
            flush=True,
        )
    return 0


def measure(name: str) -> dict[str, float]:
    """Bytes of all weights, seconds of the first image with cached text embeddings, and peak memory in bytes."""
    import torch

    import cmpf.factory
    from cmpf.config import get_cfg
    from cmpf.weights.zoo_entries import zoo_entry

    torch.set_num_threads(THREADS)
    entry = zoo_entry(name)
    changes = {**entry.overrides, **({} if entry.asset else RANDOM)}
    predictor = cmpf.factory.build_predictor(
        get_cfg(entry.config, [part for pair in changes.items() for part in pair])
    )
    tensors = {value.data_ptr(): value for value in predictor.model.state_dict().values()}
    photo = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    predictor.model.class_embeddings(predictor.vocabulary(WORDS))  # caches the text embeddings
    started = time.perf_counter()
    predictor.predict(photo, WORDS, task="panoptic")
    return {
        "disk": sum(value.nbytes for value in tensors.values()),
        "seconds": time.perf_counter() - started,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    sys.exit(main())
