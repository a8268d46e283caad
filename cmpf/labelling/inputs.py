# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Divides the inputs of cmpf label (files, folders, buckets, tars and tables) into shards, and reads their images."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cmpf.common.files import IMAGE_SUFFIXES
from cmpf.errors import CMPFError, ImageError, summary
from cmpf.formats.addresses import MAX_DOWNLOAD, UrlPolicy, download
from cmpf.labelling.containers import ContainerImage, UriFilter, container_images, is_container
from cmpf.labelling.parquet import to_utf8
from cmpf.labelling.prefetch import prefetch
from cmpf.labelling.remote import UnreachableError, find_remote, read_remote
from cmpf.labelling.sources import is_url, list_file, read_list

NUM_READERS = 8  # threads, which mostly wait for a disk or a network
MAX_CONSECUTIVE_FAILURES = 10  # images of an unreachable bucket; after that many, reading stops


@dataclass(frozen=True)
class Item:
    """The bytes of an image file, or the error message why it could not be read.

    uri: path or address.
    """

    uri: str
    content: bytes = field(repr=False)
    error: str = ""

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes in hexadecimal; "" if there are none."""
        return hashlib.sha256(self.content).hexdigest() if self.content else ""


@dataclass(frozen=True)
class Shard:
    """The part of the inputs that one process labels.

    index: from 0.
    count: number of shards.
    images: paths and addresses.
    containers: paths and addresses of tars and tables.
    whole_containers: whether all images of the containers belong to this shard, else those that shard_of assigns to it.
        True if there are at least as many containers as shards; container i then belongs to shard i modulo `count`.
    """

    index: int
    count: int
    images: tuple[str, ...]
    containers: tuple[str, ...]
    whole_containers: bool


def shard_of(uri: str, count: int) -> int:
    """The shard index of an image, in [0, count). It depends on the URI alone, so processes need not communicate."""
    digest = hashlib.blake2b(to_utf8(uri).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % count


def divide(inputs: Sequence[str], *, count: int, only: int | None = None) -> list[Shard]:
    """Divides inputs into shards.

    Args:
        inputs: images, tars and tables as files, folders (searched recursively), glob patterns, http(s) URLs or
            addresses that fsspec knows; and list files with one of these per line ("@list" or a .txt file).
        count: number of shards.
        only: return only the shard with this index; None = all.
    Raises:
        ImageError: an input matches no image and no container.
        UnreachableError: see find_remote.
    """
    images: dict[int, dict[str, None]] = {index: {} for index in range(count) if only in (None, index)}
    containers: dict[str, None] = {}
    for given in inputs:
        for name in _expand(given):
            if is_container(name):
                containers[name] = None
            elif (index := shard_of(name, count)) in images:
                images[index][name] = None
    whole = len(containers) >= count
    return [
        Shard(
            index, count, tuple(names), tuple(containers)[index::count] if whole else tuple(containers), whole
        )
        for index, names in images.items()
    ]


def read_shard(
    shard: Shard,
    done: Container[str] = (),
    *,
    column: str | None = None,
    allow_urls: UrlPolicy = False,
) -> Iterator[Item]:
    """Reads the images of a shard with a thread pool; each once, always in the same order.

    Args:
        done: URIs of images to skip.
        column: see container_images.
        allow_urls: see Predictor.predict.
    Yields:
        An Item for each image. Its `error` is set if the image could not be read.
    Raises:
        UnreachableError: MAX_CONSECUTIVE_FAILURES images in a row could not be reached.
    """
    seen: set[str] = set()

    def is_wanted(uri: str) -> bool:
        wanted = (
            uri not in seen
            and (shard.whole_containers or shard_of(uri, shard.count) == shard.index)
            and uri not in done
        )
        if wanted:
            seen.add(uri)
        return wanted

    failures = 0
    images = _shard_images(shard, is_wanted, column)
    for item, failed in prefetch(lambda image: _read(*image, allow_urls), images, threads=NUM_READERS):
        failures = failures + 1 if failed else 0
        if failures >= MAX_CONSECUTIVE_FAILURES:
            raise UnreachableError(
                f"{item.error} ({failures} images in a row could not be read; call again to go on)"
            )
        yield item


def _shard_images(shard: Shard, is_wanted: UriFilter, column: str | None) -> Iterator[ContainerImage]:
    yield from ((uri, name) for name in shard.images if is_wanted(uri := to_utf8(name)))
    for address in shard.containers:
        try:
            yield from container_images(address, is_wanted, column=column)
        except ImageError as error:
            if is_wanted(uri := to_utf8(address)):
                yield uri, error


def _read(uri: str, content: bytes | str | ImageError, allow_urls: UrlPolicy) -> tuple[Item, bool]:
    """The item of an image, and whether its bucket was unreachable."""
    try:
        if isinstance(content, ImageError):
            raise content
        if isinstance(content, str):
            content = read_address(content, allow_urls=allow_urls)
        return Item(uri, content, "" if content else f"{uri}: the file is empty; fetch it again"), False
    except CMPFError as error:
        return Item(uri, b"", str(error)), isinstance(error, UnreachableError)


def read_address(address: str, *, allow_urls: UrlPolicy = False) -> bytes:
    """Reads a file from a path, an http(s) URL, or an address that fsspec knows.

    Raises:
        ImageError: the file does not exist, is too large, or is a URL and URLs are not allowed.
        UnreachableError: see find_remote.
    """
    if is_url(address):
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


def _expand(given: str) -> Iterator[str]:
    """The images and containers that an input names."""
    if is_url(given):
        yield given
    elif "://" in given:
        yield from _supported_files(given, find_remote(given))
    else:
        try:
            yield from _expand_local(given)
        except ImageError:
            raise
        except (OSError, ValueError) as error:  # an impossible path
            raise ImageError(f"{given[:200]}: cannot be read ({error}); check the path") from error


def _expand_local(given: str) -> Iterator[str]:
    if (file := list_file(given)) is None:
        yield from _supported_files(given, _find_local(given))
        return
    for number, entry in read_list(file):
        try:
            yield from _expand(entry)
        except ImageError as error:
            raise ImageError(f"{file}, line {number}: {error}") from error


def _find_local(given: str) -> list[str]:
    path = Path(given).expanduser()
    if path.is_dir():
        return sorted(_visible_files(path))
    if path.exists():
        return [str(path)]
    matches = sorted(name for name in glob.glob(str(path), recursive=True) if not os.path.isdir(name))
    if not matches:
        raise ImageError(
            f"{given}: no such file (looked at {path.absolute()}); give files, folders, addresses such as "
            's3://bucket/folder/, or a quoted pattern such as "photos/*.jpg" that matches some'
        )
    return matches


def _supported_files(given: str, files: list[str]) -> list[str]:
    """The images and containers among files; a file that is named itself may have any suffix."""
    supported = [name for name in files if name.lower().endswith(IMAGE_SUFFIXES) or is_container(name)]
    if not supported and len(files) == 1 and Path(given).name == Path(files[0]).name:
        supported = files
    if not supported:
        raise ImageError(f"{given}: holds no image, tar or table; images end in {', '.join(IMAGE_SUFFIXES)}")
    return supported


def _visible_files(folder: Path) -> Iterator[str]:
    """All files below a folder, without hidden files and folders."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(parent, name) for name in files if not name.startswith("."))
