# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Images as people name them: files, folders, patterns, lists and addresses; and names for the files of each."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from cmpf.common.files import IMAGE_SUFFIXES, read_text
from cmpf.errors import ImageError
from cmpf.formats.video import is_video

WEB = ("http://", "https://")
MAX_LIST = 2**30  # bytes of a list of images
HINT = 'give files, folders, lists, or a quoted pattern such as "photos/*.jpg"'


@dataclass(frozen=True)
class Source:
    """An image to segment.

    given: its path or address as it was named. uri: its absolute path, or its address; the same image has the same.
    file_name: path below the folder of all images, "2024/beach.jpg". name: what the names of its files begin with,
    "2024/beach"; no two images have one that some file system does not tell from another.
    """

    given: str
    uri: str
    file_name: str
    name: str


@dataclass
class Found:
    """What inputs stand for.

    images, videos: in their order, each once. skipped: ending -> how many files of folders are neither.
    folders: how many folders in folders were not entered.
    """

    images: list[str] = field(default_factory=list)
    videos: list[str] = field(default_factory=list)
    roots: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    folders: int = 0

    def sources(self, paths: Sequence[str]) -> list[Source]:
        """Images, or videos, with their names."""
        local = [root for root in self.roots if root]
        root = os.path.commonpath(local) if local else ""
        uris = [uri_of(given) for given in paths]
        return [
            Source(given, uri, file_name, name)
            for given, uri, (file_name, name) in zip(paths, uris, named_files(uris, root), strict=True)
        ]

    def left_out(self) -> list[str]:
        """What was not looked at, in words."""
        lines = []
        if self.skipped:
            kinds = ", ".join(
                f"{count} {suffix or 'without an ending'}" for suffix, count in self.skipped.most_common()
            )
            lines.append(f"files that are no images: {kinds}")
        if self.folders:
            lines.append(f"{self.folders} folders in folders: --recursive enters them")
        return lines


def find_sources(
    inputs: Iterable[str | Path], *, recursive: bool = False, without: Path | None = None
) -> Found:
    """The images and videos that inputs name.

    Args:
        inputs: files, folders, patterns such as "photos/*.jpg", http(s) addresses, and lists of all these, one per
            line: "@list" or a file that ends in .txt.
        recursive: enter the folders of folders.
        without: a folder that is not entered: that of the results.
    Raises:
        ImageError: one of the inputs names no image.
    """
    found = Found()
    seen: set[str] = set()
    for given in inputs:
        for name in _expanded(str(given), found, recursive, without):
            if name.startswith(WEB) or not is_video(name):
                if (uri := uri_of(name)) not in seen:
                    seen.add(uri)
                    found.images.append(name)
            elif name not in found.videos:
                found.videos.append(name)
    return found


def uri_of(given: str) -> str:
    """The absolute path of an image, or its address."""
    return given if given.startswith(WEB) else os.path.abspath(given)


def named_files(uris: Sequence[str], root: str) -> list[tuple[str, str]]:
    """Path of each image below the root, and a name of its own for its results.

    Args:
        root: the folder of all images, absolute; "" = none is a file.
    """
    taken: set[str] = set()
    names = []
    for uri in uris:
        if "://" in uri:
            path = PurePosixPath(PurePosixPath(unquote(urlsplit(uri).path)).name or "image")
        else:
            path = PurePosixPath(Path(os.path.relpath(uri, root)).as_posix())
        stem = str(path.with_suffix("")) if path.suffix and path.stem else str(path)
        options = [stem, f"{stem}_{path.suffix[1:]}" if path.suffix else stem]
        number = 1
        while options[0].casefold() in taken:  # some file systems do not tell X from x
            number += 1
            options = [*options[1:], f"{stem}_{number}"]
        taken.add(options[0].casefold())
        names.append((uri if "://" in uri else str(path), options[0]))
    return names


def _expanded(given: str, found: Found, recursive: bool, without: Path | None) -> Iterator[str]:
    if given.lower().startswith(WEB):
        found.roots.append("")
        yield given
        return
    if (listed := list_of(given)) is not None:
        yield from _listed(listed, found, recursive, without)
        return
    path = Path(given).expanduser()
    try:
        if path.is_dir():
            if without is not None and _same(path, without):
                raise ImageError(f"{path}: the results would lie among the images; give another --output")
            found.roots.append(os.path.abspath(path))
            yield from _below(path, found, recursive, without)
        elif path.exists():
            found.roots.append(os.path.abspath(path.parent))
            yield str(path)
        else:
            yield from _matches(str(path), found)
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # no possible path, or a folder that may not be read
        raise ImageError(f"{given[:200]}: cannot be read ({error}); check the path") from error


def _below(folder: Path, found: Found, recursive: bool, without: Path | None) -> Iterator[str]:
    """Images of a folder by name; hidden files and folders are left out."""
    count = 0
    for here, folders, files in os.walk(folder):
        shown = sorted(name for name in folders if not name.startswith("."))
        shown = [name for name in shown if without is None or not _same(Path(here) / name, without)]
        if not recursive:
            found.folders += len(shown)
        folders[:] = shown if recursive else []
        for name in sorted(name for name in files if not name.startswith(".")):
            suffix = Path(name).suffix.lower()
            if suffix in IMAGE_SUFFIXES:
                count += 1
                yield str(Path(here) / name)
            else:
                found.skipped[suffix] += 1
    if count == 0:
        inside = f"; it has {found.folders} folders, which --recursive enters" if found.folders else ""
        raise ImageError(
            f"{folder}: no image in this folder; expected files {', '.join(IMAGE_SUFFIXES)}{inside}"
        )


def _same(path: Path, other: Path) -> bool:
    return os.path.abspath(path) == os.path.abspath(other)


def _matches(pattern: str, found: Found) -> Iterator[str]:
    files = [path for path in sorted(glob.glob(pattern, recursive=True)) if Path(path).is_file()]
    if not files:
        raise ImageError(f"{pattern}: no such image (looked at {Path(pattern).absolute()}); {HINT}")
    fixed = Path(pattern).parent
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    found.roots.append(os.path.abspath(fixed))
    yield from files


def list_of(given: str) -> Path | None:
    """The file of a list of images, "@list" or one that ends in .txt, or None: it is no list."""
    if given.startswith("@") and not Path(given).exists():
        return Path(given[1:]).expanduser()
    path = Path(given).expanduser()
    return path if path.suffix.lower() == ".txt" and path.is_file() else None


def list_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Number and content of the lines of a list; paths are relative to its folder, or else to the working folder.

    Raises:
        ImageError: it cannot be read, is empty, or names another list.
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


def _listed(file: Path, found: Found, recursive: bool, without: Path | None) -> Iterator[str]:
    for number, name in list_lines(file):
        try:
            yield from _expanded(name, found, recursive, without)
        except ImageError as error:
            raise ImageError(f"{file}, line {number}: {error}") from error
