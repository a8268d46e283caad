# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Downloads files of weights to the cache, resumes interrupted downloads and verifies SHA-256 hashes."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError

from filelock import FileLock, Timeout
from tqdm import tqdm

from cmpf.common.files import file_sha256, write_text
from cmpf.errors import WeightsError, summary
from cmpf.weights.remote import LIMIT, RANGE_NOT_SATISFIABLE, Remote, is_page, page_error, request_file

logger = logging.getLogger(__name__)

ASSETS = Path(__file__).resolve().parent.parent / "assets"
HASHES = "hashes.json"  # SHA-256 of each asset
_ASSET_FIX = "It is part of the package: reinstall CMPF"

ATTEMPTS = 3  # if a connection breaks during a download; a refused connection is not retried
PAUSE = 1.0  # seconds between attempts
CHUNK = 1 << 20  # bytes
_TRANSIENT = (ConnectionError, TimeoutError, HTTPException)  # errors that are retried
_PARTIAL_CONTENT = 206


def cache_folder() -> Path:
    """Folder of downloaded weights and caches: $CMPF_CACHE, else `cmpf` in Hugging Face's cache."""
    own = os.environ.get("CMPF_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(base, "huggingface")
    return Path(home).expanduser() / "cmpf"


def expected_hash(name: str, *, folder: Path = ASSETS) -> str:
    """The SHA-256 of an asset, from the folder's `hashes.json`.

    Raises:
        WeightsError: `hashes.json` is missing or does not list the asset.
    """
    path = folder / HASHES
    try:
        hashes = json.loads(path.read_text(encoding="utf-8"))
        return str(hashes[name])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{path}: no SHA-256 of {name} ({type(error).__name__}: {error})."
        raise WeightsError(f"{reason} {_ASSET_FIX}") from error


def checked_asset(name: str, *, folder: Path = ASSETS) -> Path:
    """Path of an asset after a check of its SHA-256.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    path = folder / name
    if not path.is_file():
        raise WeightsError(f"{path}: not there. {_ASSET_FIX}")
    expected, actual = expected_hash(name, folder=folder), file_sha256(path)
    if actual != expected:
        raise WeightsError(
            f"{path}: damaged, SHA-256 is {actual[:12]}..., expected {expected[:12]}.... {_ASSET_FIX}"
        )
    return path


class _InterruptedError(ConnectionError):
    """The connection ended before the whole file arrived."""


@dataclass(frozen=True)
class _Version:
    """Size in bytes, ETag and modification date, by which versions of a file on a server are told apart."""

    total: int | None
    tag: str
    modified: str

    @classmethod
    def from_response(cls, response: HTTPResponse, offset: int) -> _Version:
        length = response.headers.get("Content-Length")
        total = offset + int(length) if length else None
        return cls(total, response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""))

    def contradicts(self, other: _Version) -> bool:
        """Whether a value that both versions have differs."""
        return any(a and b and a != b for a, b in zip(astuple(self), astuple(other), strict=True))


def download(remote: Remote, target: Path) -> Path:
    """Downloads a published file unless it exists; an existing file is not checked.

    Data is written to `target` + ".part". An interrupted download resumes from there, also in a later call, if the
    server still has the same version of the file. If several processes need the file, one downloads it while the
    others wait. Shows a progress bar on a terminal. HF_HUB_OFFLINE=1 forbids downloads.

    Args:
        remote: the file to download.
        target: path of the file; its folder is created.
    Returns:
        `target`.
    Raises:
        WeightsError: there is no network, the server sent a web page, or the SHA-256 differs; the message says how to
            get the file by hand.
    """
    if target.is_file():
        return target
    if offline():
        raise WeightsError(_advice(remote, target, "HF_HUB_OFFLINE is set"))
    if not remote.address.startswith(("http://", "https://")):
        raise WeightsError(
            f"{remote.title}: {remote.address!r} is not an address that starts with http:// or https://"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(target, remote.title):
            if not target.is_file():  # else another process downloaded it while this one waited
                _download(remote, target)
    except (OSError, HTTPException) as error:
        raise WeightsError(_advice(remote, target, summary(error))) from error
    return target


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids downloads, with the values that Hugging Face's libraries accept."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def partial_path(target: Path) -> Path:
    """Path of an unfinished download of a file."""
    return target.with_name(f"{target.name}.part")


def hash_record_path(target: Path) -> Path:
    """Path of the recorded SHA-256 of a file without a published one, in the format of `sha256sum -c`."""
    return target.with_name(f"{target.name}.sha256")


def recorded_hash(target: Path) -> str:
    """The recorded SHA-256 of a file without a published one; "" if none is recorded."""
    record = hash_record_path(target)
    return record.read_text(encoding="latin-1").partition(" ")[0].strip() if record.is_file() else ""


def check_content(path: Path, target: Path, remote: Remote) -> None:
    """Compares a file's SHA-256 with the published one; if there is none, with that of the first download.

    Args:
        path: the file to check.
        target: its final path, beside which the SHA-256 is recorded.
        remote: the published file.
    Raises:
        WeightsError: the SHA-256 differs; the file is kept.
    """
    sha256, recorded, record = file_sha256(path), recorded_hash(target), hash_record_path(target)
    message = f"{remote.title}: {target if path == target else remote.url} has SHA-256 {sha256}"
    if remote.sha256 is not None:
        if not sha256.startswith(remote.sha256.lower()):
            raise WeightsError(f"{message}, expected {remote.sha256}")
        logger.info("%s, as published", message)
    elif not recorded:
        write_text(record, f"{sha256}  {target.name}\n")
        logger.warning(
            "%s. No hash is published; this one is recorded in %s and checked from now on", message, record
        )
    elif sha256 != recorded:
        raise WeightsError(
            f"{message}, the first download had {recorded} (recorded in {record}: delete that if its authors have "
            "replaced the file and you trust it)"
        )
    else:
        logger.info("%s, as at the first download", message)


@contextmanager
def _exclusive(target: Path, title: str) -> Iterator[None]:
    """Locks a file's download; waits while another process holds the lock."""
    lock = FileLock(f"{target}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("%s: waiting for another process that downloads %s", title, target)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _download(remote: Remote, target: Path) -> None:
    part = partial_path(target)
    version_file = _version_path(part)
    if remote.sha256 is None and _read_version(version_file) is None:
        part.unlink(missing_ok=True)  # a change of the file on the server could not be detected
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _receive(remote, part, target)
            break
        except _TRANSIENT as error:
            if attempt == ATTEMPTS:
                raise
            logger.warning("%s: %s; retrying", remote.title, summary(error))
            time.sleep(PAUSE)
    try:
        _check_not_a_page(part, target, remote)
        check_content(part, target, remote)
    except WeightsError as error:
        part.unlink()
        raise WeightsError(f"{error}; the file was removed, download it again") from error
    finally:
        version_file.unlink(missing_ok=True)
    part.replace(target)


def _check_not_a_page(part: Path, target: Path, remote: Remote) -> None:
    """Rejects a web page that a server sent with the content type of a file."""
    with part.open("rb") as file:
        start = file.read(LIMIT)
    if is_page(start):
        raise page_error(remote, start, target)


def _version_path(part: Path) -> Path:
    """Path of the version of the file that a partial download belongs to."""
    return part.with_name(f"{part.name}.json")


def _read_version(path: Path) -> _Version | None:
    try:
        return _Version(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _receive(remote: Remote, part: Path, target: Path) -> None:
    """Appends the missing bytes to a partial download, or starts over if the server cannot continue it."""
    offset = part.stat().st_size if part.is_file() else 0
    try:
        response = request_file(remote, offset=offset, target=target)
    except HTTPError as error:
        if error.code != RANGE_NOT_SATISFIABLE or not offset:
            raise
        if error.headers.get("Content-Range", "").endswith(f"/{offset}"):
            return  # the download is already complete
        part.unlink()
        raise _InterruptedError(f"{part} does not belong to the file on the server") from error
    with response:
        if response.status != _PARTIAL_CONTENT:
            offset = 0  # the server sends the whole file
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            part.unlink()
            raise _InterruptedError(f"asked for the bytes from {offset} on, the server sends others")
        version = _Version.from_response(response, offset)
        if offset and (_read_version(_version_path(part)) or version).contradicts(version):
            part.unlink()
            raise _InterruptedError("the file on the server has changed meanwhile")
        if remote.size is not None and version.total not in (None, remote.size):
            raise WeightsError(
                f"{remote.title}: {remote.url} has {version.total:,} bytes, its authors state {remote.size:,}: it is "
                "another file. Nothing was downloaded"
            )
        write_text(_version_path(part), json.dumps(asdict(version)))
        _write(response, part, offset=offset, total=version.total, title=remote.title)


def _write(response: HTTPResponse, part: Path, *, offset: int, total: int | None, title: str) -> None:
    """Appends the response to a partial download of `offset` bytes, or overwrites the file if this is 0.

    Raises:
        _InterruptedError: fewer bytes arrived than the server announced.
    """
    bar = tqdm(desc=title, initial=offset, total=total, unit="B", unit_scale=True, disable=None)
    with part.open("ab" if offset else "wb") as file, bar:
        while chunk := response.read(CHUNK):
            file.write(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    if total is not None and size != total:
        raise _InterruptedError(f"the connection ended after {size} of {total} bytes, kept in {part}")


def _advice(remote: Remote, target: Path, reason: str) -> str:
    return (
        f"{remote.title} is not on this machine and cannot be downloaded ({reason}): save "
        f"{remote.page or remote.url} as {target}"
    )
