# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The output folder of cmpf predict, with a journal of finished images that makes runs resumable.

An image gets a line in the journal once all of its files are written.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from cmpf.common.files import TEMPORARY, write_text
from cmpf.errors import CMPFError, DatasetError
from cmpf.labelling.configuration import read_configuration, save_or_compare_configuration
from cmpf.labelling.record import ImageRecord, record_from_dict, to_json

THUMBNAILS = "thumbnails"  # subfolder of the small overlays
HIDDEN = ".cmpf"  # subfolder of the output folder
JOURNAL, MANIFEST, REQUEST, LOCK = "journal.jsonl", "manifest.json", "request.json", "lock"
# A file NAME.txt for each format: the size of the journal, and the dataset files made of it.
DATASETS = "datasets"


@dataclass(frozen=True)
class Entry:
    """A finished image: its record; its path and the prefix of its result files, see cmpf.labelling.sources.Source."""

    record: ImageRecord
    file_name: str
    name: str


class ResultsFolder:
    """The output folder of one or several runs with the same configuration. Create it with `opened`.

    done: uri -> error message of each finished image, "" = success.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hidden = folder / HIDDEN
        self.journal = self.hidden / JOURNAL
        self.done: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._used_names: set[str] = set()
        self._file = JournalFile(self.journal)

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, *, overwrite: bool = False) -> Iterator[ResultsFolder]:
        """Creates the folder if necessary and locks it for this process.

        Args:
            overwrite: whether to ignore earlier runs, whose files `remove_files` removes.
        Raises:
            CMPFError: another process has locked it, or it cannot be written.
        """
        results = cls(folder)
        try:
            results.hidden.mkdir(parents=True, exist_ok=True)
            lock = FileLock(results.hidden / LOCK)
            lock.acquire(timeout=0)
        except Timeout as error:
            raise CMPFError(
                f"{folder}: another run writes into this folder; wait for its end, or give another --output"
            ) from error
        except OSError as error:
            raise CMPFError(
                f"{folder}: cannot be written ({error.strerror}); give another --output"
            ) from error
        try:
            if not overwrite:
                results._resume()
            yield results
        finally:
            results.close()
            lock.release()

    def has_request(self, request: Mapping[str, Any]) -> bool:
        """Whether the last run had the same command line."""
        try:
            return bool(json.loads((self.hidden / REQUEST).read_text(encoding="utf-8")) == request)
        except (OSError, ValueError):
            return False

    def remove_files(self) -> None:
        """Removes the files of images and datasets that earlier runs have listed, and the lists; no other files."""
        dataset_lists = list((self.hidden / DATASETS).glob("*.txt"))
        listed = [line for path in dataset_lists for line in _read_lines(path)[1:]]
        with suppress(DatasetError):
            for _, _, content in self._read_journal():
                listed += content["files"]
        for name in listed:
            if os.path.isabs(name) or ".." in Path(name).parts:
                continue  # outside the folder: the list was edited
            (self.folder / name).unlink(missing_ok=True)
        for path in (*dataset_lists, *(self.hidden / name for name in (JOURNAL, MANIFEST, REQUEST))):
            path.unlink(missing_ok=True)

    def save_configuration(self, configuration: Mapping[str, Any], request: Mapping[str, Any]) -> None:
        """Saves the configuration and the command line of the run.

        Raises:
            CMPFError: the folder has another configuration; says what differs.
        """
        fix = "give another --output, or --overwrite to start over"
        save_or_compare_configuration(self.hidden / MANIFEST, configuration, fix=fix, folder=self.folder)
        write_text(self.hidden / REQUEST, json.dumps(request, ensure_ascii=False))

    def configuration(self) -> dict[str, Any]:
        """The saved configuration."""
        return read_configuration(self.hidden / MANIFEST)

    def name(self, uri: str, proposed: str) -> str:
        """The prefix of an image's files: that of an earlier run, else the proposed one, numbered if already used."""
        if uri in self._names:
            return self._names[uri]
        name, number = proposed, 1
        while not self._used_names.isdisjoint(_file_prefixes(name)):
            number += 1
            name = f"{proposed}_{number}"
        self._add_name(uri, name)
        return name

    def add(self, entry: Entry, files: list[Path]) -> None:
        """Adds a finished image, whose files are written, to the journal."""
        paths = [Path(os.path.relpath(file, self.folder)).as_posix() for file in files]
        head = {"name": entry.name, "file_name": entry.file_name, "files": paths}
        line = f"{json.dumps(head, ensure_ascii=False)[:-1]}, {to_json(entry.record)[1:]}\n"
        self._file.append(line.encode("utf-8", errors="surrogateescape"))
        self._register(entry.record.uri, entry.record.error, entry.name)

    def entries(self) -> Iterator[Entry]:
        """All finished images, also those with errors, each once, sorted by path.

        The order of the journal depends on which process finished first, and on interruptions.

        Raises:
            DatasetError: a line of the journal is damaged.
        """
        offset, last = 0, {}
        for number, line, content in self._read_journal():
            last[content["uri"]] = content["file_name"], number, offset
            offset += len(line)
        if not last:
            return
        with self.journal.open("rb") as file:
            for file_name, number, offset in sorted(last.values()):
                file.seek(offset)
                content = self._parse(file.readline(), number)
                record = record_from_dict(content, f"{self.journal}, line {number}")
                yield Entry(record, file_name, content["name"])

    def dataset_files(self, format_name: str) -> list[Path] | None:
        """The dataset files of a format; None if one is missing or older than the journal."""
        lines = _read_lines(self._dataset_list(format_name))
        files = [self.folder / line for line in lines[1:]]
        up_to_date = lines[:1] == [self._journal_size()] and all(file.is_file() for file in files)
        return files if up_to_date else None

    def save_dataset_files(self, format_name: str, files: list[Path]) -> None:
        """Remembers the dataset files of a format that were made from the current journal.

        Also removes unfinished ones of killed runs, which may be large.
        """
        for file in files:
            for unfinished in file.parent.glob(f"{TEMPORARY}*-{file.name}"):
                unfinished.unlink(missing_ok=True)
        paths = [str(file.relative_to(self.folder)) for file in files]
        write_text(self._dataset_list(format_name), "\n".join([self._journal_size(), *paths]) + "\n")

    def close(self) -> None:
        """Closes the journal."""
        self._file.close()

    def _register(self, uri: str, error: str, name: str) -> None:
        self.done[uri] = error
        self._add_name(uri, name)

    def _add_name(self, uri: str, name: str) -> None:
        self._names[uri] = name
        self._used_names |= _file_prefixes(name)

    def _dataset_list(self, format_name: str) -> Path:
        return self.hidden / DATASETS / f"{format_name}.txt"

    def _journal_size(self) -> str:
        return str(self.journal.stat().st_size)

    def _resume(self) -> None:
        """Reads the journal; cuts off an incomplete last line."""
        for _ in self._file.complete_lines():
            pass
        for _, _, content in self._read_journal():
            self._register(content["uri"], content["error"], content["name"])

    def _read_journal(self) -> Iterator[tuple[int, bytes, dict[str, Any]]]:
        """Line numbers, lines and parsed lines; DatasetError if one is damaged."""
        if not self.journal.exists():
            return
        with self.journal.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield number, line, self._parse(line, number)

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(line.decode("utf-8", errors="surrogateescape"))
            for key in ("uri", "error", "name", "file_name", "files"):
                content[key]
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{self.journal}, line {number}: damaged ({error}); --overwrite begins anew"
            ) from error
        return content


def _file_prefixes(name: str) -> set[str]:
    """What the files of an image begin with; casefolded, because some file systems are case-insensitive."""
    return {name.casefold(), f"{THUMBNAILS}/{name}".casefold()}


def _read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


class JournalFile:
    """An append-only file of lines that survives a kill of the process at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None

    def append(self, line: bytes) -> None:
        """Appends a line, or leaves the file unchanged.

        Raises:
            CMPFError: it cannot be written.
        """
        old_size = self.path.stat().st_size if self.path.exists() else 0
        try:
            if self._file is None:
                self._file = self.path.open("ab", buffering=0)
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if self.path.exists():
                os.truncate(self.path, old_size)
            raise CMPFError(
                f"{self.path}: cannot be written ({error.strerror}); free disk space and run the same command "
                "again to resume"
            ) from error

    def complete_lines(self) -> Iterator[bytes]:
        """Yields the lines of the file, then truncates an incomplete last line."""
        if not self.path.exists():
            return
        complete_size = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                yield line
                complete_size += len(line)
        if complete_size < self.path.stat().st_size:
            os.truncate(self.path, complete_size)

    def close(self) -> None:
        """Closes the file; `append` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None
