# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Implements cmpf label: labels shards in this process or with Ray, and reports progress."""

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
from cmpf.cli.predict_options import split_names, tiling_options
from cmpf.common.cpu import keep_freed_memory
from cmpf.common.files import is_folder
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import CMPFError
from cmpf.factory import use_threads
from cmpf.labelling.configuration import run_configuration
from cmpf.labelling.inputs import Shard, divide, read_shard
from cmpf.labelling.parquet import import_pyarrow
from cmpf.labelling.record import ImageRecord
from cmpf.labelling.remote import is_address
from cmpf.labelling.shards import LabelFolder, saved_shard_count

MAX_SHOWN_ERRORS = 10
IMAGES_PER_RAY_SHARD = 1000


def label(arguments: argparse.Namespace) -> int:
    """Labels the inputs of a command line; returns the exit code."""
    import_pyarrow()
    _check_output(arguments)
    shards = _shards(arguments)  # reports wrong paths before a model is loaded
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
        print(f"stopped after {report.images} images; run the same command again to resume", file=sys.stderr)
        return FAILED
    return report.end(arguments.output)


def _check_output(arguments: argparse.Namespace) -> None:
    """Raises CMPFError if the output is inside an input folder, where it would be an input of the next run."""
    for given in arguments.inputs:
        if is_address(arguments.output):
            inside = f"{arguments.output}/".startswith(f"{given.rstrip('/')}/")
        else:
            folder, output = Path(given).expanduser(), arguments.output.expanduser().absolute()
            inside = is_folder(given) and (folder.absolute() == output or folder.absolute() in output.parents)
        if inside:
            raise CMPFError(
                f"{arguments.output}: the output is inside the input {given}; give another --output"
            )


def _shards(arguments: argparse.Namespace) -> list[Shard]:
    """The shards to label.

    Their number is that of --shard or --shards, else that of an earlier run, else 1; with --ray, one per container or
    IMAGES_PER_RAY_SHARD images.
    """
    if arguments.shard:
        only, count = arguments.shard
        return divide(arguments.inputs, count=count, only=only)
    saved_count = None if arguments.overwrite else saved_shard_count(arguments.output)
    count = arguments.shards or saved_count
    if count is None:
        (everything,) = divide(arguments.inputs, count=1)
        if arguments.ray is None:
            return [everything]
        count = max(1, len(everything.containers), math.ceil(len(everything.images) / IMAGES_PER_RAY_SHARD))
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
        report.resumed += len(writer.finished_uris)
        report.errors += writer.errors
        items = read_shard(
            shard, writer.finished_uris, column=arguments.column, allow_urls=arguments.allow_urls
        )
        for record in labeler.records(items):
            writer.add(record)
            report.add(record)
        writer.finish()


def labeler_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of Labeler."""
    # The SAM of the ensemble is loaded with the model.
    ensemble = ["TEST.ENSEMBLE.ENABLED", True] if arguments.ensemble else []
    return {
        "model": arguments.model,
        "vocabulary": arguments.vocabulary,
        "things": split_names(arguments.things),
        "stuff": split_names(arguments.stuff),
        "task": arguments.task,
        "ensemble": arguments.ensemble or None,
        "device": arguments.device,
        "weights": arguments.weights,
        "overrides": [*arguments.opts, *ensemble],
        "plugins": arguments.plugin,
        "allow_unused_weights": arguments.allow_unused_weights,
        "batch_size": arguments.batch_size,
        **({} if arguments.max_pixels is None else {"max_pixels": arguments.max_pixels}),
        **tiling_options(arguments),
        **_selection(arguments),
    }


def _selection(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("min_score", "max_instances", "nms")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    return {**given, "multi_label": arguments.multi_label}


def _labeler(arguments: argparse.Namespace) -> cmpf.integrations.Labeler:
    options = labeler_options(arguments)
    if arguments.ray is not None:
        options["device"] = "cpu"  # needed only for the configuration; the Ray workers load their own
    keep_freed_memory()
    labeler = cmpf.integrations.Labeler(**options)
    use_threads(labeler.predictor.cfg)
    return labeler


def _folder(arguments: argparse.Namespace, labeler: cmpf.integrations.Labeler, count: int) -> LabelFolder:
    configuration = run_configuration(
        labeler.predictor,
        labeler.vocabulary,
        model=arguments.model,
        task=arguments.task,
        ensemble=arguments.ensemble,
        opts=list(arguments.opts),
        **tiling_options(arguments),
        **_selection(arguments),
    )
    return LabelFolder(arguments.output, configuration, count=count, overwrite=arguments.overwrite)


class _Report:
    """Reports a run: a progress bar, the first errors, and a summary line.

    finished: number of shards finished by earlier runs.
    resumed: number of images that earlier runs have finished in unfinished shards.
    images: number of images of this run.
    errors: number of `resumed` and `images` that cannot be read.
    """

    def __init__(self, *, finished: int, total: int | None) -> None:
        from tqdm import tqdm

        self.finished = finished
        self.resumed = self.images = self.errors = 0
        # disable=None: no bar unless stderr is a terminal.
        self.bar = tqdm(total=total, unit="image", disable=None)
        self._start = time.perf_counter()

    def add(self, record: ImageRecord) -> None:
        """Counts an image, and prints its error."""
        self.images += 1
        self.bar.update()
        if record.error:
            self.errors += 1
            if self.errors <= MAX_SHOWN_ERRORS:
                self.bar.write(f"cmpf: {record.error}", file=sys.stderr)

    def end(self, output: Path | str) -> int:
        """Prints the summary line and returns the exit code."""
        self.bar.close()
        seconds = (time.perf_counter() - self._start) / max(self.images, 1)
        parts = [f"{self.images:,} {'image' if self.images == 1 else 'images'}"]
        if self.images:
            parts.append(f"{seconds:.2f} s each")
        if self.resumed:
            parts.append(f"{self.resumed:,} from an earlier run")
        if self.finished:
            parts.append(f"{self.finished:,} {'shard' if self.finished == 1 else 'shards'} already finished")
        if self.errors:
            parts.append(f"{self.errors:,} unreadable (see column error)")
        print(f"{', '.join(parts)} -> {output}")
        return FAILED if self.errors else DONE
