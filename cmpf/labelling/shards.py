# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The output of cmpf label: a Parquet file per shard, whole or not there, and a journal of the one being made."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cmpf.common.files import write_text
from cmpf.errors import CMPFError, summary
from cmpf.labelling.configuration import configuration_in, keep_configuration, read_configuration
from cmpf.labelling.journal import JournalFile
from cmpf.labelling.parquet import import_pyarrow, write_parquet
from cmpf.labelling.record import ImageRecord, from_json, to_json
from cmpf.labelling.remote import UNFINISHED, RemoteFolder, is_address
from cmpf.weights.download import cache_folder

# Readers of Parquet folders pass over names that begin with a dot or an underscore.
CONFIGURATION = "_label.json"
PART = re.compile(r"part-\d+-of-\d+\.parquet")


def shards_there(output: Path | str) -> int | None:
    """Into how many shards an earlier run has divided its inputs; None = there was none.

    Args:
        output: a folder, or an address that fsspec knows.
    """
    if is_address(output):
        remote = RemoteFolder(str(output))
        if CONFIGURATION not in remote.names():
            return None
        there = configuration_in(remote.read(CONFIGURATION), f"{remote.address}/{CONFIGURATION}")
    else:
        path = Path(output) / CONFIGURATION
        if not path.exists():
            return None
        there = read_configuration(path)
    count = there.get("shards")
    return count if isinstance(count, int) else None


class LabelFolder:
    """A folder of shards that were made with one configuration.

    Args:
        output: where it is, or an address that fsspec knows. What is unfinished of the latter lies in the cache of this
            machine; shards appear there whole.
        configuration: see configuration_of; every file keeps it, too.
        count: number of shards, a part of the configuration.
        overwrite: begin anew: what an earlier run has left is removed.
    Raises:
        CMPFError: the folder holds results of another configuration, or Parquet files of something else.
        UnreachableError: the address cannot be asked or written.
    """

    def __init__(
        self, output: Path | str, configuration: Mapping[str, Any], *, count: int, overwrite: bool = False
    ) -> None:
        import_pyarrow()  # before anything is computed
        self.output, self.count = output, count
        self.configuration = {**configuration, "shards": count}
        if not is_address(output):
            self.folder, self._remote = Path(output), None
            self._begin({path.name for path in self.folder.glob("*.parquet")}, overwrite)
            return
        self._remote = RemoteFolder(str(output))
        digest = hashlib.sha256(self._remote.address.encode()).hexdigest()[:16]
        self.folder = cache_folder() / "label" / digest
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder.with_suffix(".lock")):  # from other tasks on this machine
            self._there = self._remote.names()
            if overwrite:
                for name in sorted(self._there):
                    if name == CONFIGURATION or PART.fullmatch(name):
                        self._remote.remove(name)
                        self._there.remove(name)
            self._fetch_configuration()
            self._begin(self._there, overwrite)
            if CONFIGURATION not in self._there:
                self._remote.put(self.folder / CONFIGURATION, CONFIGURATION)
            for part in self.folder.glob("part-*.parquet"):  # that could not be brought there
                with suppress(CMPFError), self._locked(part):  # unless another task does it now
                    self._publish(part)

    def _begin(self, names: set[str], overwrite: bool) -> None:
        """Makes sure that what is there is of the same configuration."""
        if not (self.folder / CONFIGURATION).exists() and any(name.endswith(".parquet") for name in names):
            raise CMPFError(
                f"{self.output} holds Parquet files of something else: there is no {CONFIGURATION}; give another "
                "--output"
            )
        try:
            if overwrite:
                _empty(self.folder)
            keep_configuration(
                self.folder / CONFIGURATION,
                self.configuration,
                fix="give another --output, or --overwrite to begin anew",
                folder=self.output,
            )
        except OSError as error:
            raise CMPFError(
                f"{self.folder}: cannot be written ({error.strerror}); give another --output"
            ) from error

    def _fetch_configuration(self) -> None:
        """Brings the configuration at the address here; what is here of another one, or of none, goes."""
        assert self._remote is not None
        own = self.folder / CONFIGURATION
        there = self._remote.read(CONFIGURATION) if CONFIGURATION in self._there else b""
        if not there or not own.exists() or own.read_bytes() != there:
            shutil.rmtree(self.folder, ignore_errors=True)
        if there and not own.exists():
            write_text(own, there.decode("utf-8", "replace"))

    def path(self, index: int) -> Path:
        """Where the file of a shard is made."""
        return self.folder / f"part-{index:05}-of-{self.count:05}.parquet"

    def has(self, index: int) -> bool:
        """Whether a shard is done."""
        path = self.path(index)
        return path.exists() if self._remote is None else path.name in self._there

    def _publish(self, part: Path) -> None:
        if self._remote is not None:
            if part.name not in self._there:
                self._remote.put(part, part.name)
            self._there.add(part.name)
            part.unlink()

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
        path = self.path(index)
        with self._locked(path):
            writer = ShardWriter(path, self._journal(index), self.configuration, self._publish)
            try:
                yield writer
            finally:
                writer.close()

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        lock = FileLock(self.folder / UNFINISHED / f"{path.stem}.lock")
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise CMPFError(f"{path}: another process makes this shard; wait for it or stop it") from error
        try:
            yield
        finally:
            lock.release()


class ShardWriter:
    """One shard: records go to its journal, and from there into its file, which `publish` brings to its place.

    seen: uris of the images that are done. errors: how many of these could not be read.
    """

    def __init__(
        self, path: Path, journal: Path, configuration: Mapping[str, Any], publish: Callable[[Path], None]
    ) -> None:
        self.path, self.journal, self.configuration, self._publish = path, journal, configuration, publish
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
        try:
            write_parquet(self.path, records, {"cmpf": __version__, **self.configuration})
        except OSError as error:
            raise CMPFError(
                f"{self.path}: cannot be written ({summary(error)}); make room, and run the same command again: it "
                "goes on"
            ) from error
        self.journal.unlink(missing_ok=True)
        self._publish(self.path)

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
