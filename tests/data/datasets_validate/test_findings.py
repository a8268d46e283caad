# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

from cmpf.data.datasets.validate.findings import DoubledNames, Findings, Mistake, named


def test_what_is_missing_in_a_missing_folder_is_no_news_but_other_mistakes_are() -> None:
    findings = Findings()
    findings.add_absent(Path("data/images"), "no such folder")
    findings.add(Mistake.MISSING, Path("data/images/a.jpg"), "no such image")
    findings.add(Mistake.MISSING, Path("data/images"), "no such folder, again")
    findings.add(Mistake.MISSING, Path("data/images2/a.jpg"), "no such image")
    findings.add(Mistake.SIZE, Path("data/images/a.jpg"), "differs")
    assert [str(finding) for finding in findings.found] == [
        "data/images: no such folder",
        "data/images2/a.jpg: no such image",
        "data/images/a.jpg: differs",
    ]


def test_every_mistake_has_its_own_name_and_a_fix() -> None:
    assert len({mistake.title for mistake in Mistake}) == len(Mistake)
    assert all(mistake.fix for mistake in Mistake)


def test_doubled_names_become_findings() -> None:
    findings = Findings()
    DoubledNames(findings, Path("images")).add("names that two files have", "a.png and a.jpg")
    assert [(f.mistake, str(f)) for f in findings.found] == [
        (Mistake.TWICE, "images: names that two files have: a.png and a.jpg")
    ]


def test_long_lists_end_with_how_many_more_there_are() -> None:
    assert named([1, 2]) == "1, 2"
    assert named(range(5)) == "0, 1, 2, 3, 4"
    assert named(range(7)) == "0, 1, 2, 3, 4 and 2 more"
