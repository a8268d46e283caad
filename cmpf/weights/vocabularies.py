# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The papers' vocabulary files on this machine: downloaded on demand, checked, never shipped."""

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
    """Where a published file lies once it is there."""
    return cache_folder() / "vocabularies" / published_address(key).rpartition("/")[2]


def is_there(key: str) -> bool:
    """Whether a published file is there with the published content."""
    path = vocabulary_path(key)
    return path.is_file() and file_sha256(path) == published_files()[key]


def published_text(key: str) -> str:
    """The content of a published file that is there.

    Raises:
        VocabularyError: it is not, or has another content; names the place, the address and the command that brings it.
    """
    path = vocabulary_path(key)
    if not path.is_file():
        raise VocabularyError(
            f"the published words {key} are not on this machine. Get all of them with: {FETCH} or save "
            f"{published_address(key)} as {path}; DATASETS.VOCABULARIES own does without them"
        )
    if not is_there(key):
        raise VocabularyError(
            f"{path}: not the published file, its SHA-256 is another one; get it with: {FETCH}"
        )
    return read_vocabulary_text(path)


def fetch_vocabularies() -> list[Path]:
    """Downloads every published file that is not there, each whole and with its SHA-256 or not at all.

    Returns:
        Where all of them lie.
    Raises:
        WeightsError: no network, or a file has another content; says what to save where. Files that came are kept.
    """
    places = []
    for key, sha256 in published_files().items():
        path = vocabulary_path(key)
        if path.is_file() and not is_there(key):
            path.unlink()  # not what it should be: an older one, or saved by hand from another place
        remote = Remote(url=published_address(key), title=f"file of published words {key}", sha256=sha256)
        try:
            places.append(download(remote, path))
        except WeightsError as error:
            raise WeightsError(
                f"{error}; `cmpf datasets vocabularies` lists all files and their places"
            ) from error
    return places
