# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Trains tiny CLIP and tiny SAM on ShapeWorld and writes the weights that are part of CMPF. Users do not need this.

    python tools/train_tiny_encoders.py --out cmpf/assets

Each training takes up to an hour on one core; --only clip and --only sam can run in parallel. Results are deterministic
for a seed on one type of CPU with one thread.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tiny_encoders.scenes import (
    SEEDS_PER_RUN,
    TRAINING_SEEDS,
    VALIDATION_SEEDS,
    ScenePool,
    make_pool,
)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="output folder for weights, tokenizer and hashes.json"
    )
    parser.add_argument("--only", choices=("clip", "sam"), help="train one of the two")
    parser.add_argument("--seed", type=int, default=0, help="random seed of weights, scenes and batches [0]")
    parser.add_argument("--scenes", type=int, default=16000, help="number of training scenes [16000]")
    parser.add_argument("--validation", type=int, default=1000, help="number of validation scenes [1000]")
    parser.add_argument("--clip-steps", type=int, default=1500, help="training steps of CLIP [1500]")
    parser.add_argument("--clip-batch", type=int, default=24, help="batch size of CLIP, in scenes [24]")
    parser.add_argument("--sam-steps", type=int, default=3500, help="training steps of SAM [3500]")
    parser.add_argument("--sam-batch", type=int, default=8, help="batch size of SAM, in scenes [8]")
    parser.add_argument(
        "--every", type=int, default=0, help="steps between snapshots, written to --out [none]"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="number of CPU threads; other numbers change the rounding [1]"
    )
    return parser.parse_args(arguments)


def print_table(title: str, rows: dict[str, float]) -> None:
    """Prints a title and one line per metric."""
    print(f"\n{title}", *(f"  {name:<24}{value:7.2f}" for name, value in rows.items()), sep="\n", flush=True)


def run_clip(options: argparse.Namespace, training: ScenePool, validation: ScenePool) -> dict[str, float]:
    """Trains, saves and evaluates tiny CLIP; returns metrics in percent."""
    from cmpf.encoders.tiny import CLIP_MERGES, CLIP_WEIGHTS, load_tiny_clip
    from tiny_encoders.clip_training import train_clip
    from tiny_encoders.evaluation import accuracy_table, classify_regions
    from tiny_encoders.training import Plan, save_merges, save_weights

    def store(step: int, model: nn.Module) -> None:
        save_weights(model, options.out, CLIP_WEIGHTS)
        part = validation.first(300)
        print_table(f"tiny CLIP after {step} steps", accuracy_table(classify_regions(model, part)))

    save_merges(options.out, CLIP_MERGES)
    plan = Plan(options.clip_steps, options.clip_batch, 2e-3, options.seed, options.every, store)
    model = train_clip(training, plan)
    save_weights(model, options.out, CLIP_WEIGHTS)
    rows = accuracy_table(classify_regions(load_tiny_clip(folder=options.out), validation))
    print_table(f"tiny CLIP: % of ground-truth regions classified correctly, {len(validation)} scenes", rows)
    return rows


def run_sam(options: argparse.Namespace, training: ScenePool, validation: ScenePool) -> dict[str, float]:
    """Trains, saves and evaluates tiny SAM; returns metrics in percent."""
    from cmpf.encoders.tiny import SAM_WEIGHTS, load_tiny_sam
    from tiny_encoders.evaluation import evaluate_sam
    from tiny_encoders.sam_training import train_sam
    from tiny_encoders.training import Plan, save_weights

    def store(step: int, model: nn.Module) -> None:
        save_weights(model, options.out, SAM_WEIGHTS)
        print_table(
            f"tiny SAM after {step} steps", evaluate_sam(model, validation.first(100), seed=options.seed)
        )

    plan = Plan(options.sam_steps, options.sam_batch, 1e-3, options.seed, options.every, store)
    model = train_sam(training, plan)
    save_weights(model, options.out, SAM_WEIGHTS)
    rows = evaluate_sam(load_tiny_sam(folder=options.out), validation, seed=options.seed)
    print_table(f"tiny SAM: {len(validation)} scenes", rows)
    return rows


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Runs one command line.

    Returns:
        "clip" and "sam" -> metric -> percent.
    """
    options = parse_arguments(arguments)
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    offset = options.seed * SEEDS_PER_RUN
    training = make_pool(options.scenes, first_seed=TRAINING_SEEDS + offset, label="training scenes")
    validation = make_pool(
        options.validation, first_seed=VALIDATION_SEEDS + offset, label="validation scenes"
    )
    runs = {"clip": run_clip, "sam": run_sam}
    return {
        name: run(options, training, validation) for name, run in runs.items() if options.only in (None, name)
    }


if __name__ == "__main__":
    main()
