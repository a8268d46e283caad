# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The page as a server: what requests may and may not do. Handmade requests, no browser."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout, suppress
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

import pytest
from PIL import Image

from cmpf.cli import main
from cmpf.errors import CMPFError
from cmpf.web import Limits, guard, running
from cmpf.web.server import ANALYTICS_VARIABLE, FOLDER_VARIABLE, MAX_SESSIONS

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio.*")  # its use of pandas
API = "gradio_api"


@pytest.fixture(autouse=True)
def _gradio() -> None:
    pytest.importorskip("gradio", reason="the page needs Gradio (extra: web)")


class Slow:
    """A predictor that waits until it is let go, and then fails with a known error."""

    mask_ensemble = None
    known = (SimpleNamespace(names=("cat", "dog")),)

    def __init__(self) -> None:
        self.started, self.go = threading.Event(), threading.Event()

    def vocabulary(self, *_: Any) -> None:
        raise CMPFError("reached the vocabulary")

    def predict(self, *_: Any, **__: Any) -> None:
        self.started.set()
        self.go.wait(30)
        raise CMPFError("reached the model")


def get(address: str) -> tuple[int, bytes]:
    try:
        with urlopen(address, timeout=30) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        return error.code, error.read()


def post(address: str, content: bytes, kind: str) -> tuple[int, bytes]:
    return get(Request(address, data=content, headers={"Content-Type": kind}))  # type: ignore[arg-type]


class Visitor:
    """What a browser sends, by hand."""

    def __init__(self, address: str) -> None:
        self.address, self.session = address, uuid.uuid4().hex
        dependencies = json.loads(get(f"{address}config")[1])["dependencies"]
        self.function, self.batch = [d["id"] for d in dependencies if len(d["inputs"]) == 5]

    def upload(self, content: bytes, name: str = "a.png") -> tuple[int, Any]:
        head = f'--sep\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        status, answer = post(
            f"{self.address}{API}/upload",
            head + content + b"\r\n--sep--\r\n",
            "multipart/form-data; boundary=sep",
        )
        return status, json.loads(answer)[0] if status == 200 else answer.decode()

    def join(self, *images: dict[str, Any], several: bool = False) -> tuple[int, dict[str, Any]]:
        files = [{"meta": {"_type": "gradio.FileData"}, **image} for image in images]
        request = {
            "data": [files if several else files[0], ["cat"], "panoptic", False, 0.3],
            "fn_index": self.batch if several else self.function,
            "session_hash": self.session,
        }
        status, answer = post(
            f"{self.address}{API}/queue/join", json.dumps(request).encode(), "application/json"
        )
        return status, json.loads(answer)

    def result(self) -> dict[str, Any]:
        """The message that ends the request."""
        with urlopen(f"{self.address}{API}/queue/data?session_hash={self.session}", timeout=30) as stream:
            for line in stream:
                message = json.loads(line.removeprefix(b"data:")) if line.startswith(b"data:") else {}
                if message.get("msg") == "process_completed":
                    return dict(message)
        raise AssertionError("the stream ended without a result")


@pytest.fixture
def page() -> Iterator[tuple[str, Slow]]:
    predictor = Slow()
    with running(predictor, limits=Limits(max_upload_mb=1, queue=1)) as address:  # type: ignore[arg-type]
        yield address, predictor
        predictor.go.set()


def test_an_upload_reaches_the_model_and_its_error_comes_back_as_text(page: tuple[str, Slow]) -> None:
    address, predictor = page
    predictor.go.set()
    visitor = Visitor(address)
    example = sorted(Path(os.environ[FOLDER_VARIABLE]).rglob("shapes_1.png"))[0]
    status, path = visitor.upload(example.read_bytes())
    assert status == 200
    visitor.join({"path": path})
    (panel,) = visitor.result()["output"]["data"]
    assert panel.startswith("<div class='cmpf-error'")
    assert "reached the model" in panel
    visitor.join({"path": path}, {"path": path}, several=True)
    assert "reached the vocabulary" in visitor.result()["output"]["data"][0]


@pytest.mark.parametrize("image", [
    {"path": "/etc/passwd"},
    {"path": __file__},
    {"path": "http://127.0.0.1:9/a.png"},
    {"path": "a.png", "url": "data:image/png;base64,iVBORw0KGgo="},
    {"path": "/etc/passwd", "is_stream": True},
    {"path": "{folder}/../../etc/passwd"},
])  # fmt: skip
def test_a_handmade_request_cannot_name_a_file_or_address(
    page: tuple[str, Slow], image: dict[str, Any]
) -> None:
    address, predictor = page
    predictor.go.set()
    visitor = Visitor(address)
    path = image["path"].replace("{folder}", os.environ[FOLDER_VARIABLE])
    status, _ = visitor.join({**image, "path": path})
    if status == 200:
        answer = visitor.result()
        assert answer["success"] is False or "no image yet" in str(answer["output"]["data"])
    if visitor.join({**image, "path": path}, several=True)[0] == 200:
        assert visitor.result()["success"] is False
    assert not predictor.started.is_set()


def test_no_component_downloads_an_address(page: tuple[str, Slow]) -> None:
    """Gradio does for each, whatever the component is for."""
    visitor = Visitor(page[0])
    file = {"meta": {"_type": "gradio.FileData"}, "path": "http://127.0.0.1:9/a.png"}
    request = json.dumps(
        {"data": [None, [file], "panoptic", False, 0.3], "fn_index": visitor.function, "session_hash": "a"}
    ).replace("http", "\\u0068ttp")
    for path in ("queue/join", "run/predict", "api/x", "run/upload", "api/upload"):
        status, answer = post(f"{page[0]}{API}/{path}", request.encode(), "application/json")
        assert (status, json.loads(answer)) == (
            400,
            {"detail": "URLs are not downloaded; upload the image."},
        )


def test_a_damaged_upload_is_told_as_text(page: tuple[str, Slow]) -> None:
    visitor = Visitor(page[0])
    _, path = visitor.upload(b"no image")
    visitor.join({"path": path})
    (panel,) = visitor.result()["output"]["data"]
    assert "a.png: not an image of a kind that is read" in panel


@pytest.mark.parametrize("path", ["/etc/passwd", __file__, "cmpf/__init__.py", "../etc/passwd"])
def test_files_outside_the_private_folder_are_not_served(page: tuple[str, Slow], path: str) -> None:
    status, content = get(f"{page[0]}{API}/file={quote(path)}")
    assert status in (403, 404)
    assert b"root:" not in content
    assert b"Copyright" not in content


def test_a_file_beyond_the_limit_is_refused_with_a_reason(page: tuple[str, Slow]) -> None:
    status, reason = Visitor(page[0]).upload(b"0" * (2**20 + 1))
    assert status == 413
    assert "maximum allowed size" in reason


def test_images_that_are_chosen_together_come_in_one_request_of_four_times_the_size(
    page: tuple[str, Slow],
) -> None:
    part = '--sep\r\nContent-Disposition: form-data; name="files"; filename="{}.png"\r\n\r\n'
    content = b"".join(part.format(i).encode() + bytes(2**20) + b"\r\n" for i in range(4))
    kind = "multipart/form-data; boundary=sep"
    assert post(f"{page[0]}{API}/upload", content + b"--sep--\r\n", kind)[0] == 200
    head = f"POST /{API}/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: {5 * 2**20}\r\n\r\n"
    assert raw(page[0], head.encode()).startswith(b"HTTP/1.1 413")


def test_who_finds_the_queue_full_is_told_so(page: tuple[str, Slow]) -> None:
    address, predictor = page
    first, second, third = (Visitor(address) for _ in range(3))
    _, path = first.upload(sorted(Path(os.environ[FOLDER_VARIABLE]).rglob("shapes_1.png"))[0].read_bytes())
    assert first.join({"path": path})[0] == 200
    assert predictor.started.wait(20)  # the first is at work, the second waits, the third finds no place
    assert second.join({"path": path})[0] == 200
    status, answer = third.join({"path": path})
    assert status == 503
    assert "full" in str(answer).lower()


def test_the_folder_is_private_and_goes_with_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, "/somewhere")
    monkeypatch.delenv(ANALYTICS_VARIABLE, raising=False)
    with running(Slow()) as address:  # type: ignore[arg-type]
        folder = Path(os.environ[FOLDER_VARIABLE])
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert os.environ[ANALYTICS_VARIABLE] == "False"
        _, path = Visitor(address).upload(b"anything")
        assert folder in Path(path).parents
    assert not folder.exists()
    assert os.environ[FOLDER_VARIABLE] == "/somewhere"
    assert ANALYTICS_VARIABLE not in os.environ
    with pytest.raises(OSError, match="refused"):
        urlopen(address, timeout=5)


def test_the_page_names_no_other_server(page: tuple[str, Slow]) -> None:
    content = get(page[0])[1].decode()
    assert "fonts.googleapis.com" not in content
    assert "cmpf-result" in content  # the script of the panel
    assert get(f"{page[0]}{API}/info")[1] == b'{"named_endpoints":{},"unnamed_endpoints":{}}'


def test_a_taken_port_is_an_error_with_the_fix() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(
                CMPFError, match=rf"cannot listen on 127.0.0.1, port {port}: .*choose another --port"
            ),
            running(Slow(), port=port),  # type: ignore[arg-type]
        ):
            pass


@pytest.mark.parametrize("place", [{"port": 70000}, {"host": "256.1.1.1"}])
def test_an_impossible_place_is_the_same_error(place: dict[str, Any]) -> None:
    refused = pytest.raises(CMPFError, match=r"cannot listen on .*choose another --port or --host")
    with refused, running(Slow(), **place):  # type: ignore[arg-type]
        pass


# cmpf serve


def served(visit: Callable[[str], object], *words: str) -> tuple[int, str]:
    """Runs the command, calls `visit` with the address that it prints, and ends it as a system does.

    Returns:
        Exit code and output of the command.
    """
    out, ended = io.StringIO(), threading.Event()

    def visitor() -> None:
        while " (press Ctrl-C to stop)" not in out.getvalue():
            assert not ended.wait(0.1), "the command ended before its page was there"
        try:
            visit(out.getvalue().split(" serving on ")[1].split()[0])
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    with ThreadPoolExecutor(1) as pool, redirect_stdout(out):
        visiting = pool.submit(visitor)
        try:
            code = main(["serve", "--device", "cpu", *words])
        finally:
            ended.set()
    visiting.result()
    return code, out.getvalue()


def test_serve_shows_the_tiny_model_to_this_machine_until_it_is_told_to_end() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []
    code, out = served(
        lambda address: seen.append((address, Path(os.environ[FOLDER_VARIABLE]), get(address)))
    )
    ((address, folder, (status, page)),) = seen
    assert (code, status) == (0, 200)
    assert address.startswith("http://127.0.0.1:")
    assert b"For photographs, start cmpf serve with a full-size --model" in page
    assert out == f"CMPF is serving on {address} (press Ctrl-C to stop)\nstopped\n"
    assert not folder.exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_options_of_serve_reach_model_page_and_server(tmp_path: Path) -> None:
    weights = str(files("cmpf") / "assets" / "cmpf_tiny_decoder.safetensors")
    options = ("--model", "shapes/cmpf_tiny.yaml", "--weights", weights, "--host", "0.0.0.0")
    limits = ("--max-side", "99", "--max-upload-mb", "1", "--uploads-mb", "2", "--trusted-host", "my.proxy")
    Image.new("RGB", (100, 20)).save(tmp_path / "wide.png")
    found = {}

    def visit(address: str) -> None:
        found["page"] = get(address)[1].decode()
        visitor = Visitor(address)
        found["large"] = visitor.upload(bytes(2**20 + 1))[0]
        visitor.join({"path": visitor.upload((tmp_path / "wide.png").read_bytes(), "wide.png")[1]})
        (found["panel"],) = visitor.result()["output"]["data"]

    code, out = served(visit, *options, *limits)
    assert code == 0
    assert "Anyone who can reach 0.0.0.0 can use this page" in out
    assert "Model: shapes/cmpf_tiny.yaml" in found["page"]
    assert found["large"] == 413
    assert "wide.png: its longer side has 100 pixels and this page takes up to 99" in found["panel"]


def test_missing_gradio_and_wrong_limits_are_one_line_before_a_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--queue", "0", "--model", "nowhere"]) == 1
    assert capsys.readouterr().err == "cmpf: queue must be at least 1, got 0\n"
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["serve", "--model", "nowhere"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("cmpf: the web page needs Gradio, which cannot be imported")
    assert error.count("\n") == 1


@pytest.mark.slow
def test_the_command_with_the_tiny_model_is_ready_soon_and_a_stop_signal_removes_its_folder(
    tmp_path: Path,
) -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs /proc to measure the processor time")
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "cmpf", "serve", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = line.split(" on ")[1].split()[0]
        assert get(address)[0] == 200
        assert len(list(tmp_path.glob("cmpf-web-*"))) == 1
        # Processor seconds instead of the clock, which other work on the machine would slow down.
        fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        assert (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") < 15
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stdout.read() == "stopped\n"
    assert list(tmp_path.glob("cmpf-web-*")) == []


# What stands between the network and the page.


def raw(address: str, request: bytes, *, seconds: float = 10) -> bytes:
    """All that comes back for bytes sent by hand, until the server closes or nothing comes any more."""
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), timeout=seconds) as connection:
        connection.sendall(request)
        answer = b""
        with suppress(ConnectionResetError):  # where a server closes before it has read everything
            while chunk := connection.recv(65536):
                answer += chunk
    return answer


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:7860", 200),
        ("[::1]:80", 200),
        ("my.proxy", 200),
        ("evil.example", 400),
        ("127.0.0.1.evil.example", 400),
        ("", 400),
    ],
)
def test_the_page_answers_to_names_of_this_machine_only(host: str, status: int) -> None:
    with running(Slow(), trusted_hosts=["My.Proxy"]) as address:  # type: ignore[arg-type]
        answer = raw(address, f"GET /config HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(f"HTTP/1.1 {status}".encode())
    assert (b"--trusted-host NAME" in answer) == (status == 400)


@pytest.mark.parametrize(
    ("length", "status"), [("abc", 400), ("-1", 400), ("99999999999", 413), ("\xb2", 400)]
)
def test_a_request_of_impossible_length_is_refused_at_once(
    page: tuple[str, Slow], length: str, status: int
) -> None:
    for path in ("upload", "queue/join"):
        head = f"POST /{API}/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
        assert f"HTTP/1.1 {status}".encode() in raw(page[0], head.encode("latin-1"))


def test_a_body_without_a_length_is_cut_at_the_limit(page: tuple[str, Slow]) -> None:
    kind = "Content-Type: multipart/form-data; boundary=sep\r\nTransfer-Encoding: chunked"
    head = f"POST /{API}/upload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{kind}\r\n\r\n".encode()
    part = b'--sep\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + b"0" * (
        3 * 2**20
    )
    answer = raw(page[0], head + f"{len(part):x}\r\n".encode() + part + b"\r\n0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413") or answer == b""
    assert not list(Path(os.environ[FOLDER_VARIABLE]).rglob("a.png"))


def test_requests_that_do_not_go_on_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "HEAD_SECONDS", 0.4)
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.4)
    with running(Slow()) as address:  # type: ignore[arg-type]
        started = time.monotonic()
        assert raw(address, b"GET /config HTT") == b""
        body = f"POST /{API}/queue/join HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{{".encode()
        assert b"HTTP/1.1 408" in raw(address, body)
        assert time.monotonic() - started < 8
        assert get(f"{address}config")[0] == 200  # the page goes on


def test_uploads_take_no_more_than_their_quota_and_the_oldest_go(page: tuple[str, Slow]) -> None:
    with running(Slow(), limits=Limits(max_upload_mb=1, uploads_mb=3)) as address:  # type: ignore[arg-type]
        folder = Path(os.environ[FOLDER_VARIABLE])
        examples = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        visitor, paths = Visitor(address), []
        for number in range(6):
            status, path = visitor.upload(bytes([number]) * (900 * 2**10))
            assert status == 200
            paths.append(Path(path))
            os.utime(path, (number, number))
        assert [path.is_file() for path in paths] == [False, False, False, True, True, True]
        assert {path: path.read_bytes() for path in examples} == examples


def test_the_page_forgets_visitors() -> None:
    """Gradio keeps what it sent to each of 10,000 visitors, and what 2,000 did not wait for."""

    class Quick(Slow):
        def predict(self, *_: Any, **__: Any) -> None:
            raise CMPFError("x" * 100_000)

    import gc

    import gradio

    with running(Quick(), limits=Limits(max_upload_mb=1, queue=2)) as address:  # type: ignore[arg-type]
        visitor = Visitor(address)
        _, path = visitor.upload(
            sorted(Path(os.environ[FOLDER_VARIABLE]).rglob("shapes_1.png"))[0].read_bytes()
        )
        for number in range(40):
            visitor.session = f"leaves-{number}"
            while visitor.join({"path": path})[0] == 503:  # the queue is full
                time.sleep(0.05)
            visitor.session = f"waits-{number}"
            while visitor.join({"path": path})[0] == 503:
                time.sleep(0.05)
            assert visitor.result()["success"]
        pages = [o for o in gc.get_objects() if isinstance(o, gradio.Blocks) and o.is_running]
        assert pages
        for found in pages:
            assert len(found.app.state_holder.session_data) <= MAX_SESSIONS
            assert len(found._queue.pending_messages_per_session) <= MAX_SESSIONS + 2 * 2


def test_a_full_queue_is_served_to_the_end() -> None:
    """Once more waited than results were remembered, Gradio's queue ended: nobody was served any more."""
    slow = Slow()
    with running(slow, limits=Limits(max_upload_mb=1, queue=32)) as address:  # type: ignore[arg-type]
        visitors = [Visitor(address) for _ in range(30)]
        _, path = visitors[0].upload(
            sorted(Path(os.environ[FOLDER_VARIABLE]).rglob("shapes_1.png"))[0].read_bytes()
        )
        assert [visitor.join({"path": path})[0] for visitor in visitors] == [200] * 30
        slow.go.set()
        for visitor in visitors:
            assert "reached the model" in str(visitor.result()["output"])
