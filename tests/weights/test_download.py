# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Downloads from a server on this machine that can break in the middle."""

from __future__ import annotations

import hashlib
import io
import logging
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from cmpf.common.files import file_sha256
from cmpf.errors import WeightsError
from cmpf.weights import download as module
from cmpf.weights.download import cache_folder, download, hash_record_path, partial_path
from cmpf.weights.remote import Remote

CONTENT = bytes(range(256)) * 20  # 5120 bytes
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT at every path.

    ranges: whether it understands Range. breaks: after how many bytes each of the next answers ends.
    shift: how far a partial answer begins behind what was asked. asked: the Range header of each request.
    tag: the ETag. kind: the Content-Type. pages: web pages at certain paths. paths: what was asked for.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges, self.shift, self.status = True, 0, 200
        self.content = CONTENT
        self.breaks: list[int] = []
        self.tag, self.kind = "", "application/octet-stream"
        self.pages: dict[str, bytes] = {}
        self.paths: list[str] = []
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/weights.bin"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        server.paths.append(self.path)
        if self.path in server.pages:
            self.page(server.pages[self.path])
            return
        total = len(server.content)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else None
        if start is not None and start >= total:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        begin = 0 if start is None else start + server.shift
        body = server.content[begin:]
        self.send_response(server.status if start is None else 206)
        if start is not None:
            self.send_header("Content-Range", f"bytes {begin}-{total - 1}/{total}")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", server.kind)
        if server.tag:
            self.send_header("ETag", server.tag)
        self.end_headers()
        self.wfile.write(body[: server.breaks.pop(0)] if server.breaks else body)

    def page(self, text: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A running server, with the network allowed and no pause between attempts."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(module, "PAUSE", 0.0)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(server: Server, target: Path, *, sha256: str | None = SHA256) -> Path:
    return download(Remote(server.url, "Tiny weights", sha256), target)


@pytest.mark.parametrize("sha256", [SHA256, SHA256[:6], SHA256.upper(), None])
def test_a_file_arrives_whole_in_a_new_folder(server: Server, tmp_path: Path, sha256: str | None) -> None:
    target = tmp_path / "deep" / "cache" / "weights.bin"
    assert fetch(server, target, sha256=sha256) == target
    assert target.read_bytes() == CONTENT
    assert server.asked == [None]
    assert not partial_path(target).exists()


def test_a_file_that_is_there_is_not_asked_for(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"mine")
    assert fetch(server, tmp_path / "weights.bin").read_bytes() == b"mine"
    assert server.asked == []


@pytest.mark.parametrize("ranges", [True, False])
def test_an_unfinished_file_is_continued_or_sent_again_by_a_server_that_cannot(
    server: Server, tmp_path: Path, ranges: bool
) -> None:
    server.ranges = ranges
    target = tmp_path / "weights.bin"
    partial_path(target).write_bytes(CONTENT[:1000])
    assert fetch(server, target).read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-"]


def test_an_answer_with_other_bytes_than_asked_is_not_used(server: Server, tmp_path: Path) -> None:
    server.shift = 7
    target = tmp_path / "weights.bin"
    partial_path(target).write_bytes(CONTENT[:1000])
    assert fetch(server, target).read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-", None]


class Screen(io.StringIO):
    """A standard error that may be a terminal."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def test_progress_is_drawn_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, server: Server, tmp_path: Path
) -> None:
    for terminal in (True, False):
        screen = Screen(terminal)
        monkeypatch.setattr(sys, "stderr", screen)
        fetch(server, tmp_path / f"{terminal}.bin")
        assert ("Tiny weights: 100%" in screen.getvalue()) == terminal
        assert ("5.12k" in screen.getvalue()) == terminal


def test_a_part_that_is_already_whole_only_gets_its_name(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "weights.bin"
    partial_path(target).write_bytes(CONTENT)
    assert fetch(server, target).read_bytes() == CONTENT
    assert server.asked == ["bytes=5120-"]


def test_a_part_that_is_longer_than_the_file_is_thrown_away(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "weights.bin"
    partial_path(target).write_bytes(CONTENT + b"more")
    assert fetch(server, target).read_bytes() == CONTENT
    assert server.asked == ["bytes=5124-", None]


def test_without_a_known_hash_only_the_same_version_of_a_file_is_continued(
    server: Server, tmp_path: Path
) -> None:
    target = tmp_path / "weights.bin"
    partial_path(target).write_bytes(b"of nobody knows what")
    server.tag, server.breaks = '"1"', [100, 50, 0]
    with pytest.raises(WeightsError, match="ended after 150 of 5120 bytes"):
        fetch(server, target, sha256=None)
    assert server.asked == [None, "bytes=100-", "bytes=150-"]
    assert fetch(server, target, sha256=None).read_bytes() == CONTENT  # a later call goes on
    assert server.asked[3:] == ["bytes=150-"]


@pytest.mark.parametrize("change", [{"tag": '"2"'}, {"content": CONTENT + b"!"}])
@pytest.mark.parametrize("sha256", [False, True])
def test_a_file_that_was_replaced_meanwhile_is_downloaded_from_its_beginning(
    server: Server, tmp_path: Path, change: dict[str, Any], sha256: bool
) -> None:
    target = tmp_path / "weights.bin"
    server.tag, server.breaks = '"1"', [100, 0, 0]
    with pytest.raises(WeightsError, match="ended after 100 of 5120"):
        fetch(server, target, sha256=None)
    vars(server).update(change)
    whole = server.content
    assert (
        fetch(server, target, sha256=hashlib.sha256(whole).hexdigest() if sha256 else None).read_bytes()
        == whole
    )
    assert server.asked[3:] == ["bytes=100-", None]
    assert sorted(
        path.name for path in tmp_path.iterdir() if not path.name.endswith((".lock", ".sha256"))
    ) == ["weights.bin"]


def test_the_first_hash_is_recorded_where_none_is_published_and_checked_from_then_on(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "weights.bin"
    fetch(server, target, sha256=None)
    assert (
        f"has SHA-256 {SHA256}. No hash is published; this one is recorded in {hash_record_path(target)}"
        in caplog.text
    )
    subprocess.run(
        ["sha256sum", "--check", "--status", hash_record_path(target).name], cwd=tmp_path, check=True
    )
    target.unlink()
    with caplog.at_level(logging.INFO):
        fetch(server, target, sha256=None)
    assert "as at the first download" in caplog.text
    target.unlink()
    server.content = CONTENT[::-1]
    with pytest.raises(
        WeightsError, match=rf"the first download had {SHA256} \(recorded in .*; the file was removed"
    ):
        fetch(server, target, sha256=None)
    assert not target.exists()
    hash_record_path(target).write_text("")  # emptied, or removed as the message says
    assert fetch(server, target, sha256=None).read_bytes() == CONTENT[::-1]


def test_another_size_than_the_authors_state_is_noticed_before_anything_is_downloaded(
    server: Server, tmp_path: Path
) -> None:
    remote = Remote(server.url, "Tiny weights", size=5000)
    with pytest.raises(
        WeightsError, match=r"has 5,120 bytes, its authors state 5,000: .* Nothing was downloaded"
    ):
        download(remote, tmp_path / "weights.bin")
    assert list(tmp_path.glob("*.part")) == []


QUOTA = """<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>
Sorry, you can&#39;t view or download this file at this time.
Too many users have viewed or downloaded this file recently.</body></html>"""
REMOVED = "<!DOCTYPE html><html><body>Sorry, the file you have requested does not exist.</body></html>"
CONFIRM = """<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<form id="download-form" action="{action}?id=1" method="get"><input type="submit" value="Download anyway"/>
<input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="a&amp;b"></form></body></html>"""


@pytest.mark.parametrize(
    ("status", "page", "reason"),
    [
        (200, QUOTA, "its download quota is used up for today"),
        (403, QUOTA, "its download quota is used up for today"),
        (404, REMOVED, "the file was removed"),
        (404, "<html>gone</html>", "the file was removed"),
        (200, "<html><title>Sign in - Google Accounts</title></html>", "it asks to sign in"),
        (200, CONFIRM.replace("download-form", "another"), "it asks to confirm the download"),
        (200, "<html><title>Hotel &amp; Wi-Fi</title></html>", 'its title is "Hotel &amp; Wi-Fi"'),
    ],
)
@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_instead_of_the_file_is_an_error_that_says_what_it_is_and_what_to_do(
    server: Server, tmp_path: Path, status: int, page: str, reason: str, kind: str
) -> None:
    if status != 200 and kind != "text/html; charset=utf-8":
        return  # an error's page is known by its status
    server.status, server.content, server.kind = status, page.encode(), kind
    target = tmp_path / "weights.bin"
    remote = Remote(server.url, "Tiny weights", page="https://drive.google.com/file/d/1/view")
    with pytest.raises(WeightsError) as caught:
        download(remote, target)
    assert f"127.0.0.1:{server.server_port} sent a web page instead of the file ({reason})" in str(
        caught.value
    )
    assert f"Open https://drive.google.com/file/d/1/view in a browser and save the file as {target}" in str(
        caught.value
    )
    assert len(server.asked) == 1  # such an answer does not get better by asking again
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_a_page_that_only_asks_for_confirmation_is_confirmed_once(server: Server, tmp_path: Path) -> None:
    server.pages = {"/weights.bin": CONFIRM.format(action="/download").encode()}
    assert fetch(server, tmp_path / "weights.bin").read_bytes() == CONTENT
    assert server.paths == ["/weights.bin", "/download?id=1&confirm=t&uuid=a%26b"]
    server.pages["/download?id=1&confirm=t&uuid=a%26b"] = server.pages["/weights.bin"]
    with pytest.raises(WeightsError, match="it asks to confirm the download"):
        fetch(server, tmp_path / "again.bin")
    assert len(server.paths) == 4


def test_a_mirror_is_asked_under_the_hosts_name(
    monkeypatch: pytest.MonkeyPatch, server: Server, tmp_path: Path
) -> None:
    monkeypatch.setenv("CMPF_MIRROR", f"http://127.0.0.1:{server.server_port}/mirror/")
    remote = Remote("https://weights.example/download?id=1&confirm=t", "Tiny weights", SHA256)
    assert download(remote, tmp_path / "weights.bin").read_bytes() == CONTENT
    assert server.paths == ["/mirror/weights.example/download?id=1&confirm=t"]


def test_content_of_another_hash_is_removed_and_both_hashes_are_named(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "weights.bin"
    with pytest.raises(WeightsError) as caught:
        fetch(server, target, sha256="01ec64")
    assert f"has SHA-256 {SHA256}, expected 01ec64; the file was removed" in str(caught.value)
    assert str(caught.value).startswith(f"Tiny weights: {server.url} ")
    assert not target.exists()
    assert not partial_path(target).exists()


def test_a_connection_that_breaks_is_continued_at_once(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.breaks = [1500, 600]
    assert fetch(server, tmp_path / "weights.bin").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1500-", "bytes=2100-"]  # 1500 + 600
    assert "the connection ended after 1500 of 5120 bytes" in caplog.text


def test_a_connection_that_breaks_too_often_is_an_error_and_the_next_call_goes_on(
    server: Server, tmp_path: Path
) -> None:
    target = tmp_path / "weights.bin"
    server.breaks = [1000, 1000, 1000]
    with pytest.raises(WeightsError) as caught:
        fetch(server, target)
    assert f"ended after 3000 of 5120 bytes, kept in {partial_path(target)}" in str(caught.value)
    assert f"save {server.url} as {target}" in str(caught.value)
    assert not target.exists()
    assert fetch(server, target).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=3000-"


def test_an_address_that_is_not_there_is_asked_once(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(
        WeightsError, match=r"Tiny weights is not on this machine .*HTTP Error 404.* save http"
    ):
        fetch(server, tmp_path / "weights.bin")
    assert server.asked == [None]
    assert not (tmp_path / "weights.bin").exists()


@pytest.mark.parametrize("value", ["1", "on", "True"])
def test_the_offline_switch_forbids_any_attempt(
    monkeypatch: pytest.MonkeyPatch, server: Server, tmp_path: Path, value: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    target = tmp_path / "folder" / "weights.bin"
    with pytest.raises(WeightsError) as caught:
        fetch(server, target)
    assert str(caught.value) == (
        "Tiny weights is not on this machine and cannot be downloaded (HF_HUB_OFFLINE is set): "
        f"save {server.url} as {target}"
    )
    assert server.asked == []
    assert not target.parent.exists()


def test_a_refused_connection_names_the_address_and_the_place(server: Server, tmp_path: Path) -> None:
    url = server.url
    server.server_close()
    with pytest.raises(WeightsError, match=r"cannot be downloaded .*refused") as caught:
        download(Remote(url, "Tiny weights"), tmp_path / "weights.bin")
    assert f"save {url} as {tmp_path / 'weights.bin'}" in str(caught.value)


def test_a_folder_that_cannot_be_made_is_an_error_of_weights(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(WeightsError, match="Tiny weights is not on this machine"):
        fetch(server, tmp_path / "file" / "weights.bin")


def test_only_http_addresses_are_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    (tmp_path / "secret").write_text("local")
    with pytest.raises(WeightsError, match="is not an address that starts with http"):
        download(Remote(f"file://{tmp_path}/secret", "Tiny weights"), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_one_of_two_downloads_waits_for_the_other(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "weights.bin"
    found: list[bytes] = []
    with caplog.at_level(logging.INFO), FileLock(f"{target}.lock"):
        threads = [threading.Thread(target=lambda: found.append(fetch(server, target).read_bytes()))]
        threads += [threading.Thread(target=lambda: found.append(fetch(server, target).read_bytes()))]
        for thread in threads:
            thread.start()
        threads[0].join(timeout=0.2)
        assert found == []
        assert server.asked == []
    for thread in threads:
        thread.join()
    assert found == [CONTENT, CONTENT]
    assert server.asked == [None]
    assert f"waiting for another process that downloads {target}" in caplog.text


def test_two_processes_do_not_spoil_each_others_file(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "weights.bin"
    fork = multiprocessing.get_context("fork")  # a new interpreter would need seconds to import PyTorch
    processes = [fork.Process(target=fetch, args=(server, target)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert target.read_bytes() == CONTENT
    assert server.asked == [None]


def test_the_cache_folder_is_cmpf_cache_or_lies_in_the_hugging_face_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CMPF_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("CMPF_CACHE")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    assert cache_folder() == tmp_path / "hf" / "cmpf"
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "huggingface" / "cmpf"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "huggingface" / "cmpf"


def test_the_hash_of_a_file_is_that_of_its_bytes_however_many(tmp_path: Path) -> None:
    for size in (0, 5, (1 << 20) + 3):  # a piece is 2 ** 20 bytes
        (tmp_path / "file").write_bytes(b"x" * size)
        assert file_sha256(tmp_path / "file") == hashlib.sha256(b"x" * size).hexdigest()
