# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Runs a job over an output folder: segments the images that are missing, then writes the dataset files of all."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

from cmpf.common.files import write_text
from cmpf.errors import CMPFError, summary
from cmpf.labelling.journal import ResultsFolder
from cmpf.labelling.pipeline import FinishedImage, Job
from cmpf.labelling.replicas import load_replicas
from cmpf.labelling.sources import Source
from cmpf.labelling.writers import FORMATS

ERRORS = "errors.csv"


@dataclass(frozen=True)
class Summary:
    """Result of a run.

    done, failed: numbers of images of this run.
    resumed: number of images finished by earlier runs.
    remaining: number of images not processed because the run was stopped.
    seconds: time for the images of this run, without loading the model.
    errors: (image, error) of all that failed.
    files: dataset files.
    """

    done: int
    failed: int
    resumed: int
    remaining: int
    seconds: float
    errors: tuple[tuple[str, str], ...]
    files: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of a run.

    request: the command line; identifies a finished run without loading its model.
    settings: what the results depend on besides the model and vocabulary; JSON-serializable.
    devices, processes: see cmpf.labelling.replicas.load_replicas.
    overwrite: whether to remove the results of earlier runs.
    """

    request: Mapping[str, Any]
    settings: Mapping[str, Any]
    devices: Sequence[str | None] = (None,)
    processes: int | None = 1
    overwrite: bool = False


def label_images(
    sources: Sequence[Source],
    job: Job,
    options: RunOptions,
    *,
    on_start: Callable[[int], None],
    on_finished: Callable[[FinishedImage], None],
    should_stop: Callable[[], bool],
) -> Summary:
    """Segments the images that are not finished yet, and updates the dataset files.

    Args:
        on_start: called with the number of images that earlier runs have finished.
        on_finished: called with each image of this run.
        should_stop: polled; whether to stop after the current batch.
    Raises:
        CMPFError: the folder is in use, cannot be written, or holds results of another configuration. Finished images
            are kept, and the same call resumes the run.
    """
    with ResultsFolder.opened(job.folder, overwrite=options.overwrite) as results:
        todo = [source for source in sources if results.done.get(source.uri) != ""]
        resumed = len(sources) - len(todo)
        on_start(resumed)
        counts = {"done": 0, "failed": 0}
        start = time.perf_counter()
        if todo or not results.has_request(options.request):
            with load_replicas(
                job, options.devices, num_images=len(todo), processes=options.processes
            ) as replicas:
                configuration = replicas.configuration(dict(options.settings))
                if options.overwrite:  # only now, because a typing error must not cost the earlier results
                    results.remove_files()
                results.save_configuration(configuration, options.request)
                start = time.perf_counter()
                named = [replace(source, name=results.name(source.uri, source.name)) for source in todo]
                for finished in _until_error(replicas.run(named, should_stop), results, job):
                    results.add(finished.entry, finished.files)
                    counts["failed" if finished.entry.record.error else "done"] += 1
                    on_finished(finished)
        seconds = time.perf_counter() - start
        return Summary(
            **counts,
            resumed=resumed,
            remaining=len(todo) - sum(counts.values()),
            seconds=seconds,
            errors=_write_errors(results, sources),
            files=tuple(_update_datasets(results, job)),
        )


def _until_error(
    images: Iterator[FinishedImage], results: ResultsFolder, job: Job
) -> Iterator[FinishedImage]:
    """Yields finished images; if an error ends the run, updates the dataset files before raising it."""
    try:
        yield from images
    except CMPFError:
        with suppress(CMPFError):  # raise the first error, not one that it has caused
            list(_update_datasets(results, job))
        raise


def _update_datasets(results: ResultsFolder, job: Job) -> Iterator[Path]:
    """Writes the dataset files that are missing or older than the journal; yields all of them."""
    if not results.journal.exists():
        return
    results.close()
    configuration = results.configuration()
    for name in job.formats:
        write_dataset = FORMATS[name].write_dataset
        if write_dataset is None:
            continue
        files = results.dataset_files(name)
        if files is None:
            try:
                files = write_dataset(results.entries(), configuration, job.folder)
                results.save_dataset_files(name, files)
            except OSError as error:
                raise CMPFError(
                    f"{job.folder}: {name} cannot be written ({summary(error)}); free disk space and run the same "
                    "command again to resume"
                ) from error
        yield from files


def _write_errors(results: ResultsFolder, sources: Sequence[Source]) -> tuple[tuple[str, str], ...]:
    """Writes errors.csv with the images that failed, or removes it if there are none; returns (image, error) pairs."""
    errors = tuple((source.uri, error) for source in sources if (error := results.done.get(source.uri)))
    path = results.folder / ERRORS
    if not errors:
        path.unlink(missing_ok=True)
        return ()
    text = StringIO()
    csv.writer(text).writerows([("image", "error"), *errors])
    write_text(path, text.getvalue().encode("utf-8", "replace").decode())
    return errors
