# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""A folder of results that goes on where it was stopped: a line for each finished image, written after its files."""

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
from cmpf.labelling.configuration import keep_configuration
from cmpf.labelling.record import ImageRecord, record_from, to_json

HIDDEN = ".cmpf"  # folder in the output
JOURNAL, MANIFEST, REQUEST, LOCK = "journal.jsonl", "manifest.json", "request.json", "lock"


@dataclass(frozen=True)
class Entry:
    """A finished image: its record, its path below the folder of all images, and what its files are named after."""

    record: ImageRecord
    file_name: str
    name: str


class ResultsFolder:
    """The output of one run or of several with one configuration. Use `opened`.

    done: uri -> error of each image that an earlier run has finished, "" = none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hidden = folder / HIDDEN
        self.journal = self.hidden / JOURNAL
        self.done: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._taken: set[str] = set()  # names, all small: some file systems do not tell X from x
        self._file = JournalFile(self.journal)

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, *, overwrite: bool = False) -> Iterator[ResultsFolder]:
        """The folder, made if missing, for this process alone.

        Args:
            overwrite: remove what earlier runs have written.
        Raises:
            CMPFError: another process writes into it, or it cannot be written.
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
                results._empty()
            results._resume()
            yield results
        finally:
            results.close()
            lock.release()

    def asked_before(self, request: Mapping[str, Any]) -> bool:
        """Whether the folder was made by the very same command line."""
        try:
            return bool(json.loads((self.hidden / REQUEST).read_text(encoding="utf-8")) == request)
        except (OSError, ValueError):
            return False

    def keep(self, configuration: Mapping[str, Any], request: Mapping[str, Any]) -> None:
        """Remembers what makes the results what they are.

        Raises:
            CMPFError: what is there was made with another configuration; says what differs.
        """
        fix = "give another --output, or --overwrite to begin anew"
        keep_configuration(self.hidden / MANIFEST, configuration, fix=fix, folder=self.folder)
        write_text(self.hidden / REQUEST, json.dumps(request, ensure_ascii=False))

    def configuration(self) -> dict[str, Any]:
        """What was kept."""
        return dict(json.loads((self.hidden / MANIFEST).read_text(encoding="utf-8")))

    def name(self, uri: str, proposed: str) -> str:
        """What the files of an image are named after: as before, or as proposed where no other image has that."""
        if uri in self._names:
            return self._names[uri]
        name, number = proposed, 1
        while name.casefold() in self._taken:
            number += 1
            name = f"{proposed}_{number}"
        self._names[uri] = name
        self._taken.add(name.casefold())
        return name

    def add(self, entry: Entry, files: list[Path]) -> None:
        """Keeps a finished image; its files are there."""
        own = [Path(os.path.relpath(file, self.folder)).as_posix() for file in files]
        head = {"name": entry.name, "file_name": entry.file_name, "files": own}
        line = f"{json.dumps(head, ensure_ascii=False)[:-1]}, {to_json(entry.record)[1:]}\n"
        self._file.append(line.encode("utf-8", errors="surrogateescape"))
        self._count(entry.record.uri, entry.record.error, entry.name)

    def entries(self) -> Iterator[Entry]:
        """All finished images, each once, in the order in which they were finished; those with errors, too.

        Raises:
            DatasetError: a line of the journal is damaged.
        """
        last: dict[str, int] = {}
        for number, content in self._lines():
            last[content["uri"]] = number
        for number, content in self._lines():
            if last[content["uri"]] == number:
                yield Entry(
                    record_from(content, f"{self.journal}, line {number}"),
                    content["file_name"],
                    content["name"],
                )

    def close(self) -> None:
        """Closes the journal."""
        self._file.close()

    def _count(self, uri: str, error: str, name: str) -> None:
        self.done[uri] = error
        self._names[uri] = name
        self._taken.add(name.casefold())

    def _resume(self) -> None:
        """Reads what was finished, and cuts off a line that was not written to its end."""
        for _ in self._file.whole_lines():
            pass
        for _, content in self._lines():
            self._count(content["uri"], content["error"], content["name"])

    def _lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
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

    def _empty(self) -> None:
        """Removes the files of earlier runs that the journal names, and nothing that others put here."""
        try:
            listed = [name for _, content in self._lines() for name in content["files"]]
        except DatasetError:
            listed = []
        for name in listed:
            if os.path.isabs(name) or ".." in Path(name).parts:
                continue  # no file of ours
            (self.folder / name).unlink(missing_ok=True)
        for name in (JOURNAL, MANIFEST, REQUEST):
            (self.hidden / name).unlink(missing_ok=True)


class JournalFile:
    """Lines that are whole or not there, and outlive this process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None

    def append(self, line: bytes) -> None:
        """Adds a line; one that the disk has no room for is taken back.

        Raises:
            CMPFError: it cannot be written.
        """
        whole = self.path.stat().st_size if self.path.exists() else 0
        try:
            if self._file is None:
                self._file = self.path.open("ab", buffering=0)  # what the system has outlives this process
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if self.path.exists():
                os.truncate(self.path, whole)
            raise CMPFError(
                f"{self.path}: cannot be written ({error.strerror}); make room, and run the same command again: "
                "it goes on"
            ) from error

    def whole_lines(self) -> Iterator[bytes]:
        """The lines of earlier runs; after the last one, what was not written to its end is cut off."""
        if not self.path.exists():
            return
        whole = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                yield line
                whole += len(line)
        if whole < self.path.stat().st_size:
            os.truncate(self.path, whole)

    def close(self) -> None:
        """Ends writing; the lines stay."""
        if self._file is not None:
            self._file.close()
            self._file = None
