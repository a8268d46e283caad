# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Reads and writes remote files through fsspec: s3://, gs://, hf://, file://, memory:// and others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from cmpf.errors import CMPFError, ImageError, summary
from cmpf.formats.addresses import MAX_DOWNLOAD

T = TypeVar("T")
# Folder of incomplete files; readers of tables ignore names with a leading underscore.
UNFINISHED = "_unfinished"
RETRY_DELAYS = (1.0, 4.0)  # seconds


class UnreachableError(CMPFError):
    """A bucket or server cannot be reached or denies access."""


def find_remote(address: str) -> list[str]:
    """The addresses of the files that an address names, sorted: one file, all files below a folder, or glob matches.

    Raises:
        UnreachableError: the file system cannot be reached; one line with the reason.
        ImageError: there is no such file.
    """
    with _translate_errors(address):
        system, path = _filesystem(address)
        if any(sign in path for sign in "*?["):
            names = system.glob(path)
        elif system.isdir(path):
            names = system.find(path)
        else:
            names = [path] if system.exists(path) else []
        files = sorted(str(system.unstrip_protocol(name)) for name in names)
    if not files:
        raise ImageError(
            f"{address}: nothing is there; check the address (folders end in /, patterns have a *)"
        )
    return files


def read_remote(address: str) -> bytes:
    """Reads a file, with retries.

    Raises:
        ImageError: there is no such file, or it has more than MAX_DOWNLOAD bytes.
        UnreachableError: see find_remote.
    """
    return _retry(lambda: _read(address))


@contextmanager
def open_remote(address: str) -> Iterator[RemoteFile]:
    """Opens a file for reading; raises what read_remote raises."""
    with _translate_errors(address):
        system, path = _filesystem(address)
        file = system.open(path, "rb")
    with file:
        yield RemoteFile(file, address)


class RemoteFile:
    """An fsspec file whose `read` retries, and raises UnreachableError for network errors."""

    def __init__(self, file: Any, address: str) -> None:
        self._file, self._address = file, address

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes; -1 = all.

        Raises:
            UnreachableError: see find_remote.
        """
        position = self._file.tell()
        return _retry(lambda: self._read_at(position, size))

    def _read_at(self, position: int, size: int) -> bytes:
        with _translate_errors(self._address):
            self._file.seek(position)
            content: bytes = self._file.read(size)
            return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class RemoteFolder:
    """A remote folder whose files are written atomically.

    All methods raise UnreachableError, one line with the reason, if the folder cannot be reached or written.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")

    def names(self) -> set[str]:
        """The current names of the files and folders directly in it."""
        with _translate_errors(self.address):
            system, path = _filesystem(self.address)
            system.invalidate_cache()
            try:
                return {str(name).rpartition("/")[2] for name in system.ls(path, detail=False)}
            except FileNotFoundError:
                return set()

    def read(self, name: str) -> bytes:
        """Reads a file; ImageError if it does not exist."""
        return read_remote(f"{self.address}/{name}")

    def put(self, file: Path, name: str) -> None:
        """Uploads a local file under a temporary name, then renames it; retries on errors."""

        def upload() -> None:
            with _translate_errors(self.address, writing=True):
                system, path = _filesystem(self.address)
                system.put_file(str(file), f"{path}/{UNFINISHED}/{name}")
                system.mv(f"{path}/{UNFINISHED}/{name}", f"{path}/{name}")

        _retry(upload)

    def remove(self, name: str) -> None:
        """Removes an existing file."""
        with _translate_errors(self.address, writing=True):
            system, path = _filesystem(self.address)
            system.rm_file(f"{path}/{name}")


def is_address(text: str | Path) -> bool:
    """Whether an input is an fsspec address, not a path."""
    return isinstance(text, str) and "://" in text


def _read(address: str) -> bytes:
    with open_remote(address) as file:
        content = file.read(MAX_DOWNLOAD + 1)
    if len(content) > MAX_DOWNLOAD:
        raise ImageError(f"{address}: more than {MAX_DOWNLOAD:,} bytes; make it smaller")
    return content


def _retry(function: Callable[[], T]) -> T:
    for delay in RETRY_DELAYS:
        try:
            return function()
        except UnreachableError:
            time.sleep(delay)
    return function()


def _filesystem(address: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path in it."""
    from fsspec.core import url_to_fs

    system, path = url_to_fs(address)
    return system, str(path)


@contextmanager
def _translate_errors(address: str, *, writing: bool = False) -> Iterator[None]:
    """Translates the many exception types of fsspec and its backends to one-line errors that name the address."""
    fix = "check the address, the network and your credentials"
    try:
        yield
    except CMPFError:
        raise
    except (FileNotFoundError, IsADirectoryError) as error:
        if writing:
            raise UnreachableError(f"{address}: cannot be written ({summary(error, 200)}); {fix}") from error
        raise ImageError(f"{address}: no such file; check the address") from error
    except ImportError as error:  # fsspec names the package: Install s3fs to access S3
        raise UnreachableError(f"{address}: {summary(error, 200)} (with pip install)") from error
    except ValueError as error:  # Protocol not known
        raise UnreachableError(f"{address}: {summary(error, 200)}; check how the address begins") from error
    except Exception as error:
        action = "written" if writing else "reached"
        raise UnreachableError(f"{address}: cannot be {action} ({summary(error, 200)}); {fix}") from error
