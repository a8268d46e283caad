# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Labels on a cluster with Ray Data: read -> a pool of Labelers -> the shards' files, which this process writes.

The same images give the same rows, in the same order, as in one process.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from cmpf.errors import CMPFError, summary
from cmpf.formats.addresses import UrlPolicy
from cmpf.integrations.labeler import Labeler
from cmpf.integrations.ray_cluster import READER_CPUS, Place, connected, wait_for_place, worker_place
from cmpf.labelling.inputs import Shard, read_shard
from cmpf.labelling.parquet import table_to_records
from cmpf.labelling.record import ImageRecord
from cmpf.labelling.shards import LabelFolder

TRIES = 3  # of a block whose worker died; more would mean that it is the block that kills workers
BLOCK_BYTES = 4 * 2**20  # of images that a worker gets at a time, and loses if it dies


def label_on_ray(
    shards: Iterable[Shard],
    folder: LabelFolder,
    options: Mapping[str, Any],
    *,
    address: str | None = None,
    workers: int | None = None,
    column: str | None = None,
    allow_urls: UrlPolicy = False,
    tell: Callable[[ImageRecord], None] = lambda record: None,
) -> None:
    """Makes those shards that are not there.

    Args:
        options: keyword arguments of Labeler; each worker loads its model with them, once.
        address: of the cluster; None = the one that RAY_ADDRESS names or that runs here, or else one of this machine is
            started.
        workers: Labelers at a time; None = one per GPU, or one per CPU where there is no GPU.
        column, allow_urls: see cmpf.labelling.inputs.read_shard.
        tell: is given each record once it is kept.
    Raises:
        CMPFError: Ray is not installed, there is no cluster, it has no place for a worker within START_SECONDS, or
            what a worker raises. UnreachableError: see read_shard.
    """
    todo = [shard for shard in shards if not folder.has(shard.index)]
    if not todo:
        return
    with connected(address) as ray:
        place = worker_place(ray.cluster_resources(), workers, on_gpu=options.get("device") != "cpu")
        wait_for_place(ray, place)
        rows = _rows(ray, todo, folder, options, place, column, allow_urls)
        _write(rows, todo, folder, tell)


def _rows(
    ray: Any,
    todo: Sequence[Shard],
    folder: LabelFolder,
    options: Mapping[str, Any],
    place: Place,
    column: str | None,
    allow_urls: UrlPolicy,
) -> Iterator[tuple[int, ImageRecord]]:
    """Shard and record of every image, shard after shard in the order of `todo`."""
    import pyarrow as pa

    tables = [
        pa.table(
            {
                "index": [shard.index],
                "count": [shard.count],
                "whole": [shard.whole_containers],
                "images": pa.array([list(map(os.fsencode, shard.images))], pa.list_(pa.binary())),
                "containers": pa.array([list(map(os.fsencode, shard.containers))], pa.list_(pa.binary())),
                "done": pa.array([sorted(folder.finished_uris(shard.index))], pa.list_(pa.string())),
            }
        )
        for shard in todo
    ]
    with _settings(ray):
        images = ray.data.from_arrow(tables).map_batches(
            _read,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=READER_CPUS,
            fn_kwargs={"folder": _working_folder(todo), "column": column, "allow_urls": allow_urls},
        )
        labels = images.map_batches(
            Labeler,
            fn_constructor_kwargs=dict(options),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                min_size=1, max_size=place.workers, initial_size=place.workers
            ),
            num_cpus=place.cpus,
            num_gpus=place.gpus,
            max_task_retries=TRIES,
        )
        try:
            for table in labels.iter_batches(batch_size=None, batch_format="pyarrow"):
                yield from zip(table.column("shard").to_pylist(), table_to_records(table), strict=True)
        except ray.exceptions.RayError as error:
            raise _plain(error) from error


def _plain(error: BaseException) -> CMPFError:
    """What a reader or worker raised, without the way that it took through Ray."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, CMPFError):
        return cause
    # An error of a worker's start is in the text alone, last.
    own = re.findall(r"^cmpf\.[\w.]+: (.+)$", str(error), flags=re.MULTILINE)
    return CMPFError(f"a worker: {own[-1]}" if own else f"a worker failed: {summary(cause or error, 500)}")


def _working_folder(shards: Sequence[Shard]) -> str | None:
    """The folder that paths begin in, where some are relative: workers run elsewhere."""
    names = [name for shard in shards for name in (*shard.images, *shard.containers)]
    return None if all("://" in name or os.path.isabs(name) for name in names) else os.getcwd()


def _read(tables: Any, *, folder: str | None, column: str | None, allow_urls: UrlPolicy) -> Iterator[Any]:
    """The images of shards, as tables of one row, which Ray joins to blocks."""
    import pyarrow as pa

    if folder is not None:
        try:
            os.chdir(folder)  # of a process that does nothing else meanwhile
        except OSError as error:
            raise CMPFError(
                f"{folder}: a worker cannot see this folder ({error}); give absolute paths"
            ) from error
    for row in tables.to_pylist():
        images, containers = (tuple(map(os.fsdecode, row[name])) for name in ("images", "containers"))
        shard = Shard(row["index"], row["count"], images, containers, row["whole"])
        for item in read_shard(shard, set(row["done"]), column=column, allow_urls=allow_urls):
            yield pa.table(
                {
                    "shard": [shard.index],
                    "uri": [item.uri],
                    "image": pa.array([item.content], pa.large_binary()),
                    "error": [item.error],
                }
            )


def _write(
    rows: Iterator[tuple[int, ImageRecord]],
    todo: Sequence[Shard],
    folder: LabelFolder,
    tell: Callable[[ImageRecord], None],
) -> None:
    """Brings rows into the files of their shards; a shard is finished when the first row of a later one comes."""
    row = next(rows, None)
    for shard in todo:
        with folder.shard(shard.index) as writer:
            while row is not None and row[0] == shard.index:
                writer.add(row[1])
                tell(row[1])
                row = next(rows, None)
            writer.finish()


@contextmanager
def _settings(ray: Any) -> Iterator[None]:
    """Ray Data's settings for the block: quiet, in order, small blocks; errors are those that the functions raise."""
    context = ray.data.DataContext.get_current()
    settings = {
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        "raise_original_map_exception": True,
        "target_max_block_size": BLOCK_BYTES,
    }
    before = {name: getattr(context, name) for name in settings}
    in_order, context.execution_options.preserve_order = context.execution_options.preserve_order, True
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what fails is raised
    for name, value in settings.items():
        setattr(context, name, value)
    try:
        yield
    finally:
        logger.setLevel(level)
        context.execution_options.preserve_order = in_order
        for name, value in before.items():
            setattr(context, name, value)
