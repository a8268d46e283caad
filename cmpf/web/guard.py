# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What stands between network and page: names of this machine, limits and addresses of requests, room on the disk."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import shutil
import socket
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from cmpf.errors import CMPFError
from cmpf.web.inputs import Limits

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

BODY_SECONDS = 120.0  # for the body of a request: 25 MiB at 1.7 megabits a second, 100 MiB at 7
HEAD_SECONDS = 20.0  # for its head
OTHER_BYTES = 2**20  # of a request that uploads nothing
_OVERHEAD = 2**16  # what a form adds to its files


class Room:
    """Place on the disk for uploads and results.

    Args:
        folder: where they lie, each in a folder of its own. What is there at the first use stays.
        limits: see Limits.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder = folder
        self._bytes = limits.uploads_mb * 2**20
        self._own: set[str] | None = None

    def make(self, needed: int) -> None:
        """Removes the files that nobody has used for the longest time, until so many bytes more fit.

        Raises:
            CMPFError: they would not fit into the empty room.
        """
        if needed > self._bytes:
            raise CMPFError(
                f"{needed:,} bytes, and all files of this page may take {self._bytes:,}; take fewer or smaller images, "
                "or start cmpf serve with a larger --uploads-mb"
            )
        entries = {path.name: path for path in self.folder.iterdir()} if self.folder.is_dir() else {}
        if self._own is None:
            self._own = set(entries)
        files = [
            (_last_use(path), _bytes_of(path), path)
            for name, path in entries.items()
            if name not in self._own
        ]
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total + needed <= self._bytes:
                break
            shutil.rmtree(path, ignore_errors=True)
            total -= size


class Guard:
    """ASGI middleware.

    A page that listens on this machine alone can still be reached from other pages in the visitor's browser, under a
    name that leads here (DNS rebinding): only numbers, localhost, this machine's name and trusted names are answered.
    Gradio downloads the address that a handmade request gives in place of an upload, for any of its components and
    without a switch: such requests are refused.

    Args:
        app: the page. limits: see Limits. hosts: trusted names. room: for uploads.
    """

    def __init__(self, app: App, *, limits: Limits, hosts: Sequence[str], room: Room) -> None:
        self._app = app
        self._upload_bytes = limits.request_bytes
        self._room = room
        self._hosts = {"localhost", socket.gethostname().lower(), *(host.lower() for host in hosts)}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if not self._trusted(host):
            issue = f"this page does not answer to the name {host[:80]!r}; start cmpf serve with --trusted-host NAME"
            return await _answer(send, 400, issue)
        upload = str(scope["path"]).endswith("/upload")
        longest = self._upload_bytes + _OVERHEAD if upload else OTHER_BYTES
        length = headers.get(b"content-length", "0")
        if not (length.isascii() and length.isdecimal()):
            return await _answer(send, 400, "Content-Length is no number")
        if int(length) > longest:
            return await _answer(send, 413, f"request exceeded maximum allowed size of {longest:,} bytes")
        if upload:
            self._room.make(min(int(length) or longest, self._upload_bytes))
        await self._bounded(scope, receive, send, longest)

    def _trusted(self, host: str) -> bool:
        name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.lower().rstrip(".") in self._hosts
        return True

    async def _bounded(self, scope: Message, receive: Receive, send: Send, longest: int) -> None:
        """Runs the page with a body that ends in time and is no longer than that."""
        loop = asyncio.get_running_loop()
        until = loop.time() + BODY_SECONDS
        seen, whole, begun = 0, scope["type"] != "http", False
        content = b""  # of a request that uploads nothing
        refused: tuple[int, str] | None = None

        async def bounded() -> Message:
            nonlocal seen, whole, refused, content
            if whole:
                # What comes now is the end of the connection, for which a stream of results may wait long.
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.001, until - loop.time()))
            except asyncio.TimeoutError:
                refused = 408, f"the request was not complete after {BODY_SECONDS:g} s"
                return {"type": "http.disconnect"}
            seen += len(message.get("body", b""))
            if seen > longest:
                refused = 413, f"request exceeded maximum allowed size of {longest:,} bytes"
                return {"type": "http.disconnect"}
            whole = not message.get("more_body", False)
            if longest == OTHER_BYTES:
                content += message.get("body", b"")
                if whole and _names_an_address(content):
                    refused = 400, "Addresses are not downloaded; upload the image."
                    return {"type": "http.disconnect"}
            return message

        async def sent(message: Message) -> None:
            nonlocal begun
            if refused is None:
                begun = True
                await send(message)

        try:
            await self._app(scope, bounded, sent)
        except Exception:
            if refused is None:
                raise
        if refused is not None and not begun:
            await _answer(send, *refused)


def _names_an_address(content: bytes) -> bool:
    """Whether JSON has an object, as Gradio's FileData is, whose path is an address."""
    found = []

    def look(data: dict[str, Any]) -> None:
        found.append(str(data.get("path", "")).lower().startswith(("http:", "https:")))

    try:
        json.loads(content, object_hook=look)
    except (ValueError, RecursionError):  # which Gradio cannot read either
        return False
    return any(found)


def end_half_requests(server: Any, stop: threading.Event) -> None:
    """Closes connections whose request has no whole head in HEAD_SECONDS, until told to stop; for a thread of its own.

    Args:
        server: uvicorn's, which itself waits for good.
    """
    waiting: dict[Any, float] = {}
    while not stop.wait(HEAD_SECONDS / 4):
        now = time.monotonic()
        idle = [c for c in list(server.server_state.connections) if getattr(c, "cycle", None) is None]
        waiting = {connection: waiting.get(connection, now) for connection in idle}
        for connection, since in waiting.items():
            if now - since > HEAD_SECONDS and connection.transport is not None:
                connection.loop.call_soon_threadsafe(connection.transport.close)


async def _answer(send: Send, status: int, issue: str) -> None:
    body = json.dumps({"detail": issue}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _last_use(path: Path) -> float:
    try:
        return max((file.stat().st_mtime for file in path.rglob("*")), default=path.stat().st_mtime)
    except OSError:  # removed meanwhile
        return 0.0


def _bytes_of(path: Path) -> int:
    try:
        return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]))
    except OSError:
        return 0
