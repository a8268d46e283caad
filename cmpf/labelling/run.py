# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""A folder of results: what is missing is made, and dataset files of all that is there."""

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
from cmpf.labelling.pipeline import Finished, Work
from cmpf.labelling.replicas import engine
from cmpf.labelling.sources import Source
from cmpf.labelling.writers import FORMATS
from cmpf.labelling.writers.coco import Classes

ERRORS = "errors.csv"


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    done, failed: images of this run. before: finished by earlier ones. left: not begun, because it was stopped.
    seconds: for the images of this run, without loading the model. errors: (image, error) of all that failed.
    files: dataset files.
    """

    done: int
    failed: int
    before: int
    left: int
    seconds: float
    errors: tuple[tuple[str, str], ...]
    files: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run depends on beside its images.

    request: the command line's words, by which a finished run is known without its model.
    settings: what the results depend on beside model and vocabulary, as JSON has it.
    devices, processes: see cmpf.labelling.replicas.engine.
    overwrite: remove what earlier runs have left.
    """

    request: Mapping[str, Any]
    settings: Mapping[str, Any]
    devices: Sequence[str | None] = (None,)
    processes: int | None = 1
    overwrite: bool = False


def label_images(
    sources: Sequence[Source],
    work: Work,
    options: Options,
    *,
    begin: Callable[[int], None],
    tell: Callable[[Finished], None],
    stopped: Callable[[], bool],
) -> Summary:
    """Segments the images that are not finished yet, and makes the dataset files.

    Args:
        begin: called with the number of images that are finished already.
        tell: called with every image of this run when it is finished.
        stopped: whether to end after the current batch.
    Raises:
        CMPFError: the folder is in use, cannot be written, or holds results of another configuration. What was
            finished stays, and the same call goes on.
    """
    with ResultsFolder.opened(work.folder, overwrite=options.overwrite) as results:
        wanted = [source for source in sources if results.done.get(source.uri) != ""]
        before = len(sources) - len(wanted)
        begin(before)
        counts = {"done": 0, "failed": 0}
        start = time.perf_counter()
        if wanted or not results.asked_before(options.request):
            with engine(work, options.devices, images=len(wanted), processes=options.processes) as models:
                results.keep(models.configuration(dict(options.settings)), options.request)
                start = time.perf_counter()
                named = _named(wanted, results)
                for finished in _until_error(models.run(named, stopped), results, work):
                    results.add(finished.entry, finished.files)
                    counts["failed" if finished.entry.record.error else "done"] += 1
                    tell(finished)
        seconds = time.perf_counter() - start
        uris = {source.uri for source in sources}
        return Summary(
            **counts,
            before=before,
            left=len(wanted) - sum(counts.values()),
            seconds=seconds,
            errors=_write_errors(results, uris),
            files=tuple(_datasets(results, work)),
        )


def _named(sources: Sequence[Source], results: ResultsFolder) -> list[Source]:
    """With the names of earlier runs, and names of their own beside these."""
    return [replace(source, name=results.name(source.uri, source.name)) for source in sources]


def _until_error(finished: Iterator[Finished], results: ResultsFolder, work: Work) -> Iterator[Finished]:
    """An error ends the run, but the dataset files are made of what is there."""
    try:
        yield from finished
    except CMPFError:
        with suppress(CMPFError):  # the first error says it
            list(_datasets(results, work))
        raise


def _datasets(results: ResultsFolder, work: Work) -> Iterator[Path]:
    """Makes those dataset files that are older than the journal."""
    if not results.journal.exists():
        return
    results.close()
    marks = results.hidden / "datasets"
    classes = Classes.of(results.configuration())
    for name in work.formats:
        of_all = FORMATS[name].of_all
        if of_all is None:
            continue
        mark = marks / f"{name}.txt"
        changed = str(results.journal.stat().st_size)
        known = mark.read_text(encoding="utf-8").splitlines() if mark.is_file() else []
        files = [work.folder / line for line in known[1:]]
        if known[:1] != [changed] or not all(file.is_file() for file in files):
            try:
                files = of_all(results.entries(), classes, work.folder)
                own = [str(file.relative_to(work.folder)) for file in files]
                write_text(mark, "\n".join([changed, *own]) + "\n")
            except OSError as error:
                raise CMPFError(
                    f"{work.folder}: {name} cannot be written ({summary(error)}); make room, and run the same command "
                    "again: it goes on"
                ) from error
        yield from files


def _write_errors(results: ResultsFolder, uris: set[str]) -> tuple[tuple[str, str], ...]:
    """Writes a table of the images that failed; none is left where there are none."""
    errors = tuple((uri, error) for uri, error in results.done.items() if error and uri in uris)
    path = results.folder / ERRORS
    if not errors:
        path.unlink(missing_ok=True)
        return ()
    text = StringIO()
    csv.writer(text).writerows([("image", "error"), *errors])
    write_text(path, text.getvalue().encode("utf-8", "replace").decode())
    return errors
