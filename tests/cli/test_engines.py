# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import argparse
import sys
from types import ModuleType

import pytest

import cmpf
from cmpf.cli.engines import detectron2_engine
from cmpf.cli.train import add_parser
from cmpf.config import get_cfg
from cmpf.errors import ConfigError

CFG = get_cfg()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Stands in for cmpf.detectron2; `reason` is what keeps it from running."""
    module = ModuleType("cmpf.detectron2")
    module.reason = ""  # type: ignore[attr-defined]
    module.obstacle = lambda cfg, eval_only: module.reason  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cmpf.detectron2", module)
    monkeypatch.setattr(cmpf, "detectron2", module, raising=False)
    return module


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Detectron2 cannot be imported."""
    monkeypatch.delattr(cmpf, "detectron2", raising=False)
    monkeypatch.setitem(sys.modules, "cmpf.detectron2", None)


def chosen(wanted: str, *, profile: bool = False) -> object:
    return detectron2_engine(wanted, CFG, eval_only=False, profile=profile)


@pytest.mark.parametrize("profile", [False, True])
def test_an_installed_detectron2_changes_nothing_that_was_not_asked_for(
    host: ModuleType, profile: bool
) -> None:
    commands = argparse.ArgumentParser().add_subparsers()
    add_parser(commands)
    wanted = commands.choices["train"].parse_args(["--config-file", "cmpf_tiny"]).engine
    assert chosen(wanted, profile=profile) is None


def test_detectron2_runs_where_it_is_asked_for(host: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert chosen("detectron2") is host
    assert "engine: detectron2" in caplog.text


def test_asking_for_an_absent_detectron2_is_an_error(absent: None) -> None:
    assert chosen("native") is None
    with pytest.raises(ConfigError, match="--engine detectron2: "):
        chosen("detectron2")


def test_what_detectron2_cannot_run_is_an_error_that_names_the_native_engine(host: ModuleType) -> None:
    host.reason = "no averages"  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"--engine detectron2: no averages; use --engine native"):
        chosen("detectron2")
    with pytest.raises(ConfigError, match="--profile measures the native engine"):
        chosen("detectron2", profile=True)
