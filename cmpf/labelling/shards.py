# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The output of cmpf label: a Parquet file a shard, whole or not there, and a journal of the one that is being made."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cmpf.errors import CMPFError
from cmpf.labelling.configuration import keep_configuration, read_configuration
from cmpf.labelling.journal_file import JournalFile
from cmpf.labelling.parquet import import_pyarrow, write_parquet
from cmpf.labelling.record import ImageRecord, from_json, to_json

# Readers of Parquet folders pass over names that begin with a dot or an underscore.
CONFIGURATION, UNFINISHED = "_label.json", "_unfinished"


def shards_there(folder: Path) -> int | None:
    """Into how many shards an earlier run has divided its inputs; None = there was none."""
    if not (folder / CONFIGURATION).exists():
        return None
    count = read_configuration(folder / CONFIGURATION).get("shards")
    return count if isinstance(count, int) else None


class LabelFolder:
    """A folder of shards that were made with one configuration.

    Args:
        configuration: see configuration_of; every file keeps it, too.
        count: number of shards, a part of the configuration.
        overwrite: begin anew: what an earlier run has left is removed.
    Raises:
        CMPFError: the folder holds results of another configuration, or Parquet files of something else.
    """

    def __init__(
        self, folder: Path, configuration: Mapping[str, Any], *, count: int, overwrite: bool = False
    ) -> None:
        import_pyarrow()  # before anything is computed
        self.folder, self.count = folder, count
        self.configuration = {**configuration, "shards": count}
        if not (folder / CONFIGURATION).exists() and any(folder.glob("*.parquet")):
            raise CMPFError(
                f"{folder} holds Parquet files of something else: there is no {CONFIGURATION}; give another --output"
            )
        try:
            if overwrite:
                _empty(folder)
            keep_configuration(
                folder / CONFIGURATION,
                self.configuration,
                fix="give another --output, or --overwrite to begin anew",
            )
        except OSError as error:
            raise CMPFError(
                f"{folder}: cannot be written ({error.strerror}); give another --output"
            ) from error

    def path(self, index: int) -> Path:
        """Where the file of a shard is, or will be."""
        return self.folder / f"part-{index:05}-of-{self.count:05}.parquet"

    def begun(self, index: int) -> set[str]:
        """The uris of the images that are done of a shard that is not."""
        if not self._journal(index).exists():
            return set()
        with self.shard(index) as writer:
            return writer.seen

    def _journal(self, index: int) -> Path:
        return self.folder / UNFINISHED / f"{self.path(index).stem}.jsonl"

    @contextmanager
    def shard(self, index: int) -> Iterator[ShardWriter]:
        """A shard that is not there yet, to go on with.

        Raises:
            CMPFError: another process makes it now.
        """
        path, journal = self.path(index), self._journal(index)
        journal.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(journal.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise CMPFError(f"{path}: another process makes this shard; wait for it or stop it") from error
        try:
            writer = ShardWriter(path, journal, self.configuration)
            try:
                yield writer
            finally:
                writer.close()
        finally:
            lock.release()


class ShardWriter:
    """One shard: records go to its journal, and from there into its file.

    seen: uris of the images that are done. errors: how many of these could not be read.
    """

    def __init__(self, path: Path, journal: Path, configuration: Mapping[str, Any]) -> None:
        self.path, self.journal, self.configuration = path, journal, configuration
        self.errors = 0
        self.seen: set[str] = set()
        self._lines = JournalFile(journal)
        if not path.exists():
            for line in self._lines.whole_lines():
                self._count(from_json(line.decode("utf-8"), str(journal)))

    def wants(self, uri: str) -> bool:
        """Whether an image is not done yet."""
        return uri not in self.seen

    def add(self, record: ImageRecord) -> None:
        """Keeps a record; an image that is done stays as it is."""
        if not self.wants(record.uri):
            return
        self._lines.append((to_json(record) + "\n").encode("utf-8"))
        self._count(record)

    def finish(self) -> None:
        """Makes the file of the shard and removes its journal."""
        from cmpf import __version__

        self.close()
        records = self._records() if self.journal.exists() else iter(())
        write_parquet(self.path, records, {"cmpf": __version__, **self.configuration})
        self.journal.unlink(missing_ok=True)

    def close(self) -> None:
        """Stops; the journal stays, and the next run goes on with it."""
        self._lines.close()

    def _count(self, record: ImageRecord) -> None:
        self.seen.add(record.uri)
        self.errors += bool(record.error)

    def _records(self) -> Iterator[ImageRecord]:
        with self.journal.open(encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                yield from_json(line, f"{self.journal}, line {number}")


def _empty(folder: Path) -> None:
    """Removes what cmpf label has written into a folder, and nothing else."""
    for part in folder.glob("part-*-of-*.parquet"):
        part.unlink()
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    (folder / CONFIGURATION).unlink(missing_ok=True)
