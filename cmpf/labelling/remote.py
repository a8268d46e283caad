# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Files behind the addresses that fsspec knows: s3://, gs://, hf://, file://, memory:// and many more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from cmpf.errors import CMPFError, ImageError, summary
from cmpf.formats.addresses import MAX_DOWNLOAD

T = TypeVar("T")
UNFINISHED = "_unfinished"  # readers of tables pass over names that begin with an underscore
PAUSES = (
    1.0,
    4.0,
)  # seconds before a read that failed is tried again, which mends most troubles of a network


class UnreachableError(CMPFError):
    """A bucket or server does not answer, or not to this user; what it holds may be whole."""


def find_remote(address: str) -> list[str]:
    """The files that an address stands for, by name: itself, everything below a folder, or what matches a pattern.

    Raises:
        UnreachableError: it cannot be asked; one line with the reason. ImageError: there is nothing.
    """
    with _plainly(address):
        system, path = _opened_system(address)
        if any(sign in path for sign in "*?["):
            found = system.glob(path)
        elif system.isdir(path):
            found = system.find(path)
        else:
            found = [path] if system.exists(path) else []
        files = sorted(str(system.unstrip_protocol(name)) for name in found)
    if not files:
        raise ImageError(
            f"{address}: nothing is there; check the address (folders end in /, patterns have a *)"
        )
    return files


def read_remote(address: str) -> bytes:
    """The content of a file; what fails is tried three times.

    Raises:
        ImageError: there is no such file, or it has more than MAX_DOWNLOAD bytes. UnreachableError: see find_remote.
    """
    return _tried(lambda: _read(address))


@contextmanager
def opened_remote(address: str) -> Iterator[RemoteFile]:
    """A file to read from; errors as read_remote."""
    with _plainly(address):
        system, path = _opened_system(address)
        file = system.open(path, "rb")
    with file:
        yield RemoteFile(file, address)


class RemoteFile:
    """A file of fsspec whose `read` is tried again, and tells trouble with the network from a damaged file."""

    def __init__(self, file: Any, address: str) -> None:
        self._file, self._address = file, address

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes.

        Raises:
            UnreachableError: see read_remote.
        """
        place = self._file.tell()
        return _tried(lambda: self._read_at(place, size))

    def _read_at(self, place: int, size: int) -> bytes:
        with _plainly(self._address):
            self._file.seek(place)
            content: bytes = self._file.read(size)
            return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class RemoteFolder:
    """A folder behind an address, to write files into that are whole or not there.

    Raises, in all methods:
        UnreachableError: it cannot be asked or written; one line with the reason.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")

    def names(self) -> set[str]:
        """The files right in it, as they are now."""
        with _plainly(self.address):
            system, path = _opened_system(self.address)
            system.invalidate_cache()
            try:
                return {str(name).rpartition("/")[2] for name in system.ls(path, detail=False)}
            except FileNotFoundError:
                return set()

    def read(self, name: str) -> bytes:
        """The content of a file; ImageError: there is none."""
        return read_remote(f"{self.address}/{name}")

    def put(self, file: Path, name: str) -> None:
        """Brings a file there under another name and renames it; what fails is tried three times."""
        unfinished = f"{UNFINISHED}/{name}"

        def send() -> None:
            with _plainly(self.address, writing=True):
                system, path = _opened_system(self.address)
                system.put_file(str(file), f"{path}/{unfinished}")
                system.mv(f"{path}/{unfinished}", f"{path}/{name}")

        _tried(send)

    def remove(self, name: str) -> None:
        """Removes a file that is there."""
        with _plainly(self.address, writing=True):
            system, path = _opened_system(self.address)
            system.rm_file(f"{path}/{name}")


def is_address(text: str | Path) -> bool:
    """Whether something is an address, and no path."""
    return isinstance(text, str) and "://" in text


def _read(address: str) -> bytes:
    with opened_remote(address) as file:
        content = file.read(MAX_DOWNLOAD + 1)
    if len(content) > MAX_DOWNLOAD:
        raise ImageError(f"{address}: more than {MAX_DOWNLOAD:,} bytes; make it smaller")
    return content


def _tried(read: Callable[[], T]) -> T:
    for pause in PAUSES:
        try:
            return read()
        except UnreachableError:
            time.sleep(pause)
    return read()


def _opened_system(address: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    system, path = url_to_fs(address)
    return system, str(path)


@contextmanager
def _plainly(address: str, *, writing: bool = False) -> Iterator[None]:
    """Errors of fsspec and of the libraries below it, which are of many kinds, as one line that names the address."""
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
        doing = "written" if writing else "reached"
        raise UnreachableError(f"{address}: cannot be {doing} ({summary(error, 200)}); {fix}") from error
