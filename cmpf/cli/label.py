# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf label: labels millions of images on one machine, in the job arrays of a cluster, or with Ray."""

from __future__ import annotations

import argparse
from pathlib import Path

from cmpf.cli.command import (
    DONE,
    Commands,
    add_command,
    add_debug,
    add_device,
    add_model,
    add_model_options,
    add_weights,
    positive,
    shard,
)
from cmpf.cli.predict_options import VOCABULARY_HELP, add_large, add_selection, add_things_and_stuff

EXAMPLES = """examples:
  cmpf label photos/ --vocabulary "car; person; road" --output labels/
  cmpf label s3://bucket/photos/ --vocabulary words.txt --output labels/ --shard 3/64
  cmpf label photos/ --vocabulary "car; road" --output labels/ --ray --workers 2
  cmpf label export labels/ --format coco --output coco/
  cmpf label 'tars/train-*.tar' more.parquet --vocabulary words.txt --output labels/

The output is a folder of Parquet files with one row per image; files are written atomically. To resume an interrupted
run, repeat its command. The row of an unreadable image contains the error; the exit code is then 1.
"""
EXPORT = "export"
# Copies of cmpf.labelling.export.EXPORTS and cmpf.integrations.labeler.TASKS, so that the help text does not import
# NumPy and torch.
EXPORTS = ("coco", "coco-polygons", "coco-panoptic", "yolo", "labelme", "png")
TASKS = ("all", "panoptic", "instance")


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "label",
        help="label many images from folders, buckets, tars or tables, also on a cluster; writes Parquet",
        description="Labels images from folders, buckets, tars and tables, in shards, and writes Parquet files;\n"
        "or exports these files as a dataset.",
        usage="cmpf label INPUT ... --vocabulary WORDS --output DIR [options]\n"
        "       cmpf label export DIR --format FORMAT --output DIR",
        examples=EXAMPLES,
    )
    add = parser.add_argument
    add(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="images, folders including subfolders, quoted patterns, .tar files in the WebDataset layout, or .parquet "
        "and .arrow files with a column of images or URLs; local paths, or URLs such as s3://bucket/folder/",
    )
    add(
        "--output",
        required=True,
        type=_folder_or_address,
        metavar="DIR",
        help="output folder, or a URL such as s3://bucket/labels/; shards are written atomically",
    )
    _add_labelling(parser.add_argument_group("model and classes"))
    add_selection(parser.add_argument_group("filtering"))
    add_large(parser.add_argument_group("large images"))
    _add_reading(parser.add_argument_group("inputs"))
    _add_shards(parser.add_argument_group("shards and clusters"))
    parser.add_argument_group("export").add_argument(
        "--format",
        choices=EXPORTS,
        help="dataset format to export the labels to; png: 16-bit class maps, 65535 = unlabeled",
    )
    add_model_options(parser)
    add_debug(parser)
    parser.set_defaults(run=run, usage_error=parser.error)


def _add_labelling(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--vocabulary", metavar="WORDS", help=VOCABULARY_HELP)
    add_things_and_stuff(group)
    add("--task", default=TASKS[0], choices=TASKS, help="segments to store in a row [%(default)s: both]")
    add("--ensemble", action="store_true", help="add SAM's masks for classes not seen in training")
    add_model(group)
    add_weights(group)
    add_device(group)
    add("--batch-size", type=positive, default=1, metavar="N", help="images per forward pass [1]")


def _add_reading(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--column",
        metavar="NAME",
        help="table column with the images or their URLs [detected]",
    )
    add("--allow-urls", action="store_true", help="allow http(s) URLs as inputs")


def _add_shards(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    shards = group.add_mutually_exclusive_group()
    shards.add_argument(
        "--shard",
        type=shard,
        metavar="I/N",
        help="label only shard I of N, counted from 0, for SLURM or Kubernetes job arrays",
    )
    shards.add_argument(
        "--shards",
        type=positive,
        metavar="N",
        help="split the output into N shards, and label all of them [1; with --ray: one per 1,000 images or per tar]",
    )
    add(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="label with Ray: on the cluster at ADDRESS [a running local cluster, else this machine]",
    )
    add(
        "--workers",
        type=positive,
        metavar="N",
        help="with --ray: number of parallel models [one per GPU; without GPUs, one per CPU]",
    )
    add(
        "--overwrite",
        action="store_true",
        help="delete the results of earlier runs in the output folder and start over",
    )


def _folder_or_address(text: str) -> Path | str:
    if text.lower().startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"cannot write to {text}; give a folder or a bucket")
    return text.rstrip("/") if "://" in text else Path(text)


def run(arguments: argparse.Namespace) -> int:
    """Labels images, or exports labels to a dataset."""
    if arguments.inputs[0] == EXPORT:
        return _export(arguments)
    if arguments.format:
        arguments.usage_error("--format is only valid with cmpf label export")
    if arguments.vocabulary is None:
        arguments.usage_error("the following arguments are required: --vocabulary")
    if arguments.shard and arguments.ray is not None:
        arguments.usage_error("--shard cannot be combined with --ray; use --shards N")
    if arguments.workers and arguments.ray is None:
        arguments.usage_error("--workers requires --ray")
    from cmpf.cli.label_run import label

    return label(arguments)


def _export(arguments: argparse.Namespace) -> int:
    if len(arguments.inputs) != 2 or not arguments.format:
        arguments.usage_error("expected cmpf label export DIR --format FORMAT --output DIR")
    if isinstance(arguments.output, str):
        arguments.usage_error(f"--output {arguments.output}: a dataset is written into a folder")
    from cmpf.labelling.export import export_labels

    images, files = export_labels(Path(arguments.inputs[1]), arguments.format, arguments.output)
    print(f"{images:,} images -> {', '.join(map(str, files)) or arguments.output}")
    return DONE
