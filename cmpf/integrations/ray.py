# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Labels images on a Ray cluster: readers -> a pool of Labelers -> this process, which writes the shards.

Rows and their order are the same as with a single process.
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
from cmpf.integrations.ray_cluster import (
    READER_CPUS,
    WorkerResources,
    connected,
    wait_for_resources,
    worker_resources,
)
from cmpf.labelling.inputs import Shard, read_shard
from cmpf.labelling.parquet import table_to_records
from cmpf.labelling.record import ImageRecord
from cmpf.labelling.shards import LabelFolder

MAX_RETRIES = 3  # of a block whose worker died; after that, the block itself probably kills workers
BLOCK_BYTES = 4 * 2**20  # bytes of images per block, which are processed again if a worker dies


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
    """Labels the shards that the folder lacks.

    Args:
        shards: shards of images.
        folder: receives the labels.
        options: keyword arguments of Labeler, with which each worker loads its model once.
        address: address of the cluster; None = that of RAY_ADDRESS, or one that runs on this machine, else a new one.
        workers: number of Labelers; None = one per GPU, or one per CPU if there are no GPUs.
        column: see cmpf.labelling.inputs.read_shard.
        allow_urls: see cmpf.labelling.inputs.read_shard.
        tell: called with each record after it was written.
    Raises:
        CMPFError: Ray is not installed, there is no cluster, no worker can start within START_SECONDS, or a worker
            raised it.
        UnreachableError: see read_shard.
    """
    todo = [shard for shard in shards if not folder.has(shard.index)]
    if not todo:
        return
    with connected(address) as ray:
        resources = worker_resources(ray.cluster_resources(), workers, on_gpu=options.get("device") != "cpu")
        wait_for_resources(ray, resources)
        rows = _rows(ray, todo, folder, options, resources, column, allow_urls)
        _write(rows, todo, folder, tell)


def _rows(
    ray: Any,
    todo: Sequence[Shard],
    folder: LabelFolder,
    options: Mapping[str, Any],
    resources: WorkerResources,
    column: str | None,
    allow_urls: UrlPolicy,
) -> Iterator[tuple[int, ImageRecord]]:
    """Yields the shard index and record of every image, in the order of `todo`."""
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
                min_size=1, max_size=resources.workers, initial_size=resources.workers
            ),
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
            max_task_retries=MAX_RETRIES,
        )
        try:
            for table in labels.iter_batches(batch_size=None, batch_format="pyarrow"):
                yield from zip(table.column("shard").to_pylist(), table_to_records(table), strict=True)
        except ray.exceptions.RayError as error:
            raise _unwrap(error) from error


def _unwrap(error: BaseException) -> CMPFError:
    """The error of a reader or worker inside Ray's error."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, CMPFError):
        return cause
    # Ray's error has no cause if a worker failed to start; the original error is the last one in its text.
    messages = re.findall(r"^cmpf\.[\w.]+: (.+)$", str(error), flags=re.MULTILINE)
    if messages:
        return CMPFError(f"a worker: {messages[-1]}")
    return CMPFError(f"a worker failed: {summary(cause or error, 500)}")


def _working_folder(shards: Sequence[Shard]) -> str | None:
    """The current folder if some paths are relative to it, because workers run elsewhere; otherwise None."""
    names = [name for shard in shards for name in (*shard.images, *shard.containers)]
    return None if all("://" in name or os.path.isabs(name) for name in names) else os.getcwd()


def _read(tables: Any, *, folder: str | None, column: str | None, allow_urls: UrlPolicy) -> Iterator[Any]:
    """Yields the images of shards as tables of one row, which Ray combines to blocks."""
    import pyarrow as pa

    if folder is not None:
        try:
            os.chdir(folder)  # the process does nothing else
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
    """Writes rows to their shards; a shard is finished when the first row of a later one arrives."""
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
    """Sets Ray Data's options within the block: no progress output, ordered rows, small blocks, original exceptions."""
    context = ray.data.DataContext.get_current()
    settings = {
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        "raise_original_map_exception": True,
        "target_max_block_size": BLOCK_BYTES,
    }
    before = {name: getattr(context, name) for name in settings}
    preserve_order = context.execution_options.preserve_order
    context.execution_options.preserve_order = True
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # errors are raised instead
    for name, value in settings.items():
        setattr(context, name, value)
    try:
        yield
    finally:
        logger.setLevel(level)
        context.execution_options.preserve_order = preserve_order
        for name, value in before.items():
            setattr(context, name, value)
