# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Atomic file writes, bounded reading of text and YAML, listing of images, and file hashes."""

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

TEMPORARY = ".tmp-"  # prefix of unfinished files
MAX_NAME = 255  # bytes of a file name
MAX_PREFIX = 223  # bytes of the name that the files of one image begin with


@contextmanager
def replacing(path: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """Replaces a file atomically: even after a crash, `path` has either the old or the complete new content.

    Args:
        path: the file to write; its folder is created if missing.
        durable: flush to disk (fsync) before the file is replaced; not needed for files that can be recreated.
    Yields:
        A temporary path in the same folder, with the same suffix, to write to. It replaces `path` at the end of the
        block, or is removed if the block raises.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(_temporary_name(path))
    try:
        yield temporary
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        _sync_folder(path.parent)


def read_text(path: str | Path, *, limit: int, encoding: str = "utf-8-sig") -> str:
    """Reads a text file that may come from somebody else.

    Args:
        path: the file.
        limit: maximum size in bytes.
        encoding: the text's encoding.
    Raises:
        OSError: the file cannot be read, is larger, or is not a regular file (reading a pipe could block forever).
        UnicodeDecodeError: the text has another encoding.
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
    """Whether a value is the path of a folder. "" is none, although Path("") is the working directory."""
    try:
        return isinstance(source, str | Path) and source != "" and Path(source).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):  # an invalid path; reading it reports why
        return False


def is_file(path: Path) -> bool:
    """Path.is_file, but False for names that are too long instead of an error."""
    try:
        return path.is_file()
    except OSError:
        return False


def write_text(path: str | Path, text: str) -> None:
    """Writes a UTF-8 text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def file_prefix(name: str) -> str:
    """The name (also "folder/name") that the files of one image begin with: shortened, and with a hash, if endings such
    as _instances.npz would make it longer than file systems allow."""
    folder, slash, last = name.rpartition("/")
    content = os.fsencode(last)
    if len(content) > MAX_PREFIX:
        digest = hashlib.sha256(content).hexdigest()[:16]
        last = f"{content[: MAX_PREFIX - 17].decode('utf-8', errors='ignore')}_{digest}"
    return folder + slash + last


def _temporary_name(path: Path) -> str:
    """A temporary name that is unique per thread; it contains the file's name, or its hash if that is too long."""
    prefix = f"{TEMPORARY}{os.getpid()}-{threading.get_ident()}-"
    name = path.name
    if len(os.fsencode(prefix + name)) > MAX_NAME:
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
        suffix = path.suffix if len(os.fsencode(path.suffix)) <= MAX_NAME - len(prefix + digest) else ""
        name = digest + suffix
    return prefix + name


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable; does nothing on Windows, where folders cannot be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Suffixes of images in a folder; a file that is given by name may have any suffix.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif",
)  # fmt: skip


def folder_images(folder: Path, *, recursive: bool = False) -> list[Path]:
    """The images in a folder, sorted by name, without hidden files and folders.

    Args:
        folder: an existing folder.
        recursive: include subfolders.
    Raises:
        ImageError: there are no images.
    """
    paths = sorted(folder.rglob("*") if recursive else folder.iterdir())
    images = [
        path
        for path in paths
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(name.startswith(".") for name in path.relative_to(folder).parts)
        and path.is_file()
    ]
    if not images:
        raise ImageError(f"{folder}: no image in this folder; expected files {', '.join(IMAGE_SUFFIXES)}")
    return images


# Limits of YAML files.
MAX_BYTES = 2**20
MAX_NODES = 30_000  # keys and values, with aliases expanded
MAX_DEPTH = 50
MAX_LETTERS = 10_000  # of one key or value
# Errors of SafeLoader's constructors for values such as `!!int abc` and 2001-99-99.
_INVALID_VALUE_ERRORS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


class BoundedLoader(yaml.SafeLoader):
    """SafeLoader with limits. Every error is a yaml.MarkedYAMLError with `problem` and a line."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Composes a node; checks the limits that apply to the text of the file."""
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
        """The document's root node; checks the number of nodes with aliases expanded."""
        node = super().get_single_node()
        if node is not None and _expanded_size(node, {}) > MAX_NODES:
            issue = f"more than {MAX_NODES:,} keys and values behind its aliases"
            raise yaml.MarkedYAMLError(None, None, issue, node.start_mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Constructs a value; reports one that does not fit its tag with its line."""
        try:
            return super().construct_object(node, deep=deep)
        except yaml.YAMLError:
            raise
        except _INVALID_VALUE_ERRORS as error:
            kind = str(node.tag).rpartition(":")[2]
            issue = f"{str(node.value)[:40]!r} is no {kind}"
            raise yaml.MarkedYAMLError(None, None, issue, node.start_mark) from error


def load_yaml(text: str) -> Any:
    """Parses a YAML text.

    Raises:
        yaml.YAMLError: the text is malformed or exceeds a limit.
    """
    loader = BoundedLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def read_yaml_text(path: Path) -> str:
    """Reads the text of a YAML file.

    Raises:
        OSError: the file cannot be read, is not a regular file, or is larger than MAX_BYTES.
        UnicodeDecodeError: the text is not UTF-8.
    """
    return read_text(path, limit=MAX_BYTES)


def _expanded_size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Number of nodes in a tree with aliases expanded; `sizes` caches the counts, 1 for a node that contains itself."""
    if id(node) not in sizes:
        sizes[id(node)] = 1  # until its children are counted
        children: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        sizes[id(node)] += sum(_expanded_size(child, sizes) for child in children)
    return sizes[id(node)]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file (64 hexadecimal digits), read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
