# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The trials of `make trust`, in small, and that they find what they are there for."""

from __future__ import annotations

import time

import pytest

from benchmarks.trust import trials
from benchmarks.trust.fuzz import fuzz
from benchmarks.trust.load import hostile, page
from benchmarks.trust.trials import Trial, table
from cmpf.errors import DatasetError


def test_some_fuzzed_inputs_of_each_kind_are_read_or_refused_in_our_own_words() -> None:
    found = fuzz(360, seed=1)
    assert [finding for trial in found for finding in trial.findings] == []
    assert len(found) >= 9
    assert all(trial.tried >= 40 and trial.refused >= 10 for trial in found)


def test_hostile_files_are_refused() -> None:
    trial = hostile()
    assert trial.findings == []
    assert trial.refused == trial.tried >= 14


def test_a_trial_tells_findings_from_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "HANG_SECONDS", 1)
    trial = Trial("x")

    def refuse() -> None:
        raise DatasetError("a.png: damaged")

    assert trial.attempt("works", lambda: 7) == 7
    trial.attempt("own", refuse)
    trial.attempt("foreign", lambda: [][1])
    trial.attempt("hangs", lambda: time.sleep(5))
    assert (trial.tried, trial.refused) == (4, 1)
    assert trial.findings == ["foreign: IndexError: list index out of range", "hangs: more than 1 s"]
    assert "| x | 4 | 1 | 2 |" in table([trial])


def test_the_page_serves_the_visitors_of_its_trial() -> None:
    pytest.importorskip("gradio", reason="the page needs Gradio (extra: web)")
    trial = page(clients=2, visitors=3)
    assert trial.findings == []
    assert (trial.tried, trial.figures[0]) == (5, "simultaneous: served 2")
