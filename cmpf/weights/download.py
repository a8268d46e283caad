# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Files of weights on this machine: where they lie, that they are whole, and how they get there."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from filelock import FileLock, Timeout
from tqdm import tqdm

from cmpf.errors import WeightsError, summary

logger = logging.getLogger(__name__)

ASSETS = Path(__file__).resolve().parent.parent / "assets"
HASHES = "hashes.json"  # of the assets
_ASSET_FIX = "Reinstall CMPF, or make it again with: python tools/train_tiny_encoders.py --out {folder}"

ATTEMPTS = 3  # after a connection that breaks in the middle; one that is refused is not tried again
PAUSE = 1.0  # seconds between two attempts
TIMEOUT = 30.0  # seconds without an answer
CHUNK = 1 << 20  # bytes
_PARTIAL_CONTENT, _RANGE_NOT_SATISFIABLE = 206, 416


def cache_folder() -> Path:
    """Folder of downloaded weights and of caches: $CMPF_CACHE, else `cmpf` in the Hugging Face cache home."""
    own = os.environ.get("CMPF_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(base, "huggingface")
    return Path(home).expanduser() / "cmpf"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits; reads it piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def expected_hash(name: str, *, folder: Path = ASSETS) -> str:
    """The SHA-256 that `hashes.json` of the folder gives for the asset.

    Raises:
        WeightsError: no such list, or the asset is not in it.
    """
    path = folder / HASHES
    try:
        hashes = json.loads(path.read_text(encoding="utf-8"))
        return str(hashes[name])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{path}: no SHA-256 of {name} ({type(error).__name__}: {error})."
        raise WeightsError(f"{reason} {_ASSET_FIX.format(folder=folder)}") from error


def checked_asset(name: str, *, folder: Path = ASSETS) -> Path:
    """Path of an asset whose content is what `hashes.json` says.

    Raises:
        WeightsError: the file is missing or damaged; names the file and the fix.
    """
    path = folder / name
    fix = _ASSET_FIX.format(folder=folder)
    if not path.is_file():
        raise WeightsError(f"{path}: not there. {fix}")
    expected, found = expected_hash(name, folder=folder), file_sha256(path)
    if found != expected:
        raise WeightsError(f"{path}: damaged, SHA-256 is {found[:12]}..., expected {expected[:12]}.... {fix}")
    return path


class _InterruptedError(ConnectionError):
    """The connection ended before the file did."""


_PASSING = (ConnectionError, TimeoutError, HTTPException)  # worth another attempt


def download(url: str, target: Path, *, sha256: str | None, title: str) -> Path:
    """Makes sure that a published file is on this machine; a file that is there is taken as it is.

    What has arrived stands in `target` + ".part". With a known hash an interrupted download goes on there, also
    in a later call; without one it starts again, since nothing would show that the file has changed meanwhile.
    Of several processes that want the same file one downloads and the others wait for it. A progress bar is
    drawn on a terminal. HF_HUB_OFFLINE=1 forbids the network.

    Args:
        url: http or https.
        target: where the file will be; its folder is made.
        sha256: expected SHA-256 in hexadecimal digits, or its first ones; None = the content is not known.
        title: what the file is, for the progress bar and messages.
    Returns:
        `target`.
    Raises:
        WeightsError: no network, or the content is not the expected one; says what to save where.
    """
    if target.is_file():
        return target
    if offline():
        raise WeightsError(_advice(url, target, title, "HF_HUB_OFFLINE is set"))
    if not url.startswith(("http://", "https://")):
        raise WeightsError(f"{title}: {url!r} is not an address that starts with http:// or https://")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(target, title):
            if not target.is_file():  # else another process has made it while this one waited
                _fetch(url, target, sha256, title)
    except (OSError, HTTPException) as error:
        raise WeightsError(_advice(url, target, title, summary(error))) from error
    return target


def offline() -> bool:
    """Whether the environment forbids the network, in the words that Hugging Face's libraries understand."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def part_of(target: Path) -> Path:
    """Where an unfinished download of the file stands."""
    return target.with_name(f"{target.name}.part")


@contextmanager
def _only_one(target: Path, title: str) -> Iterator[None]:
    """Holds a lock; waits first while another process downloads the same file."""
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


def _fetch(url: str, target: Path, sha256: str | None, title: str) -> None:
    part = part_of(target)
    for attempt in range(1, ATTEMPTS + 1):
        if sha256 is None:
            part.unlink(missing_ok=True)
        try:
            _receive(url, part, title)
            break
        except _PASSING as error:
            if attempt == ATTEMPTS:
                raise
            logger.warning("%s: %s, trying again", title, summary(error))
            time.sleep(PAUSE)
    if sha256 is not None:
        _check(url, part, sha256, title)
    part.replace(target)


def _receive(url: str, part: Path, title: str) -> None:
    """Appends to the part what it lacks; starts again where the server does not know how to continue."""
    have = part.stat().st_size if part.is_file() else 0
    request = Request(url, headers={"User-Agent": "cmpf"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response: HTTPResponse = urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        if error.code != _RANGE_NOT_SATISFIABLE or not have:
            raise
        if error.headers.get("Content-Range", "").endswith(f"/{have}"):
            return  # nothing is lacking
        part.unlink()
        raise _InterruptedError(f"{part} does not belong to the file on the server") from error
    with response:
        if response.status != _PARTIAL_CONTENT:
            have = 0  # the server sends the file from its beginning
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise _InterruptedError(f"asked for the bytes from {have} on, the server sends others")
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        _write(response, part, have=have, total=total, title=title)


def _write(response: HTTPResponse, part: Path, *, have: int, total: int | None, title: str) -> None:
    """Copies the answer behind the first `have` bytes of the part.

    Raises:
        _InterruptedError: fewer bytes came than the server had announced.
    """
    bar = tqdm(desc=title, initial=have, total=total, unit="B", unit_scale=True, disable=None)
    with part.open("ab" if have else "wb") as file, bar:
        while chunk := response.read(CHUNK):
            file.write(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    if total is not None and size != total:
        raise _InterruptedError(f"the connection ended after {size} of {total} bytes, kept in {part}")


def _check(url: str, part: Path, sha256: str, title: str) -> None:
    found = file_sha256(part)
    if not found.startswith(sha256.lower()):
        part.unlink()
        raise WeightsError(
            f"{title}: {url} has SHA-256 {found}, expected {sha256}; the file was removed, download it again"
        )


def _advice(url: str, target: Path, title: str, reason: str) -> str:
    return f"{title} is not on this machine and cannot be downloaded ({reason}): save {url} as {target}"
