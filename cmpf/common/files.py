# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Files that are either whole or not there, YAML as it was meant, and the images of a folder."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from cmpf.errors import ImageError

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


def is_file(path: Path) -> bool:
    """Path.is_file, also for names that no file can have: too long ones, which a file of somebody else may hold."""
    try:
        return path.is_file()
    except OSError:
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


# Endings of files that count as images in a folder; a file that is named itself may have any.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif",
)  # fmt: skip


def folder_images(folder: Path, *, recursive: bool = False) -> list[Path]:
    """The images in a folder by name; hidden files are left out.

    Args:
        recursive: those in the folders inside it, too.
    Raises:
        ImageError: there is none.
    """
    found = [path for path in sorted(folder.rglob("*") if recursive else folder.iterdir()) if _is_image(path)]
    if not found:
        raise ImageError(f"{folder}: no image in this folder; expected files {', '.join(IMAGE_SUFFIXES)}")
    return found


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


# Of a YAML file.
MAX_BYTES = 2**20
MAX_NODES = 30_000  # keys and values, those behind aliases counted at each place
MAX_DEPTH = 50
MAX_LETTERS = 10_000  # of one key or value
# What SafeLoader's constructors raise for values such as `!!int abc` and 2001-99-99.
_ODD_VALUES = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


class BoundedLoader(yaml.SafeLoader):
    """SafeLoader with limits; everything that is wrong is a yaml.MarkedYAMLError with `problem` and a line."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Counts what the file writes out, while it is read."""
        self._nodes += 1
        self._depth += 1
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self._nodes > MAX_NODES:
            raise yaml.MarkedYAMLError(None, None, f"more than {MAX_NODES:,} keys and values", mark)
        if self._depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(None, None, f"nested more than {MAX_DEPTH} deep", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.ScalarNode) and len(node.value) > MAX_LETTERS:
            raise yaml.MarkedYAMLError(None, None, f"a value of more than {MAX_LETTERS:,} letters", mark)
        return node

    def get_single_node(self) -> yaml.Node | None:
        """The whole document; aliases may not multiply it."""
        node = super().get_single_node()
        if node is not None and _unfolded(node, {}) > MAX_NODES:
            issue = f"more than {MAX_NODES:,} keys and values behind its aliases"
            raise yaml.MarkedYAMLError(None, None, issue, node.start_mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """A value; one that its tag or form does not allow is named with its line."""
        try:
            return super().construct_object(node, deep=deep)
        except yaml.YAMLError:
            raise
        except _ODD_VALUES as error:
            kind = str(node.tag).rpartition(":")[2]
            issue = f"{str(node.value)[:40]!r} is no {kind}"
            raise yaml.MarkedYAMLError(None, None, issue, node.start_mark) from error


def load_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        yaml.YAMLError: it is malformed or beyond the limits.
    """
    loader = BoundedLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def read_yaml_text(path: Path) -> str:
    """Text of a YAML file.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger than MAX_BYTES. UnicodeDecodeError: no UTF-8.
    """
    return read_text(path, limit=MAX_BYTES)


def _unfolded(node: yaml.Node, known: dict[int, int]) -> int:
    """Nodes of a tree when every alias is written out; one that contains itself counts once."""
    if id(node) not in known:
        known[id(node)] = 1  # while its content is counted
        children: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        known[id(node)] += sum(_unfolded(child, known) for child in children)
    return known[id(node)]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits; reads it piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
