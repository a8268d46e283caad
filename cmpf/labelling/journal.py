# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The output folder of cmpf predict, with a journal of finished images that makes runs resumable.

An image gets a line in the journal once all of its files are written.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from cmpf.common.files import write_text
from cmpf.errors import CMPFError, DatasetError
from cmpf.labelling.configuration import save_or_compare_configuration
from cmpf.labelling.record import ImageRecord, record_from_dict, to_json

HIDDEN = ".cmpf"  # subfolder of the output folder
JOURNAL, MANIFEST, REQUEST, LOCK = "journal.jsonl", "manifest.json", "request.json", "lock"


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
        self._used_names: set[str] = set()  # casefolded: some file systems are case-insensitive
        self._file = JournalFile(self.journal)

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, *, overwrite: bool = False) -> Iterator[ResultsFolder]:
        """Creates the folder if necessary and locks it for this process.

        Args:
            overwrite: whether to remove the files of earlier runs.
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
            if overwrite:
                results._remove_files()
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
        return dict(json.loads((self.hidden / MANIFEST).read_text(encoding="utf-8")))

    def name(self, uri: str, proposed: str) -> str:
        """The prefix of an image's files: that of an earlier run, else the proposed one, numbered if already used."""
        if uri in self._names:
            return self._names[uri]
        name, number = proposed, 1
        while name.casefold() in self._used_names:
            number += 1
            name = f"{proposed}_{number}"
        self._names[uri] = name
        self._used_names.add(name.casefold())
        return name

    def add(self, entry: Entry, files: list[Path]) -> None:
        """Adds a finished image, whose files are written, to the journal."""
        paths = [Path(os.path.relpath(file, self.folder)).as_posix() for file in files]
        head = {"name": entry.name, "file_name": entry.file_name, "files": paths}
        line = f"{json.dumps(head, ensure_ascii=False)[:-1]}, {to_json(entry.record)[1:]}\n"
        self._file.append(line.encode("utf-8", errors="surrogateescape"))
        self._register(entry.record.uri, entry.record.error, entry.name)

    def entries(self) -> Iterator[Entry]:
        """All finished images, also those with errors, each once, in the order of the journal.

        Raises:
            DatasetError: a line of the journal is damaged.
        """
        last: dict[str, int] = {}
        for number, content in self._read_journal():
            last[content["uri"]] = number
        for number, content in self._read_journal():
            if last[content["uri"]] == number:
                yield Entry(
                    record_from_dict(content, f"{self.journal}, line {number}"),
                    content["file_name"],
                    content["name"],
                )

    def close(self) -> None:
        """Closes the journal."""
        self._file.close()

    def _register(self, uri: str, error: str, name: str) -> None:
        self.done[uri] = error
        self._names[uri] = name
        self._used_names.add(name.casefold())

    def _resume(self) -> None:
        """Reads the journal; cuts off an incomplete last line."""
        for _ in self._file.complete_lines():
            pass
        for _, content in self._read_journal():
            self._register(content["uri"], content["error"], content["name"])

    def _read_journal(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Line numbers and parsed lines; DatasetError if one is damaged."""
        if not self.journal.exists():
            return
        with self.journal.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                try:
                    content = json.loads(line)
                    for key in ("uri", "error", "name", "file_name", "files"):
                        content[key]
                except (ValueError, KeyError, TypeError) as error:
                    raise DatasetError(
                        f"{self.journal}, line {number}: damaged ({error}); --overwrite begins anew"
                    ) from error
                yield number, content

    def _remove_files(self) -> None:
        """Removes the files that the journal lists, and the journal; leaves all other files."""
        try:
            listed = [name for _, content in self._read_journal() for name in content["files"]]
        except DatasetError:
            listed = []
        for name in listed:
            if os.path.isabs(name) or ".." in Path(name).parts:
                continue  # outside the folder: the journal was edited
            (self.folder / name).unlink(missing_ok=True)
        for name in (JOURNAL, MANIFEST, REQUEST):
            (self.hidden / name).unlink(missing_ok=True)


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
