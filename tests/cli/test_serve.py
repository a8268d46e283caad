# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import argparse
import signal
from types import SimpleNamespace
from typing import Any

import pytest

import cmpf
from cmpf import web
from cmpf.cli import serve
from cmpf.cli.outcome import run_command
from cmpf.errors import CMPFError


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    serve.add_parser(parser.add_subparsers())
    return run_command(parser.parse_args(["serve", *words]), prefix="cmpf")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replaces model and server, and keeps what they are called with."""
    calls: dict[str, Any] = {}
    monkeypatch.setattr(web, "import_gradio", lambda: None)

    def load(name: str, **options: Any) -> SimpleNamespace:
        calls.update(model=name, **options)
        return SimpleNamespace(cfg=None)

    monkeypatch.setattr(cmpf, "load", load)
    monkeypatch.setattr(web, "serve", lambda _, **options: calls.update(
        options, term=signal.getsignal(signal.SIGTERM)
    ))  # fmt: skip
    return calls


def test_the_defaults_are_the_tiny_model_on_this_machine_only(
    served: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert command() == 0
    assert served["model"] == "cmpf_tiny"
    assert served["host"] == "127.0.0.1"
    assert served["port"] is None
    assert served["limits"] == web.Limits()
    assert "photographs" in served["note"]
    assert (
        served["term"] is signal.default_int_handler
    )  # so that a stop from outside also removes the uploads
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().out == ""


def test_every_option_arrives(served: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "--model a --weights b --device cpu --host 0.0.0.0 --port 81 --max-side 9 --max-upload-mb 3 --queue 2"
    )
    assert command(*words.split()) == 0
    assert (served["model"], served["weights"], served["device"]) == ("a", "b", "cpu")
    assert (served["host"], served["port"], served["note"]) == ("0.0.0.0", 81, "Model: a")
    assert served["limits"] == web.Limits(max_side=9, max_upload_mb=3, queue=2)
    assert "asks for no password" in capsys.readouterr().out


def test_missing_gradio_and_wrong_limits_are_one_line_before_a_model_is_loaded(
    served: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--queue", "0") == 1
    assert capsys.readouterr().err == "cmpf: queue must be at least 1, got 0\n"

    def missing() -> SimpleNamespace:
        raise CMPFError("the web page needs Gradio")

    monkeypatch.setattr(web, "import_gradio", missing)
    assert command() == 1
    assert capsys.readouterr().err == "cmpf: the web page needs Gradio\n"
    assert served == {}
