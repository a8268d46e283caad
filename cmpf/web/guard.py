# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Protects the page: an ASGI middleware that checks hosts and limits requests, and a quota for files on the disk."""

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

BODY_SECONDS = 120.0  # timeout for the body of a request: 25 MiB at 1.7 Mbit/s, 100 MiB at 7
HEAD_SECONDS = 20.0  # timeout for its head
# Not "/upload": the paths of other routes may end in it, such as /gradio_api/run/upload.
UPLOAD_ROUTE = "/gradio_api/upload"
MAX_OTHER_BYTES = 2**20  # size limit of a request that is not an upload
_FORM_OVERHEAD = 2**16  # bytes that a multipart form adds to its files


class DiskQuota:
    """Limits the disk space of uploads and results.

    Args:
        folder: contains a folder for each upload or result. Files that exist before the first call of `free` do not
            count, and are never removed.
        limits: see Limits.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder = folder
        self._max_bytes = limits.uploads_mb * 2**20
        self._permanent: set[str] | None = None

    def free(self, size: int) -> None:
        """Removes the least recently modified files until `size` more bytes fit.

        Raises:
            CMPFError: `size` exceeds the quota.
        """
        if size > self._max_bytes:
            raise CMPFError(
                f"{size:,} bytes exceed this page's limit of {self._max_bytes:,} for all files; use fewer or smaller "
                "images, or start cmpf serve with a larger --uploads-mb"
            )
        entries = {path.name: path for path in self.folder.iterdir()} if self.folder.is_dir() else {}
        if self._permanent is None:
            self._permanent = set(entries)
        files = [
            (_last_modified(path), _total_size(path), path)
            for name, path in entries.items()
            if name not in self._permanent
        ]
        total = sum(file_size for _, file_size, _ in files)
        for _, file_size, path in sorted(files):
            if total + size <= self._max_bytes:
                break
            shutil.rmtree(path, ignore_errors=True)
            total -= file_size


class Guard:
    """ASGI middleware that rejects dangerous requests.

    - A page on 127.0.0.1 can be reached by other web sites through a name that resolves to it (DNS rebinding).
      Therefore the host of a request must be an IP address, localhost, this machine's name or a trusted name.
    - Gradio downloads the URL that a crafted request gives in place of an upload, in any component, and has no option
      to disable that. Requests with such a URL are rejected.
    - The size of a request and the time for its body are limited.

    Args:
        app: the page.
        limits: see Limits.
        hosts: trusted host names.
        quota: for uploads.
    """

    def __init__(self, app: App, *, limits: Limits, hosts: Sequence[str], quota: DiskQuota) -> None:
        self._app = app
        self._max_upload_bytes = limits.request_bytes
        self._quota = quota
        self._hosts = {"localhost", socket.gethostname().lower(), *(host.lower() for host in hosts)}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if not self._is_trusted(host):
            issue = f"host {host[:80]!r} is not trusted; start cmpf serve with --trusted-host NAME"
            return await _respond(send, 400, issue)
        is_upload = str(scope["path"]).endswith(UPLOAD_ROUTE)
        max_bytes = self._max_upload_bytes + _FORM_OVERHEAD if is_upload else MAX_OTHER_BYTES
        length = headers.get(b"content-length", "0")
        if not (length.isascii() and length.isdecimal()):
            return await _respond(send, 400, "Content-Length is not a number")
        if int(length) > max_bytes:
            return await _respond(send, 413, f"request exceeded maximum allowed size of {max_bytes:,} bytes")
        if is_upload:
            self._quota.free(min(int(length) or max_bytes, self._max_upload_bytes))
        await self._run_limited(scope, receive, send, max_bytes, check_urls=not is_upload)

    def _is_trusted(self, host: str) -> bool:
        name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.lower().rstrip(".") in self._hosts
        return True

    async def _run_limited(
        self, scope: Message, receive: Receive, send: Send, max_bytes: int, *, check_urls: bool
    ) -> None:
        """Runs the page; a body that is too slow or too large, or has a URL in place of an upload, is rejected."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + BODY_SECONDS
        received, complete, responded = 0, scope["type"] != "http", False
        content = b""
        rejection: tuple[int, str] | None = None

        async def limited_receive() -> Message:
            nonlocal received, complete, rejection, content
            if complete:
                # The next message is the disconnect, for which a stream of results may wait long.
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.001, deadline - loop.time()))
            except asyncio.TimeoutError:
                rejection = 408, f"the request was not complete after {BODY_SECONDS:g} s"
                return {"type": "http.disconnect"}
            received += len(message.get("body", b""))
            if received > max_bytes:
                rejection = 413, f"request exceeded maximum allowed size of {max_bytes:,} bytes"
                return {"type": "http.disconnect"}
            complete = not message.get("more_body", False)
            if check_urls:
                content += message.get("body", b"")
                if complete and _has_url(content):
                    rejection = 400, "URLs are not downloaded; upload the image."
                    return {"type": "http.disconnect"}
            return message

        async def checked_send(message: Message) -> None:
            nonlocal responded
            if rejection is None:
                responded = True
                await send(message)

        try:
            await self._app(scope, limited_receive, checked_send)
        except Exception:
            if rejection is None:
                raise
        if rejection is not None and not responded:
            await _respond(send, *rejection)


def close_stalled_connections(server: Any, stop: threading.Event) -> None:
    """Closes connections that have not sent a complete request head in HEAD_SECONDS, until `stop` is set.

    Runs in a thread of its own; uvicorn itself has no such timeout.

    Args:
        server: uvicorn.Server.
    """
    stalled: dict[Any, float] = {}
    while not stop.wait(HEAD_SECONDS / 4):
        now = time.monotonic()
        idle = [c for c in list(server.server_state.connections) if getattr(c, "cycle", None) is None]
        stalled = {connection: stalled.get(connection, now) for connection in idle}
        for connection, since in stalled.items():
            if now - since > HEAD_SECONDS and connection.transport is not None:
                connection.loop.call_soon_threadsafe(connection.transport.close)


def _has_url(content: bytes) -> bool:
    """Whether JSON contains an object like Gradio's FileData whose path is a URL."""
    urls = []

    def check(data: dict[str, Any]) -> None:
        urls.append(str(data.get("path", "")).lower().startswith(("http:", "https:")))

    try:
        json.loads(content, object_hook=check)
    except (ValueError, RecursionError):  # Gradio cannot parse it either
        return False
    return any(urls)


async def _respond(send: Send, status: int, issue: str) -> None:
    body = json.dumps({"detail": issue}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _last_modified(path: Path) -> float:
    try:
        return max((file.stat().st_mtime for file in path.rglob("*")), default=path.stat().st_mtime)
    except OSError:  # removed by another thread
        return 0.0


def _total_size(path: Path) -> int:
    try:
        return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]))
    except OSError:
        return 0
