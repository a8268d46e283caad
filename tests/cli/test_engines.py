# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import sys
from types import ModuleType

import pytest

import cmpf
from cmpf.cli.engines import detectron2_engine
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


def test_auto_and_detectron2_take_detectron2_where_it_is(
    host: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        assert chosen("auto") is host
        assert chosen("detectron2") is host
    assert "engine: Detectron2" in caplog.text


def test_native_is_native_though_detectron2_is_there(host: ModuleType) -> None:
    assert chosen("native") is None


def test_without_detectron2_auto_is_native_and_says_so(
    absent: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        assert chosen("auto") is None
    assert "engine: native, Detectron2 cannot be imported" in caplog.text
    with pytest.raises(ConfigError, match="--engine detectron2: "):
        chosen("detectron2")


def test_what_detectron2_cannot_run_is_native_unless_it_was_asked_for(
    host: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    host.reason = "no averages"  # type: ignore[attr-defined]
    with caplog.at_level("INFO"):
        assert chosen("auto") is None
    assert "engine: native, though Detectron2 is here: no averages" in caplog.text
    with pytest.raises(ConfigError, match=r"--engine detectron2: no averages; use --engine native"):
        chosen("detectron2")


def test_profiles_are_of_the_native_engine(host: ModuleType) -> None:
    assert chosen("auto", profile=True) is None
    with pytest.raises(ConfigError, match="--profile measures the native engine"):
        chosen("detectron2", profile=True)
