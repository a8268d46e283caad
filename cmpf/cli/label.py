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

the output is a folder of Parquet files, one row per image; a file is whole or not there. The same command again goes on
where it was stopped. An image that cannot be read is a row with an error; then the exit code is 1.
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
        help="label many images: buckets, tars and tables in, Parquet out; on a cluster, too",
        description="Labels folders, buckets, tars and tables of images, in shards, into Parquet files; or makes a "
        "dataset of these.",
        usage="cmpf label INPUT ... --vocabulary WORDS --output DIR [options]\n"
        "       cmpf label export DIR --format FORMAT --output DIR",
        examples=EXAMPLES,
    )
    add = parser.add_argument
    add(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="images, folders with all below them, quoted patterns, .tar files as WebDataset has them, .parquet and "
        ".arrow files with a column of images or addresses; paths, or addresses such as s3://bucket/folder/",
    )
    add(
        "--output",
        required=True,
        type=_folder_or_address,
        metavar="DIR",
        help="folder for the results, or an address such as s3://bucket/labels/, where each shard appears whole",
    )
    _add_labelling(parser.add_argument_group("what is looked for"))
    add_selection(parser.add_argument_group("which results"))
    add_large(parser.add_argument_group("large images"))
    _add_reading(parser.add_argument_group("reading"))
    _add_shards(parser.add_argument_group("shards and clusters"))
    parser.add_argument_group("export").add_argument(
        "--format",
        choices=EXPORTS,
        help="the dataset to make of labels; png: class maps of 16 bits, 65535 = no class",
    )
    add_model_options(parser)
    add_debug(parser)
    parser.set_defaults(run=run, usage_error=parser.error)


def _add_labelling(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--vocabulary", metavar="WORDS", help=VOCABULARY_HELP)
    add_things_and_stuff(group)
    add("--task", default=TASKS[0], choices=TASKS, help="which segments a row has [%(default)s: both]")
    add("--ensemble", action="store_true", help="add SAM's own masks for what was never trained")
    add_model(group)
    add_weights(group)
    add_device(group)
    add("--batch-size", type=positive, default=1, metavar="N", help="images in one pass [1]")


def _add_reading(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--column",
        metavar="NAME",
        help="of a table: which column holds the images or their addresses [the one that can]",
    )
    add("--allow-urls", action="store_true", help="download http(s) addresses")


def _add_shards(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    shards = group.add_mutually_exclusive_group()
    shards.add_argument(
        "--shard",
        type=shard,
        metavar="I/N",
        help="do shard I, from 0, of N only: a task of a SLURM or Kubernetes array",
    )
    shards.add_argument(
        "--shards",
        type=positive,
        metavar="N",
        help="make N files, all of them [1; with --ray one per 1,000 images or tar]",
    )
    add(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="label with Ray: on the cluster at ADDRESS, or the one that runs here, or on this machine",
    )
    add(
        "--workers",
        type=positive,
        metavar="N",
        help="with --ray: models at a time [one per GPU, without GPUs one per CPU]",
    )
    add(
        "--overwrite",
        action="store_true",
        help="remove what an earlier run has left in the output, and begin anew",
    )


def _folder_or_address(text: str) -> Path | str:
    if text.lower().startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text}: the web is not written to; give a folder or a bucket")
    return text.rstrip("/") if "://" in text else Path(text)


def run(arguments: argparse.Namespace) -> int:
    """Labels images, or exports labels to a dataset."""
    if arguments.inputs[0] == EXPORT:
        return _export(arguments)
    if arguments.format:
        arguments.usage_error("--format: an option of cmpf label export alone")
    if not arguments.vocabulary:
        arguments.usage_error("the following arguments are required: --vocabulary")
    if arguments.shard and arguments.ray is not None:
        arguments.usage_error("--shard is for tasks without a cluster's engine: with --ray, give --shards N")
    if arguments.workers and arguments.ray is None:
        arguments.usage_error("--workers: an option of --ray alone")
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
