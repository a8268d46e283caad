# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""A file of lines that only grows: what a run has finished, for the run that goes on with it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from cmpf.errors import CMPFError


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
