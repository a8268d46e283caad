# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What cmpf label does: shards one after the other, or all on a cluster, and what is told of it."""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

import cmpf.integrations
from cmpf.cli.command import DONE, FAILED, TINY
from cmpf.cli.models import warn_of_photographs
from cmpf.cli.predict_options import tiling_of
from cmpf.common.cpu import keep_freed_memory
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import CMPFError
from cmpf.factory import use_threads
from cmpf.labelling.configuration import configuration_of
from cmpf.labelling.inputs import Shard, divide, read_shard
from cmpf.labelling.parquet import import_pyarrow
from cmpf.labelling.record import ImageRecord
from cmpf.labelling.remote import is_address
from cmpf.labelling.shards import LabelFolder, shards_there

SHOWN_ERRORS = 10
SHARD_IMAGES = 1000  # of a file that a cluster makes


def label(arguments: argparse.Namespace) -> int:
    """Labels what a command line names, and gives the exit code."""
    import_pyarrow()
    _check_output(arguments)
    shards = _shards(arguments)  # before a model is loaded
    labeler = _labeler(arguments)
    folder = _folder(arguments, labeler, shards[0].count)
    todo = [shard for shard in shards if not folder.has(shard.index)]
    if todo and arguments.model == TINY and not arguments.weights:
        warn_of_photographs([Path(name) for shard in todo for name in shard.images[:1]])
    countable = not any(shard.containers for shard in todo)
    report = _Report(
        finished=len(shards) - len(todo),
        total=sum(len(shard.images) for shard in todo) if countable else None,
    )
    try:
        if arguments.ray is not None:
            _label_on_ray(todo, folder, labeler.vocabulary, arguments, report)
        else:
            for shard in todo:
                _label_shard(shard, folder, labeler, arguments, report)
    except KeyboardInterrupt:
        report.bar.close()
        print(f"stopped after {report.images} images; the same command goes on", file=sys.stderr)
        return FAILED
    return report.end(arguments.output)


def _check_output(arguments: argparse.Namespace) -> None:
    """Results among the images would be inputs of the next run."""
    for given in arguments.inputs:
        if is_address(arguments.output):
            inside = f"{arguments.output}/".startswith(f"{given.rstrip('/')}/")
        else:
            folder, output = Path(given).expanduser(), arguments.output.expanduser().absolute()
            inside = folder.is_dir() and (folder.absolute() == output or folder.absolute() in output.parents)
        if inside:
            raise CMPFError(
                f"{arguments.output}: the results would lie among the images of {given}; give another --output"
            )


def _shards(arguments: argparse.Namespace) -> list[Shard]:
    """The shards to make: as many as the command says, or an earlier one, or else one, and on a cluster more."""
    if arguments.shard:
        only, count = arguments.shard
        return divide(arguments.inputs, count=count, only=only)
    there = None if arguments.overwrite else shards_there(arguments.output)
    count = arguments.shards or there
    if count is None:
        (everything,) = divide(arguments.inputs, count=1)
        if arguments.ray is None:
            return [everything]
        count = max(1, len(everything.containers), math.ceil(len(everything.images) / SHARD_IMAGES))
    return divide(arguments.inputs, count=count)


def _label_on_ray(
    shards: list[Shard],
    folder: LabelFolder,
    vocabulary: Vocabulary,
    arguments: argparse.Namespace,
    report: _Report,
) -> None:
    from cmpf.integrations.ray import label_on_ray

    options = labeler_options(arguments) | {"vocabulary": vocabulary, "things": None, "stuff": None}
    label_on_ray(
        shards,
        folder,
        options,
        address=arguments.ray or None,
        workers=arguments.workers,
        column=arguments.column,
        allow_urls=arguments.allow_urls,
        tell=report.add,
    )


def _label_shard(
    shard: Shard,
    folder: LabelFolder,
    labeler: cmpf.integrations.Labeler,
    arguments: argparse.Namespace,
    report: _Report,
) -> None:
    with folder.shard(shard.index) as writer:
        report.earlier += len(writer.seen)
        report.errors += writer.errors
        items = read_shard(shard, writer.seen, column=arguments.column, allow_urls=arguments.allow_urls)
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
        **({} if arguments.max_pixels is None else {"max_pixels": arguments.max_pixels}),
        **tiling_of(arguments),
        **_selection(arguments),
    }


def _selection(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("min_score", "max_instances", "nms")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    return {**given, "multi_label": arguments.multi_label}


def _labeler(arguments: argparse.Namespace) -> cmpf.integrations.Labeler:
    options = labeler_options(arguments)
    if arguments.ray is not None:
        options["device"] = "cpu"  # this one only tells the configuration; the workers' ones label
    keep_freed_memory()
    labeler = cmpf.integrations.Labeler(**options)
    use_threads(labeler.predictor.cfg)
    return labeler


def _folder(arguments: argparse.Namespace, labeler: cmpf.integrations.Labeler, count: int) -> LabelFolder:
    configuration = configuration_of(
        labeler.predictor,
        labeler.vocabulary,
        model=arguments.model,
        task=arguments.task,
        ensemble=arguments.ensemble,
        opts=list(arguments.opts),
        **tiling_of(arguments),
        **_selection(arguments),
    )
    return LabelFolder(arguments.output, configuration, count=count, overwrite=arguments.overwrite)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name for name in text.split(";") if name.strip()]


class _Report:
    """What is told of a run: a bar, the first errors, and a line at the end.

    finished: shards that an earlier run has made. earlier: images of those that it has begun. images: of this run.
    errors: how many of both cannot be read.
    """

    def __init__(self, *, finished: int, total: int | None) -> None:
        from tqdm import tqdm

        self.finished = finished
        self.earlier = self.images = self.errors = 0
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

    def end(self, output: Path | str) -> int:
        """Prints the line and gives the exit code."""
        self.bar.close()
        seconds = (time.perf_counter() - self._begin) / max(self.images, 1)
        parts = [f"{self.images:,} {'image' if self.images == 1 else 'images'}"]
        if self.images:
            parts.append(f"{seconds:.2f} s each")
        if self.earlier:
            parts.append(f"{self.earlier:,} of an earlier run")
        if self.finished:
            parts.append(f"{self.finished:,} {'shard was' if self.finished == 1 else 'shards were'} there")
        if self.errors:
            parts.append(f"{self.errors:,} cannot be read: see the column error")
        print(f"{', '.join(parts)} -> {output}")
        return FAILED if self.errors else DONE
