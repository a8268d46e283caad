# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Peak memory of training and evaluation."""

from __future__ import annotations

import json

from benchmarks import peak
from benchmarks.peak import CASES, Peak


def test_every_case_is_measured_and_recomputing_saves_memory(tmp_path, capsys):
    assert peak.main(["--quick", "--batch", "2", "--json", str(tmp_path / "peak.json")]) == 0
    content = json.loads((tmp_path / "peak.json").read_text(encoding="utf-8"))
    assert content["batch"] == 2
    cases = content["cases"]
    assert list(cases) == list(CASES)
    assert all(case["seconds"] > 0 and case["resident"] > 0 for case in cases.values())
    assert cases["training_with_checkpointing"]["peak"] < cases["training"]["peak"]
    assert cases["evaluation"]["resident"] < cases["training"]["resident"]  # no moments of an optimizer
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[-3:]] == list(CASES)


def test_a_line_adds_up_in_gib():
    line = Peak(seconds=1.25, resident=2**30, peak=3 * 2**29).line("training")
    assert line.split() == ["training", "1.2", "s", "1.00", "+", "1.50", "=", "2.50", "GiB"]
