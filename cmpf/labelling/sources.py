# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Finds the images and videos that a command line names, and chooses the names of their result files."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from cmpf.common.files import IMAGE_SUFFIXES, file_prefix, read_text
from cmpf.errors import ImageError
from cmpf.formats.video import is_video

MAX_LIST = 2**30  # bytes of a list of images
HINT = 'give files, folders, lists, or a quoted pattern such as "photos/*.jpg"'


@dataclass(frozen=True)
class Source:
    """An image to segment.

    location: path or URL as the user gave it.
    uri: absolute path, or URL; identifies the image.
    file_name: path relative to the common folder of all images, "2024/beach.jpg".
    name: prefix of the result files, "2024/beach"; unique, also on case-insensitive file systems.
    """

    location: str
    uri: str
    file_name: str
    name: str


@dataclass
class FoundSources:
    """The images and videos that the inputs name.

    images, videos: paths or URLs in input order, without duplicates.
    roots: folders that the inputs lie in, "" for a URL.
    skipped: suffix -> number of files in folders that are neither images nor videos.
    skipped_folders: number of subfolders that were not searched.
    """

    images: list[str] = field(default_factory=list)
    videos: list[str] = field(default_factory=list)
    roots: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    skipped_folders: int = 0

    def sources(self, paths: Sequence[str]) -> list[Source]:
        """The sources of `images` or `videos`."""
        local = [root for root in self.roots if root]
        root = os.path.commonpath(local) if local else ""
        uris = [_uri(path) for path in paths]
        return [
            Source(path, uri, file_name, name)
            for path, uri, (file_name, name) in zip(paths, uris, unique_names(uris, root), strict=True)
        ]

    def describe_skipped(self) -> list[str]:
        """Messages about skipped files and folders."""
        lines = []
        if self.skipped:
            suffixes = ", ".join(
                f"{count} {suffix or 'without extension'}" for suffix, count in self.skipped.most_common()
            )
            lines.append(f"files that are not images: {suffixes}")
        if self.skipped_folders:
            lines.append(f"subfolders: {self.skipped_folders} (use --recursive to search them)")
        return lines


def find_sources(
    inputs: Iterable[str | Path], *, recursive: bool = False, exclude: Path | None = None
) -> FoundSources:
    """Finds the images and videos that the inputs name.

    Args:
        inputs: files, folders, glob patterns such as "photos/*.jpg", http(s) URLs, and list files with one of these
            per line ("@list" or a .txt file).
        recursive: whether to search subfolders.
        exclude: a folder that is not searched: the output folder.
    Raises:
        ImageError: an input matches no image.
    """
    found = FoundSources()
    seen: set[str] = set()
    for given in inputs:
        for path in _expand(str(given), found, recursive, exclude):
            if is_url(path) or not is_video(path):
                if (uri := _uri(path)) not in seen:
                    seen.add(uri)
                    found.images.append(path)
            elif path not in found.videos:
                found.videos.append(path)
    return found


def unique_names(uris: Sequence[str], root: str) -> list[tuple[str, str]]:
    """(file_name, name) of each image; see Source.

    Args:
        root: the common folder of all images, absolute; "" if all are URLs.
    """
    used: set[str] = set()
    names = []
    for uri in uris:
        if "://" in uri:
            path = PurePosixPath(PurePosixPath(unquote(urlsplit(uri).path)).name or "image")
        else:
            path = PurePosixPath(Path(os.path.relpath(uri, root)).as_posix())
        stem = file_prefix(str(path.with_suffix("")))
        options = [stem, f"{stem}_{path.suffix[1:]}" if path.suffix else stem]
        number = 1
        while options[0].casefold() in used:
            number += 1
            options = [*options[1:], f"{stem}_{number}"]
        used.add(options[0].casefold())
        names.append((uri if "://" in uri else str(path), options[0]))
    return names


def is_url(text: str) -> bool:
    """Whether an input is an http(s) URL."""
    return text.lower().startswith(("http://", "https://"))


def list_file(given: str) -> Path | None:
    """The path of a list of images, given as "@list" or as a .txt file; None if the input is no list."""
    if given.startswith("@") and not Path(given).exists():
        return Path(given[1:]).expanduser()
    path = Path(given).expanduser()
    return path if path.suffix.lower() == ".txt" and path.is_file() else None


def read_list(file: Path) -> Iterator[tuple[int, str]]:
    """Line numbers and entries of a list file, without comments.

    Paths are relative to the folder of the list, or else to the working directory.

    Raises:
        ImageError: the list cannot be read, is empty, or names another list.
    """
    try:
        lines = read_text(file, limit=MAX_LIST).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError(f"{file}: no list of images that can be read ({error}); {HINT}") from error
    count = 0
    for number, line in enumerate(lines, start=1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        if name.startswith("@"):
            raise ImageError(f"{file}, line {number}: a list names no other list; give both")
        count += 1
        beside = file.parent / name
        yield number, str(beside) if "://" not in name and beside.exists() else name
    if count == 0:
        raise ImageError(f"{file}: an empty list; write one image per line")


def _uri(path: str) -> str:
    return path if is_url(path) else os.path.abspath(path)


def _expand(given: str, found: FoundSources, recursive: bool, exclude: Path | None) -> Iterator[str]:
    """The files and URLs that an input names; adds to the other fields of `found`."""
    if is_url(given):
        found.roots.append("")
        yield given
        return
    path = Path(given).expanduser()
    try:
        if (file := list_file(given)) is not None:
            yield from _expand_list(file, found, recursive, exclude)
        elif path.is_dir():
            if exclude is not None and _same_path(path, exclude):
                raise ImageError(
                    f"{path}: the output folder is among the input folders; give another --output"
                )
            found.roots.append(os.path.abspath(path))
            yield from _expand_folder(path, found, recursive, exclude)
        elif path.exists():
            found.roots.append(os.path.abspath(path.parent))
            yield str(path)
        else:
            yield from _expand_pattern(str(path), found)
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # an impossible path, or a folder without permission
        raise ImageError(f"{given[:200]}: cannot be read ({error}); check the path") from error


def _expand_list(file: Path, found: FoundSources, recursive: bool, exclude: Path | None) -> Iterator[str]:
    for number, entry in read_list(file):
        try:
            yield from _expand(entry, found, recursive, exclude)
        except ImageError as error:
            raise ImageError(f"{file}, line {number}: {error}") from error


def _expand_folder(folder: Path, found: FoundSources, recursive: bool, exclude: Path | None) -> Iterator[str]:
    """Images of a folder sorted by name, without hidden files and folders."""
    count = subfolders = 0
    for parent, folders, files in os.walk(folder):
        visible = sorted(name for name in folders if not name.startswith("."))
        visible = [
            name for name in visible if exclude is None or not _same_path(Path(parent) / name, exclude)
        ]
        if not recursive:
            subfolders += len(visible)
        folders[:] = visible if recursive else []
        for name in sorted(name for name in files if not name.startswith(".")):
            suffix = Path(name).suffix.lower()
            if suffix in IMAGE_SUFFIXES:
                count += 1
                yield str(Path(parent) / name)
            else:
                found.skipped[suffix] += 1
    found.skipped_folders += subfolders
    if count == 0:
        inside = f"; it has {subfolders} folders, which --recursive enters" if subfolders else ""
        raise ImageError(
            f"{folder}: no image in this folder; expected files {', '.join(IMAGE_SUFFIXES)}{inside}"
        )


def _expand_pattern(pattern: str, found: FoundSources) -> Iterator[str]:
    files = [path for path in sorted(glob.glob(pattern, recursive=True)) if Path(path).is_file()]
    if not files:
        raise ImageError(f"{pattern}: no such image (looked at {Path(pattern).absolute()}); {HINT}")
    root = Path(pattern).parent
    while glob.has_magic(str(root)):
        root = root.parent
    found.roots.append(os.path.abspath(root))
    yield from files


def _same_path(path: Path, other: Path) -> bool:
    return os.path.abspath(path) == os.path.abspath(other)
