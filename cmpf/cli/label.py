# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf label: labels for millions of images, on one machine, in the arrays of a cluster, or with Ray."""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmpf.cli.models import TINY
from cmpf.cli.outcome import DONE, FAILED, add_debug, add_model_options

if TYPE_CHECKING:
    from cmpf.cli.outcome import Commands
    from cmpf.integrations import Labeler
    from cmpf.labelling.inputs import Shard
    from cmpf.labelling.record import ImageRecord
    from cmpf.labelling.shards import LabelFolder

EXAMPLES = """examples:
  cmpf label photos/ --vocabulary "car; person; road" --output labels/
  cmpf label s3://bucket/photos/ --vocabulary words.txt --output labels/ --shard 3/64
  cmpf label 'tars/train-*.tar' more.parquet --vocabulary words.txt --output labels/

the output is a folder of Parquet files, one row an image; a file is whole or not there. The same command again goes on
where it was stopped. An image that cannot be read is a row with an error; then the exit code is 1.
"""
TASKS = ("panoptic", "instance", "all")  # cmpf.integrations.labeler.TASKS, without torch
SHOWN_ERRORS = 10


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "label",
        help="label many images: buckets, tars and tables in, Parquet out; on a cluster, too",
        description="Labels folders, buckets, tars and tables of images, in shards, into Parquet files; or makes a "
        "dataset of these.",
        usage="cmpf label INPUT ... --vocabulary WORDS --output DIR [options]",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="images, folders with all below them, quoted patterns, .tar files as WebDataset has them, .parquet and "
        ".arrow files with a column of images or addresses; paths, or addresses such as s3://bucket/folder/",
    )
    add("--output", required=True, type=Path, metavar="DIR", help="folder for the results")
    _add_labelling(parser.add_argument_group("what is looked for"))
    _add_reading(parser.add_argument_group("reading"))
    _add_shards(parser.add_argument_group("shards and clusters"))
    add_model_options(parser)
    add_debug(parser)
    parser.set_defaults(run=run, usage_error=parser.error)


def _add_labelling(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--vocabulary",
        metavar="WORDS",
        help='classes: "car; person, pedestrian; sky", a vocabulary .txt file, or the name or YAML file of a dataset',
    )
    kinds = group.add_mutually_exclusive_group()
    kinds.add_argument("--stuff", metavar="WORDS", help='classes not counted one by one: "road; sky"')
    kinds.add_argument("--things", metavar="WORDS", help="classes counted one by one; all others are stuff")
    add("--task", default=TASKS[0], choices=TASKS, help="which segments a row has; all: both [%(default)s]")
    add("--ensemble", action="store_true", help="add SAM's own masks for what was never trained")
    add(
        "--model",
        default=TINY,
        metavar="NAME",
        help="zoo name, config path, model folder or Hub repository [%(default)s]",
    )
    add("--weights", metavar="FILE", help="trained weights that replace the model's own")
    add("--device", help="cpu, cuda, cuda:1 [a CUDA device if there is one]")
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
    add(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="do shard I, from 0, of N only: a task of a SLURM or Kubernetes array",
    )
    add(
        "--overwrite",
        action="store_true",
        help="remove what an earlier run has left in the output, and begin anew",
    )


def positive(text: str) -> int:
    """A whole number from 1, as an argument's type."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text}")
    return int(text)


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise argparse.ArgumentTypeError(f"expected I/N with I from 0 to N - 1, such as 0/8, got {text}")
    return int(found[1]), int(found[2])


def run(arguments: argparse.Namespace) -> int:
    """Labels, or makes a dataset of labels."""
    if not arguments.vocabulary:
        arguments.usage_error("the following arguments are required: --vocabulary")
    from cmpf.labelling.inputs import divide
    from cmpf.labelling.parquet import import_pyarrow

    import_pyarrow()
    only, count = arguments.shard or (None, 1)
    shards = divide(arguments.inputs, count=count, only=only)  # before a model is loaded
    labeler = _labeler(arguments)
    folder = _folder(arguments, labeler, count)
    report = _Report(
        total=None if any(shard.containers for shard in shards) else sum(len(s.images) for s in shards)
    )
    try:
        for shard in shards:
            _label_shard(shard, folder, labeler, arguments, report)
    except KeyboardInterrupt:
        report.bar.close()
        print(f"stopped after {report.images} images; the same command goes on", file=sys.stderr)
        return FAILED
    return report.end(arguments.output)


def _label_shard(
    shard: Shard, folder: LabelFolder, labeler: Labeler, arguments: argparse.Namespace, report: _Report
) -> None:
    from cmpf.labelling.inputs import read_shard

    if folder.path(shard.index).exists():
        report.finished += 1
        return
    with folder.shard(shard.index) as writer:
        report.earlier += writer.images
        items = read_shard(shard, writer.wants, column=arguments.column, allow_urls=arguments.allow_urls)
        for record in labeler.records(items):
            writer.add(record)
            report.add(record)
        writer.finish()


def labeler_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of Labeler that a command line names."""
    # The ensemble's SAM is part of the model.
    ensemble = ["TEST.ENSEMBLE.ENABLED", True] if arguments.ensemble else []
    return {
        "model": arguments.model,
        "vocabulary": arguments.vocabulary,
        "things": _names(arguments.things),
        "stuff": _names(arguments.stuff),
        "task": arguments.task,
        "ensemble": arguments.ensemble or None,
        "device": arguments.device,
        "weights": arguments.weights,
        "overrides": [*arguments.opts, *ensemble],
        "plugins": arguments.plugin,
        "allow_unused_weights": arguments.allow_unused_weights,
        "batch_size": arguments.batch_size,
    }


def _labeler(arguments: argparse.Namespace) -> Labeler:
    from cmpf.factory import use_threads
    from cmpf.integrations import Labeler

    labeler = Labeler(**labeler_options(arguments))
    use_threads(labeler.predictor.cfg)
    return labeler


def _folder(arguments: argparse.Namespace, labeler: Labeler, count: int) -> LabelFolder:
    from cmpf.labelling.configuration import configuration_of
    from cmpf.labelling.shards import LabelFolder

    configuration = configuration_of(
        labeler.predictor,
        labeler.vocabulary,
        model=arguments.model,
        task=arguments.task,
        ensemble=arguments.ensemble,
        opts=list(arguments.opts),
    )
    return LabelFolder(arguments.output, configuration, count=count, overwrite=arguments.overwrite)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name for name in text.split(";") if name.strip()]


class _Report:
    """What is told of a run: a bar, the first errors, and a line at the end.

    finished: shards that an earlier run has made. earlier: images of those that it has begun. images: of this run.
    errors: how many of these cannot be read.
    """

    def __init__(self, total: int | None) -> None:
        from tqdm import tqdm

        self.finished = self.earlier = self.images = self.errors = 0
        self.bar = tqdm(total=total, unit="image", disable=None)  # None: on a terminal
        self._begin = time.perf_counter()

    def add(self, record: ImageRecord) -> None:
        """Counts an image, and names it if it cannot be read."""
        self.images += 1
        self.bar.update()
        if record.error:
            self.errors += 1
            if self.errors <= SHOWN_ERRORS:
                self.bar.write(f"cmpf: {record.error}", file=sys.stderr)

    def end(self, output: Path) -> int:
        """Prints the line and gives the exit code."""
        self.bar.close()
        seconds = (time.perf_counter() - self._begin) / max(self.images, 1)
        parts = [f"{self.images:,} images"]
        if self.images:
            parts.append(f"{seconds:.2f} s each")
        if self.earlier:
            parts.append(f"{self.earlier:,} of an earlier run")
        if self.finished:
            parts.append(f"{self.finished:,} shards were there")
        if self.errors:
            parts.append(f"{self.errors:,} cannot be read: see the column error")
        print(f"{', '.join(parts)} -> {output}")
        return FAILED if self.errors else DONE
