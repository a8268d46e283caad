# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json

import pytest

from cmpf.cli import doctor_checks as doctor
from cmpf.cli import main
from cmpf.cli.doctor_checks import FAILED, MISSING, OK, Check

WELL = [
    Check("versions", "cmpf", OK, "0.1.0"),
    Check("versions", "torch", OK, "2.15.0"),
    Check("optional parts", "web", MISSING, "gradio (cmpf serve)", 'pip install "cmpf[web]"'),
    Check("datasets", "DETECTRON2_DATASETS", OK, "/data"),
    Check("datasets", "shapes_val", OK, "/data/shapeworld"),
    Check("datasets", "a_part", MISSING, "1 of 3 paths in /data/a", "python datasets/prepare_a.py"),
    Check("datasets", "absent", MISSING, "0 of 3 paths in /data/b", "python datasets/prepare_b.py"),
    Check("datasets", "gone", MISSING, "0 of 2 paths in /data/c", "python datasets/prepare_c.py"),
    Check("self-test", "cmpf_tiny", OK, "6 segments"),
]
PRINTED = """\
versions
  ok       cmpf   0.1.0
  ok       torch  2.15.0

optional parts
  missing  web  gradio (cmpf serve)
           -> pip install "cmpf[web]"

datasets
  ok       DETECTRON2_DATASETS  /data
  ok       shapes_val           /data/shapeworld
  missing  a_part               1 of 3 paths in /data/a
           -> python datasets/prepare_a.py
  missing  others               2 more have a name; cmpf datasets lists all, cmpf datasets NAME says how to get one

self-test
  ok       cmpf_tiny  6 segments

All is well. CMPF works without what is missing.
"""


def test_the_report_is_aligned_names_every_fix_and_puts_absent_datasets_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "report", lambda: WELL)
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out == PRINTED


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_failed_self_test_is_exit_code_1(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        doctor, "report", lambda: [*WELL[:-1], Check("self-test", "cmpf_tiny", FAILED, "0 segments")]
    )
    assert main(["doctor", *options]) == 1
    said = capsys.readouterr().out
    if options:
        assert json.loads(said)["ok"] is False
    else:
        assert said.endswith("  failed   cmpf_tiny  0 segments\n\nNot well: cmpf_tiny (self-test)\n")


def test_json_holds_every_check_with_its_fix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "report", lambda: WELL)
    assert main(["doctor", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is True
    assert [Check(**check) for check in said["checks"]] == WELL
