# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The output folder of cmpf label: a Parquet file for each finished shard, a journal for each unfinished one."""

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
from cmpf.labelling.configuration import (
    parse_configuration,
    read_configuration,
    save_or_compare_configuration,
)
from cmpf.labelling.journal import JournalFile
from cmpf.labelling.parquet import import_pyarrow, write_parquet
from cmpf.labelling.record import ImageRecord, from_json, to_json
from cmpf.labelling.remote import UNFINISHED, RemoteFolder, is_address
from cmpf.weights.download import cache_folder

# Readers of Parquet folders ignore names with a leading dot or underscore.
CONFIGURATION = "_label.json"
PART = re.compile(r"part-\d+-of-\d+\.parquet")


def saved_shard_count(output: Path | str) -> int | None:
    """The number of shards of an earlier run; None = there was none.

    Args:
        output: a folder, or an address that fsspec knows.
    """
    if is_address(output):
        remote = RemoteFolder(str(output))
        if CONFIGURATION not in remote.names():
            return None
        saved = parse_configuration(remote.read(CONFIGURATION), f"{remote.address}/{CONFIGURATION}")
    else:
        path = Path(output) / CONFIGURATION
        if not path.exists():
            return None
        saved = read_configuration(path)
    count = saved.get("shards")
    return count if isinstance(count, int) else None


class LabelFolder:
    """A folder of shards with one configuration.

    Args:
        output: a folder, or an address that fsspec knows. Shards of the latter are made in this machine's cache folder
            and uploaded when they are finished.
        configuration: see run_configuration; also stored in each Parquet file.
        count: number of shards; part of the configuration.
        overwrite: whether to remove the results of earlier runs.
    Raises:
        CMPFError: the folder holds results of another configuration, or Parquet files that are not from cmpf label.
        UnreachableError: the address cannot be reached or written.
    """

    def __init__(
        self, output: Path | str, configuration: Mapping[str, Any], *, count: int, overwrite: bool = False
    ) -> None:
        import_pyarrow()  # fail early
        self.output, self.count = output, count
        self.configuration = {**configuration, "shards": count}
        if not is_address(output):
            self.folder, self._remote = Path(output), None
            self._check_configuration({path.name for path in self.folder.glob("*.parquet")}, overwrite)
            return
        self._remote = RemoteFolder(str(output))
        digest = hashlib.sha256(self._remote.address.encode()).hexdigest()[:16]
        self.folder = cache_folder() / "label" / digest
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder.with_suffix(".lock")):  # against other processes on this machine
            self._remote_names = self._remote.names()
            if overwrite:
                for name in sorted(self._remote_names):
                    if name == CONFIGURATION or PART.fullmatch(name):
                        self._remote.remove(name)
                        self._remote_names.remove(name)
            self._fetch_configuration()
            self._check_configuration(self._remote_names, overwrite)
            if CONFIGURATION not in self._remote_names:
                self._remote.put(self.folder / CONFIGURATION, CONFIGURATION)
            for part in self.folder.glob("part-*.parquet"):  # whose upload failed in an earlier run
                with suppress(CMPFError), self._locked(part):  # unless another process uploads it
                    self._publish(part)

    def _check_configuration(self, names: set[str], overwrite: bool) -> None:
        """Saves the configuration, or compares it with the saved one.

        Args:
            names: the files in the output folder.
        """
        if not (self.folder / CONFIGURATION).exists() and any(name.endswith(".parquet") for name in names):
            raise CMPFError(
                f"{self.output} holds Parquet files of something else: there is no {CONFIGURATION}; give another "
                "--output"
            )
        try:
            if overwrite:
                _remove_results(self.folder)
            save_or_compare_configuration(
                self.folder / CONFIGURATION,
                self.configuration,
                fix="give another --output, or --overwrite to start over",
                folder=self.output,
            )
        except OSError as error:
            raise CMPFError(
                f"{self.folder}: cannot be written ({error.strerror}); give another --output"
            ) from error

    def _fetch_configuration(self) -> None:
        """Copies the remote configuration to the cache folder; clears the cache folder if it had a different one."""
        assert self._remote is not None
        path = self.folder / CONFIGURATION
        remote = self._remote.read(CONFIGURATION) if CONFIGURATION in self._remote_names else b""
        if not remote or not path.exists() or path.read_bytes() != remote:
            shutil.rmtree(self.folder, ignore_errors=True)
        if remote and not path.exists():
            write_text(path, remote.decode("utf-8", "replace"))

    def path(self, index: int) -> Path:
        """The local path of a shard's Parquet file."""
        return self.folder / f"part-{index:05}-of-{self.count:05}.parquet"

    def has(self, index: int) -> bool:
        """Whether a shard is finished."""
        path = self.path(index)
        return path.exists() if self._remote is None else path.name in self._remote_names

    def finished_uris(self, index: int) -> set[str]:
        """The URIs of the finished images of an unfinished shard."""
        if not self._journal(index).exists():
            return set()
        with self.shard(index) as writer:
            return writer.finished_uris

    @contextmanager
    def shard(self, index: int) -> Iterator[ShardWriter]:
        """Opens an unfinished shard for writing; it keeps the images that earlier runs have finished.

        Raises:
            CMPFError: another process has locked it.
        """
        path = self.path(index)
        with self._locked(path):
            writer = ShardWriter(path, self._journal(index), self.configuration, self._publish)
            try:
                yield writer
            finally:
                writer.close()

    def _journal(self, index: int) -> Path:
        return self.folder / UNFINISHED / f"{self.path(index).stem}.jsonl"

    def _publish(self, part: Path) -> None:
        """Uploads a Parquet file if the output is remote, and removes the local file."""
        if self._remote is not None:
            if part.name not in self._remote_names:
                self._remote.put(part, part.name)
            self._remote_names.add(part.name)
            part.unlink()

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
    """Writes one shard: appends records to a journal, then converts the journal to a Parquet file.

    finished_uris: URIs of the finished images.
    errors: number of finished images that could not be read.

    Args:
        path: the Parquet file.
        journal: the journal file.
        configuration: metadata of the Parquet file.
        publish: called with the path of the finished Parquet file.
    """

    def __init__(
        self, path: Path, journal: Path, configuration: Mapping[str, Any], publish: Callable[[Path], None]
    ) -> None:
        self.path, self.journal, self.configuration, self._publish = path, journal, configuration, publish
        self.errors = 0
        self.finished_uris: set[str] = set()
        self._journal_file = JournalFile(journal)
        if not path.exists():
            for line in self._journal_file.complete_lines():
                self._register(from_json(line.decode("utf-8"), str(journal)))

    def add(self, record: ImageRecord) -> None:
        """Adds a record; ignores one of a finished image."""
        if record.uri in self.finished_uris:
            return
        self._journal_file.append((to_json(record) + "\n").encode("utf-8"))
        self._register(record)

    def finish(self) -> None:
        """Writes and publishes the Parquet file, and removes the journal."""
        from cmpf import __version__

        self.close()
        records = self._records() if self.journal.exists() else iter(())
        try:
            write_parquet(self.path, records, {"cmpf": __version__, **self.configuration})
        except OSError as error:
            raise CMPFError(
                f"{self.path}: cannot be written ({summary(error)}); free disk space and run the same command "
                "again to resume"
            ) from error
        self.journal.unlink(missing_ok=True)
        self._publish(self.path)

    def close(self) -> None:
        """Closes the journal, which the next run resumes."""
        self._journal_file.close()

    def _register(self, record: ImageRecord) -> None:
        self.finished_uris.add(record.uri)
        self.errors += bool(record.error)

    def _records(self) -> Iterator[ImageRecord]:
        with self.journal.open(encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                yield from_json(line, f"{self.journal}, line {number}")


def _remove_results(folder: Path) -> None:
    """Removes the files of cmpf label in a folder; leaves all other files."""
    for part in folder.glob("part-*-of-*.parquet"):
        part.unlink()
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    (folder / CONFIGURATION).unlink(missing_ok=True)
