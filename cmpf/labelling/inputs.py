# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What a team has: folders, patterns, buckets, tars and tables, divided into shards and read image by image."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cmpf.common.files import IMAGE_SUFFIXES
from cmpf.errors import CMPFError, ImageError, summary
from cmpf.formats.addresses import MAX_DOWNLOAD, UrlPolicy, download
from cmpf.labelling.ahead import ahead
from cmpf.labelling.containers import Found, Wanted, container_images, is_container, plain_text
from cmpf.labelling.remote import UnreachableError, find_remote, read_remote
from cmpf.labelling.sources import WEB, list_lines, list_of

READERS = 8  # threads, which mostly wait for a disk or a network
# Images of buckets that could not be reached, one after the other, after which the others are not tried.
UNREACHABLE_IN_A_ROW = 10


@dataclass(frozen=True)
class Item:
    """An image that has been read: its path or address, and the bytes of its file, or why there are none."""

    uri: str
    content: bytes = field(repr=False)
    error: str = ""

    @property
    def sha256(self) -> str:
        """Of the bytes, in hexadecimal; "" where there are none."""
        return hashlib.sha256(self.content).hexdigest() if self.content else ""


@dataclass(frozen=True)
class Shard:
    """The share of one process: images by name, and containers, read whole or by the hash of each image.

    A container is read whole where there are at least as many as shards: the i-th then belongs to shard i modulo count.
    """

    index: int
    count: int
    images: tuple[str, ...]
    containers: tuple[str, ...]
    whole: bool


def shard_of(uri: str, count: int) -> int:
    """The shard 0..count - 1 of an image, which depends on nothing but its uri: no list has to be shared."""
    digest = hashlib.blake2b(plain_text(uri).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % count


def divide(inputs: Sequence[str], *, count: int, only: int | None = None) -> list[Shard]:
    """All shards, or one of them.

    Args:
        inputs: files, folders with all below them, patterns, http(s) addresses, and addresses that fsspec knows;
            images, tars and tables in any mixture; and lists of these, one per line: "@list" or a .txt file.
        count: number of shards. only: the index of the one that is wanted.
    Raises:
        ImageError: one of the inputs names no image and no container. UnreachableError: see find_remote.
    """
    images: dict[int, dict[str, None]] = {index: {} for index in range(count) if only in (None, index)}
    containers: dict[str, None] = {}
    for given in inputs:
        for name in _expanded(given):
            if is_container(name):
                containers[name] = None
            elif (index := shard_of(name, count)) in images:
                images[index][name] = None
    whole = len(containers) >= count
    return [
        Shard(
            index, count, tuple(mine), tuple(containers)[index::count] if whole else tuple(containers), whole
        )
        for index, mine in images.items()
    ]


def read_shard(
    shard: Shard,
    done: Container[str] = (),
    *,
    column: str | None = None,
    allow_urls: UrlPolicy = False,
) -> Iterator[Item]:
    """The images of a shard, each once, in the same order each time; threads read some of them ahead.

    Args:
        done: uris of images that are left out.
        column, allow_urls: see container_images and Predictor.predict.
    Raises:
        UnreachableError: a bucket is gone: UNREACHABLE_IN_A_ROW images could not be had. What cannot be read for
            another reason is an Item with an error.
    """
    seen: set[str] = set()

    def mine(uri: str) -> bool:
        new = (
            uri not in seen and (shard.whole or shard_of(uri, shard.count) == shard.index) and uri not in done
        )
        if new:
            seen.add(uri)
        return new

    failures = 0
    found = _found(shard, mine, column)
    for item, failed in ahead(lambda pair: _read(*pair, allow_urls), found, threads=READERS):
        failures = failures + 1 if failed else 0
        if failed and failures >= UNREACHABLE_IN_A_ROW:
            raise UnreachableError(
                f"{item.error} ({failures} images in a row could not be read; call again to go on)"
            )
        yield item


def _found(shard: Shard, wanted: Wanted, column: str | None) -> Iterator[Found]:
    yield from ((uri, name) for name in shard.images if wanted(uri := plain_text(name)))
    for address in shard.containers:
        try:
            yield from container_images(address, wanted, column=column)
        except ImageError as error:  # what was read of it stays
            if wanted(uri := plain_text(address)):
                yield uri, error


def _read(uri: str, content: bytes | str | ImageError, allow_urls: UrlPolicy) -> tuple[Item, bool]:
    """An image, and whether its bucket could not be reached."""
    try:
        if isinstance(content, ImageError):
            raise content
        if isinstance(content, str):
            content = read_address(content, allow_urls=allow_urls)
        return Item(uri, content, "" if content else f"{uri}: the file is empty; fetch it again"), False
    except CMPFError as error:
        return Item(uri, b"", str(error)), isinstance(error, UnreachableError)


def read_address(address: str, *, allow_urls: UrlPolicy = False) -> bytes:
    """The content of a path, an http(s) address, or one that fsspec knows.

    Raises:
        ImageError: there is no such file, it is too large, or addresses are not allowed. UnreachableError: see
            find_remote.
    """
    if address.lower().startswith(WEB):
        return download(address, allow_urls)
    if "://" in address:
        return read_remote(address)
    path = Path(address).expanduser()
    try:
        size = path.stat().st_size if path.is_file() else -1
        content = path.read_bytes() if 0 <= size <= MAX_DOWNLOAD else b""
    except (OSError, ValueError) as error:
        raise ImageError(f"{address}: cannot be read ({summary(error, 200)}); check it") from error
    if size < 0:
        raise ImageError(f"{address}: no such file (looked at {path.absolute()}); check the path")
    if size > MAX_DOWNLOAD:
        raise ImageError(f"{address}: {size:,} bytes, and up to {MAX_DOWNLOAD:,} are read; make it smaller")
    return content


def _expanded(given: str) -> Iterator[str]:
    """The images and containers that an input stands for."""
    if given.lower().startswith(WEB):
        yield given
    elif "://" not in given and (listed := list_of(given)) is not None:
        for number, name in list_lines(listed):
            try:
                yield from _expanded(name)
            except ImageError as error:
                raise ImageError(f"{listed}, line {number}: {error}") from error
    elif "://" in given:
        yield from _of_interest(given, find_remote(given))
    else:
        yield from _of_interest(given, _local(given))


def _local(given: str) -> list[str]:
    path = Path(given).expanduser()
    if path.is_dir():
        return sorted(str(file) for file in path.rglob("*") if not _is_hidden(file.relative_to(path)))
    if path.exists():
        return [str(path)]
    found = sorted(glob.glob(str(path), recursive=True))
    if not found:
        raise ImageError(
            f"{given}: no such file (looked at {path.absolute()}); give files, folders, addresses such as "
            's3://bucket/folder/, or a quoted pattern such as "photos/*.jpg" that matches some'
        )
    return found


def _of_interest(given: str, files: list[str]) -> Iterator[str]:
    """Images and containers among the files below a folder; a single file that is named may have any ending."""
    chosen = [name for name in files if name.lower().endswith(IMAGE_SUFFIXES) or is_container(name)]
    if not chosen and len(files) == 1 and Path(given).name == Path(files[0]).name:
        chosen = files
    if not chosen:
        raise ImageError(f"{given}: holds no image, tar or table; images end in {', '.join(IMAGE_SUFFIXES)}")
    yield from chosen


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
