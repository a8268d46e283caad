# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Files of weights on this machine: where they lie, that they are whole, and how they get there."""

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
from cmpf.weights.remote import LIMIT, RANGE_NOT_SATISFIABLE, Remote, answer, is_page, page_error

logger = logging.getLogger(__name__)

ASSETS = Path(__file__).resolve().parent.parent / "assets"
HASHES = "hashes.json"  # of the assets
_ASSET_FIX = "It is part of the package: reinstall CMPF"

ATTEMPTS = 3  # after a connection that breaks in the middle; one that is refused is not tried again
PAUSE = 1.0  # seconds between two attempts
CHUNK = 1 << 20  # bytes
_PASSING = (ConnectionError, TimeoutError, HTTPException)  # worth another attempt
_PARTIAL_CONTENT = 206


def cache_folder() -> Path:
    """Folder of downloaded weights and of caches: $CMPF_CACHE, else `cmpf` in the Hugging Face cache home."""
    own = os.environ.get("CMPF_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(base, "huggingface")
    return Path(home).expanduser() / "cmpf"


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
        raise WeightsError(f"{reason} {_ASSET_FIX}") from error


def checked_asset(name: str, *, folder: Path = ASSETS) -> Path:
    """Path of an asset whose content is what `hashes.json` says.

    Raises:
        WeightsError: the file is missing or damaged; names the file and the fix.
    """
    path = folder / name
    fix = _ASSET_FIX
    if not path.is_file():
        raise WeightsError(f"{path}: not there. {fix}")
    expected, found = expected_hash(name, folder=folder), file_sha256(path)
    if found != expected:
        raise WeightsError(f"{path}: damaged, SHA-256 is {found[:12]}..., expected {expected[:12]}.... {fix}")
    return path


class _InterruptedError(ConnectionError):
    """The connection ended before the file did."""


@dataclass(frozen=True)
class _Version:
    """By what a server tells one version of a file from another. total: its bytes."""

    total: int | None
    tag: str
    modified: str

    @classmethod
    def of(cls, response: HTTPResponse, have: int) -> _Version:
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        return cls(total, response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""))

    def contradicts(self, other: _Version) -> bool:
        """Whether something that is said of both differs."""
        return any(a and b and a != b for a, b in zip(astuple(self), astuple(other), strict=True))


def download(remote: Remote, target: Path) -> Path:
    """Makes sure that a published file is on this machine; a file that is there is taken as it is.

    What has arrived stands in `target` + ".part", and an interrupted download goes on there, also in a later call, as
    long as the server still has the same version of the file. Of several processes that want the same file one
    downloads and the others wait for it. A progress bar is drawn on a terminal. HF_HUB_OFFLINE=1 forbids the network.

    Args:
        target: where the file will be; its folder is made.
    Returns:
        `target`.
    Raises:
        WeightsError: no network, a web page instead of the file, or the content is not the expected one; says what to
            save where.
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
        with _only_one(target, remote.title):
            if not target.is_file():  # else another process has made it while this one waited
                _fetch(remote, target)
    except (OSError, HTTPException) as error:
        raise WeightsError(_advice(remote, target, summary(error))) from error
    return target


def offline() -> bool:
    """Whether the environment forbids the network, in the words that Hugging Face's libraries understand."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def part_of(target: Path) -> Path:
    """Where an unfinished download of the file stands."""
    return target.with_name(f"{target.name}.part")


def record_of(target: Path) -> Path:
    """Where the SHA-256 of a file without a published one is recorded, in the form that `sha256sum -c` reads."""
    return target.with_name(f"{target.name}.sha256")


def check_content(path: Path, target: Path, remote: Remote) -> None:
    """The content of `path`, which will be `target`, must be the published one or that of the first time.

    Raises:
        WeightsError: it is neither; the file stays.
    """
    found, record = file_sha256(path), record_of(target)
    has = f"{remote.title}: {target if path == target else remote.url} has SHA-256 {found}"
    words = record.read_text(encoding="utf-8").split() if record.is_file() else []
    if remote.sha256 is not None:
        if not found.startswith(remote.sha256.lower()):
            raise WeightsError(f"{has}, expected {remote.sha256}")
        logger.info("%s, which is the published one", has)
    elif not words:
        write_text(record, f"{found}  {target.name}\n")
        logger.warning(
            "%s. None is published: this one is recorded in %s and checked from now on", has, record
        )
    elif found != words[0]:
        raise WeightsError(
            f"{has}, the first download had {words[0]} (recorded in {record}: delete that if its authors have replaced "
            "the file and you trust it)"
        )
    else:
        logger.info("%s, which is that of the first download", has)


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


def _fetch(remote: Remote, target: Path) -> None:
    part = part_of(target)
    state = _state_of(part)
    if remote.sha256 is None and _known_version(state) is None:
        part.unlink(missing_ok=True)  # nothing would show that the file has changed meanwhile
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _receive(remote, part, target)
            break
        except _PASSING as error:
            if attempt == ATTEMPTS:
                raise
            logger.warning("%s: %s, trying again", remote.title, summary(error))
            time.sleep(PAUSE)
    try:
        _check_no_page(part, target, remote)
        check_content(part, target, remote)
    except WeightsError as error:
        part.unlink()
        raise WeightsError(f"{error}; the file was removed, download it again") from error
    finally:
        state.unlink(missing_ok=True)
    part.replace(target)


def _check_no_page(part: Path, target: Path, remote: Remote) -> None:
    """Some servers send their pages as if they were files."""
    with part.open("rb") as file:
        start = file.read(LIMIT)
    if is_page(start):
        raise page_error(remote, start, target)


def _state_of(part: Path) -> Path:
    """Which version of the file the part belongs to."""
    return part.with_name(f"{part.name}.json")


def _known_version(state: Path) -> _Version | None:
    try:
        return _Version(**json.loads(state.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _receive(remote: Remote, part: Path, target: Path) -> None:
    """Appends to the part what it lacks; starts again where the server does not know how to continue."""
    have = part.stat().st_size if part.is_file() else 0
    try:
        response = answer(remote, have=have, target=target)
    except HTTPError as error:
        if error.code != RANGE_NOT_SATISFIABLE or not have:
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
        version = _Version.of(response, have)
        if have and (_known_version(_state_of(part)) or version).contradicts(version):
            part.unlink()
            raise _InterruptedError("the file on the server has changed meanwhile")
        if remote.size is not None and version.total not in (None, remote.size):
            raise WeightsError(
                f"{remote.title}: {remote.url} has {version.total:,} bytes, its authors state {remote.size:,}: it is "
                "another file. Nothing was downloaded"
            )
        write_text(_state_of(part), json.dumps(asdict(version)))
        _write(response, part, have=have, total=version.total, title=remote.title)


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


def _advice(remote: Remote, target: Path, reason: str) -> str:
    return (
        f"{remote.title} is not on this machine and cannot be downloaded ({reason}): save "
        f"{remote.page or remote.url} as {target}"
    )
