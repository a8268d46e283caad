# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf save-sam-masks and tools/save_sam_masks.py: compute SAM's mask proposals once for many evaluations."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cmpf.cli.command import (
    DONE,
    FAILED,
    Commands,
    add_command,
    add_debug,
    add_num_gpus,
    positive,
    run_script,
    shard,
)

if TYPE_CHECKING:
    from cmpf.config import Config
    from cmpf.factory import sam_masks

COMMAND = "save-sam-masks"
EXAMPLES = """examples:
  cmpf save-sam-masks --config-file configs/shapes/cmpf_tiny.yaml --output output/masks --jobs 2
  cmpf save-sam-masks --config-file coco/cmpf/convnext_large_eval_ade20k --output masks --num-gpus 4
  cmpf save-sam-masks --config-file coco/cmpf/convnext_large_eval_lvis --output masks --shard 2/8
  cmpf save-sam-masks --config-file my.yaml --images images --output masks TEST.ENSEMBLE.SAM_NAME vit_b

Existing masks are kept: to resume an interrupted run, repeat its command. Several machines can share an output folder,
each with its own --shard. Damaged images are skipped and listed at the end; the exit code is then 1. To evaluate with
the masks, set TEST.ENSEMBLE.ENABLED True TEST.ENSEMBLE.SOURCE cache TEST.ENSEMBLE.CACHE_DIR DIR; the results equal
those of online masks. For bitwise equal results use the same device and, on a CPU, the same NUM_THREADS.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line of tools/save_sam_masks.py and returns its exit code."""
    return run_script(add_parser, COMMAND, argv)


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        COMMAND,
        help="compute SAM's masks once for evaluations with the OpenSeg Ensemble",
        description="Computes SAM's mask proposals for datasets or a folder of images, for evaluations with the "
        "OpenSeg Ensemble.",
        examples=EXAMPLES,
    )
    parser.add_argument(
        "--config-file",
        required=True,
        metavar="FILE",
        help="config file of the evaluation: sets SAM, thresholds and test size",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--dataset", nargs="+", metavar="NAME", help="datasets [DATASETS.TEST]")
    source.add_argument("--images", metavar="DIR", help="folder of images, including subfolders")
    parser.add_argument(
        "--output", metavar="DIR", help="output folder for the masks [TEST.ENSEMBLE.CACHE_DIR]"
    )
    parser.add_argument("--jobs", type=positive, metavar="N", help="number of processes [one per GPU]")
    add_num_gpus(parser)
    parser.add_argument(
        "--shard",
        type=shard,
        default=(0, 1),
        metavar="I/N",
        help="process only shard I of N, counted from 0 [0/1: all images]",
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="configuration overrides")
    add_debug(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Computes and saves the masks of all images of the shard.

    Raises:
        CMPFError: there is no output folder, no image, or no such GPU.
    """
    from tqdm import tqdm

    from cmpf.config import get_cfg
    from cmpf.errors import ConfigError
    from cmpf.factory import sam_masks

    cfg = get_cfg(arguments.config_file, arguments.opts)
    output = arguments.output or cfg.TEST.ENSEMBLE.CACHE_DIR
    if not output:
        raise ConfigError("no folder for the masks: give --output DIR, or TEST.ENSEMBLE.CACHE_DIR DIR")
    todo = shard_images(arguments, cfg)
    jobs = plan(arguments, cfg, output)
    Path(output).mkdir(parents=True, exist_ok=True)  # an error comes before SAM is loaded
    counts: Counter[str] = Counter()
    damaged: list[sam_masks.MaskResult] = []
    with tqdm(total=len(todo), desc="SAM masks", unit="image", disable=None) as bar:
        for result in sam_masks.generate_masks(jobs, todo):
            counts[result.status] += 1
            damaged += [result] if result.status == sam_masks.DAMAGED else []
            bar.update()
    print(
        f"{len(todo)} images: {counts[sam_masks.GENERATED]} generated, {counts[sam_masks.CACHED]} cached -> {output}"
    )
    for result in damaged:
        print(f"damaged: {result.message}", file=sys.stderr)
    return FAILED if damaged else DONE


def shard_images(arguments: argparse.Namespace, cfg: Config) -> list[sam_masks.SourceImage]:
    """The images of the command line's shard.

    Raises:
        DatasetError: a dataset or folder does not exist.
        ImageError: a folder has no image.
        ConfigError: no dataset is given.
    """
    from cmpf.errors import ConfigError
    from cmpf.factory import sam_masks

    names = arguments.dataset or cfg.DATASETS.TEST
    if arguments.images:
        images = sam_masks.images_in_folder(cfg, arguments.images)
    elif names:
        images = sam_masks.dataset_images(cfg, names)
    else:
        raise ConfigError("no images: give --dataset NAME, --images DIR, or DATASETS.TEST in the config")
    index, count = arguments.shard
    return images[index::count]


def plan(arguments: argparse.Namespace, cfg: Config, output: str) -> list[sam_masks.Job]:
    """One job per process.

    Raises:
        ConfigError: more GPUs than available.
    """
    from cmpf.cli.processes import check_gpus
    from cmpf.common.cpu import usable_cores
    from cmpf.factory import sam_masks

    gpus = arguments.num_gpus
    check_gpus(gpus)
    count = arguments.jobs or gpus or 1
    threads = cfg.NUM_THREADS or (max(1, usable_cores() // count) if count > 1 else 0)
    return [
        sam_masks.Job(
            config=arguments.config_file,
            overrides=tuple(arguments.opts),
            output=output,
            device=None if gpus is None else (f"cuda:{index % gpus}" if gpus else "cpu"),
            threads=threads,
        )
        for index in range(count)
    ]
