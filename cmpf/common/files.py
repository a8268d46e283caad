# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Files that are either whole or not there."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".tmp-"  # how the name of an unfinished file begins
MAX_NAME = 255  # bytes that file systems allow for one


@contextmanager
def replacing(path: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """Writes a file so that `path` holds the old content or the whole new one, even after a crash.

    Args:
        path: where the file will be; its folder is made if it is not there.
        durable: whether the content is on the disk, and not only with the system, before it counts; not needed for
            what can be made again.
    Yields:
        A path in the same folder, with the same ending, to write to. When the block ends well the file goes
        to disk (fsync) and takes the place of `path`; when it raises, the file is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(_temporary_name(path))
    try:
        yield temporary
        if durable:
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        _sync_folder(path.parent)


def read_text(path: str | Path, *, limit: int, encoding: str = "utf-8-sig") -> str:
    """Text of a file that somebody else may have made.

    Args:
        limit: bytes; more are refused before they are read.
    Raises:
        OSError: it cannot be read, is no regular file (reading a pipe would wait for good), or is larger.
        UnicodeDecodeError: it is of another encoding.
    """
    status = Path(path).stat()
    if stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "no regular file", str(path))
    if status.st_size > limit:
        issue = f"{status.st_size:,} bytes, and up to {limit:,} are read"
        raise OSError(errno.EFBIG, issue, str(path))
    return Path(path).read_text(encoding=encoding)


def is_folder(source: object) -> bool:
    """Whether something is the path of a folder."""
    try:
        return isinstance(source, str | Path) and Path(source).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):  # no possible path; reading it says why
        return False


def write_text(path: str | Path, text: str) -> None:
    """Replaces a UTF-8 text file, whole."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _temporary_name(path: Path) -> str:
    """A name of its own for each thread, with that of the file in it as long as it fits."""
    begin = f"{TEMPORARY}{os.getpid()}-{threading.get_ident()}-"
    name = path.name
    if len(os.fsencode(begin + name)) > MAX_NAME:
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
        suffix = path.suffix if len(os.fsencode(path.suffix)) <= MAX_NAME - len(begin + digest) else ""
        name = digest + suffix
    return begin + name


def _sync_folder(folder: Path) -> None:
    """Makes a rename outlive a power failure, where folders can be opened (not on Windows)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
