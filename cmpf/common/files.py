# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Files that are either whole or not there."""

from __future__ import annotations

import hashlib
import os
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
