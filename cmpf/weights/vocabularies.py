# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Downloads and verifies the vocabulary files of the papers, which are not part of the package."""

from __future__ import annotations

from pathlib import Path

from cmpf.common.files import file_sha256
from cmpf.data.datasets.published import published_address, published_files
from cmpf.data.vocabulary_file import read_vocabulary_text
from cmpf.errors import VocabularyError, WeightsError
from cmpf.weights.download import cache_folder, download
from cmpf.weights.remote import Remote

FETCH = "cmpf datasets vocabularies --fetch"


def vocabulary_path(key: str) -> Path:
    """Path of a published vocabulary file in the cache."""
    return cache_folder() / "vocabularies" / published_address(key).rpartition("/")[2]


def is_available(key: str) -> bool:
    """Whether a published file is in the cache with the published SHA-256."""
    path = vocabulary_path(key)
    return path.is_file() and file_sha256(path) == published_files()[key]


def published_text(key: str) -> str:
    """The content of a published file in the cache.

    Raises:
        VocabularyError: the file is missing or its SHA-256 differs; the message says how to get it.
    """
    path = vocabulary_path(key)
    if not path.is_file():
        raise VocabularyError(
            f"the published words {key} are not on this machine. Get all of them with: {FETCH} or save "
            f"{published_address(key)} as {path}; DATASETS.VOCABULARIES own does without them"
        )
    if not is_available(key):
        raise VocabularyError(
            f"{path}: not the published file, its SHA-256 is another one; get it with: {FETCH}"
        )
    return read_vocabulary_text(path)


def fetch_vocabularies() -> list[Path]:
    """Downloads all published files that are not available.

    Returns:
        Paths of all published files.
    Raises:
        WeightsError: there is no network, or the SHA-256 of a file differs; files downloaded before are kept.
    """
    paths = []
    for key, sha256 in published_files().items():
        path = vocabulary_path(key)
        if path.is_file() and not is_available(key):
            path.unlink()  # another version, or saved by hand from elsewhere
        remote = Remote(url=published_address(key), title=f"file of published words {key}", sha256=sha256)
        try:
            paths.append(download(remote, path))
        except WeightsError as error:
            raise WeightsError(
                f"{error}; `cmpf datasets vocabularies` lists all files and their places"
            ) from error
    return paths
