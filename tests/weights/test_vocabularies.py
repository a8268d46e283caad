# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The papers' vocabulary files: fetched from a server on this machine, checked, told where they belong."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cmpf.cli import main
from cmpf.data.datasets import published
from cmpf.errors import VocabularyError, WeightsError
from cmpf.weights.vocabularies import fetch_vocabularies, is_there, published_text, vocabulary_path

CONTENT = {
    "coco_panoptic": b"0:invalid_class_id\n1:person,child\n2:car\n",
    "pascal_voc_21": b"1:background\n2:plane\n",
}


class Server(ThreadingHTTPServer):
    """Serves CONTENT as the published addresses have it; `asked` are the paths."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = {f"/words/{key}_with_prompt_eng.txt": text for key, text in CONTENT.items()}
        self.asked: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        text = self.server.content.get(self.path)
        self.send_response(404 if text is None else 200)
        self.send_header("Content-Length", str(len(text or b"")))
        self.end_headers()
        self.wfile.write(text or b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A server of two published files, an empty cache folder, and the network allowed."""
    server = Server()
    facts: dict[str, Any] = {
        "address": f"http://127.0.0.1:{server.server_port}/words/{{file}}_with_prompt_eng.txt",
        "sha256": {key: hashlib.sha256(text).hexdigest() for key, text in CONTENT.items()},
        "vocabularies": json.loads(published.FACTS.read_text())["vocabularies"],
    }
    monkeypatch.setattr(published, "_facts", lambda: facts)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("CMPF_CACHE", str(tmp_path / "cache"))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_all_files_arrive_whole_and_are_not_asked_for_again(server: Server) -> None:
    places = fetch_vocabularies()
    assert places == [vocabulary_path(key) for key in CONTENT]
    assert [path.read_bytes() for path in places] == list(CONTENT.values())
    assert published_text("pascal_voc_21") == "1:background\n2:plane\n"
    fetch_vocabularies()
    assert len(server.asked) == 2


def test_wrong_bytes_are_not_kept(server: Server) -> None:
    server.content["/words/pascal_voc_21_with_prompt_eng.txt"] += b"3:more\n"
    with pytest.raises(WeightsError, match=r"published words pascal_voc_21.* has SHA-256 .*, expected"):
        fetch_vocabularies()
    assert is_there("coco_panoptic")
    left = vocabulary_path("pascal_voc_21").parent.glob("pascal*")
    assert [path.name for path in left if path.suffix != ".lock"] == []


def test_a_file_that_is_another_one_is_fetched_anew(server: Server) -> None:
    path = vocabulary_path("coco_panoptic")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"1:my own words\n")
    with pytest.raises(VocabularyError, match=r"not the published file, .*--fetch"):
        published_text("coco_panoptic")
    fetch_vocabularies()
    assert path.read_bytes() == CONTENT["coco_panoptic"]


def test_offline_says_where_to_put_what(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = vocabulary_path("coco_panoptic")
    with pytest.raises(WeightsError, match=rf"save http://.*coco_panoptic_with_prompt_eng\.txt as {path}"):
        fetch_vocabularies()
    with pytest.raises(
        VocabularyError, match=rf"not on this machine\. Get .*--fetch or save http://.* as {path}"
    ):
        published_text("coco_panoptic")
    assert server.asked == []


def test_the_command_fetches_and_lists(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "vocabularies"]) == 0
    assert "2 are not there, get them with: cmpf datasets vocabularies --fetch" in capsys.readouterr().out
    assert main(["datasets", "vocabularies", "--fetch", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["on_disk"], row["path"]) for row in rows] == [
        (key, "yes", str(vocabulary_path(key))) for key in CONTENT
    ]
    server.content.clear()
    vocabulary_path("coco_panoptic").unlink()
    assert main(["datasets", "vocabularies", "--fetch"]) == 1
    assert "coco_panoptic is not on this machine and cannot be downloaded" in capsys.readouterr().err
