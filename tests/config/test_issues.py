# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The one message for all issues."""

from __future__ import annotations

from pathlib import Path

from cmpf.config.issues import Issue, Origin, as_error

FILE = Path("/configs/x.yaml")


def test_issues_of_one_file_share_its_name():
    issues = [Issue("A", "bad", Origin(FILE, 3)), Issue("B", "worse", Origin(FILE, 9))]
    assert str(as_error(issues)).endswith("/configs/x.yaml: line 3: A: bad · line 9: B: worse")
    assert str(as_error(issues)).startswith("2 issues in ")


def test_issues_of_several_places_each_name_their_own():
    issues = [Issue("A", "bad", Origin(FILE, 3)), Issue("B", "worse", Origin())]
    assert "x.yaml line 3: A: bad · override: B: worse" in str(as_error(issues))


def test_a_fault_without_place_and_key_is_its_message():
    assert str(as_error([Issue("", "gone", None)])) == "1 issue: gone"
