# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""A server on this machine that behaves like the hosts of published weights: Google Drive, the Hub, Meta's."""

from __future__ import annotations

import hashlib
import io
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor

from cmpf.weights import download

DRIVE, META = "/drive.usercontent.google.com/download", "/dl.fbaipublicfiles.com/segment_anything/"
QUOTA = """<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>
Sorry, you can&#39;t view or download this file at this time.
Too many users have viewed or downloaded this file recently.</body></html>"""
REMOVED = "<!DOCTYPE html><html><body>Sorry, the file you have requested does not exist.</body></html>"
SCAN = """<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<form id="download-form" action="https://drive.usercontent.google.com/download" method="get">
<input type="hidden" name="id" value="{id}"><input type="hidden" name="export" value="download">
<input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="1-2-3"></form></body></html>"""


class WeightsServer(ThreadingHTTPServer):
    """Serves files by address.

    drive: id -> file. hub: "USER/REPOSITORY/FILE" -> file. meta: name -> file.
    quota: Drive's quota is used up. scans: Drive asks for a confirmation first. stops: after how many bytes each of
    the next answers of Drive ends. asked: "METHOD address" of each request, with the range if there is one.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.drive: dict[str, Path] = {}
        self.hub: dict[str, Path] = {}
        self.meta: dict[str, Path] = {}
        self.quota = self.scans = False
        self.stops: list[int] = []
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def asked_of(self, host: str) -> list[str]:
        """Requests for files of "drive", "hub" or "meta"."""
        start = {"drive": DRIVE, "meta": META}.get(host, "")
        mine = [line for line in self.asked if line.split()[1].startswith(start)]
        return [line for line in mine if start or not line.split()[1].startswith((DRIVE, META))]


class _Handler(BaseHTTPRequestHandler):
    server: WeightsServer

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        given = self.headers.get("Range")
        self.server.asked.append(f"{self.command} {self.path}{f' {given}' if given else ''}")
        address = urlsplit(self.path)
        if address.path == DRIVE:
            self._drive(parse_qs(address.query))
        elif address.path.startswith(META):
            self._file(self.server.meta.get(address.path.removeprefix(META)), body=body)
        else:
            repository, _, rest = address.path[1:].partition("/resolve/")
            file = self.server.hub.get(f"{repository}/{rest.partition('/')[2]}")
            extra = {"X-Repo-Commit": "0" * 40, **({} if file else {"X-Error-Code": "EntryNotFound"})}
            self._file(file, body=body, extra=extra)

    def _drive(self, query: Mapping[str, list[str]]) -> None:
        server, name = self.server, query["id"][0]
        if server.quota:
            self._page(200, QUOTA)
        elif name not in server.drive:
            self._page(404, REMOVED)
        elif server.scans and "uuid" not in query:
            self._page(200, SCAN.format(id=name))
        else:
            self._file(server.drive[name], body=True, stop=server.stops.pop(0) if server.stops else None)

    def _page(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def _file(
        self,
        path: Path | None,
        *,
        body: bool,
        extra: Mapping[str, str] | None = None,
        stop: int | None = None,
    ) -> None:
        total = 0 if path is None else path.stat().st_size
        given = self.headers.get("Range")
        begin = int(given.removeprefix("bytes=").partition("-")[0]) if given else 0
        self.send_response(404 if path is None else 206 if given else 200)
        if given:
            self.send_header("Content-Range", f"bytes {begin}-{total - 1}/{total}")
        self.send_header("Content-Length", str(total - begin))
        self.send_header("ETag", f'"{hashlib.sha256(str(path).encode()).hexdigest()[:40]}"')
        self.send_header("Content-Type", "application/octet-stream")
        for name, value in (extra or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if body and path is not None:
            with path.open("rb") as file:
                file.seek(begin)
                if stop is None:
                    shutil.copyfileobj(file, self.wfile, 1 << 20)
                else:
                    shutil.copyfileobj(io.BytesIO(file.read(stop)), self.wfile)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def weights_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WeightsServer]:
    """A running server that all downloads of this process go to, with the network allowed to them."""
    server = WeightsServer()
    for name, value in {"CMPF_MIRROR": server.url, "HF_HUB_OFFLINE": "0", "no_proxy": "*"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(download, "PAUSE", 0.0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def published_file(path: Path, state: Mapping[str, Tensor]) -> Path:
    """A file as authors publish theirs: a training checkpoint of torch, or safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous().clone() for name, value in state.items()}, path)
    else:
        content: dict[str, Any] = {"model": dict(state), "iteration": 368749}
        torch.save(content, path)
    return path
