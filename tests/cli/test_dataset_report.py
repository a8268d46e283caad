# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

from cmpf.cli.dataset_report import _size, columns, findings_text
from cmpf.data.datasets.validate import Finding, Mistake


def test_columns_are_as_wide_as_their_longest_text() -> None:
    assert columns([("a", "bcd", "e"), ("long", "b", "free text")]) == "a     bcd  e\nlong  b    free text"


def test_sizes_are_counted_in_decimal_units(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "a.png").write_bytes(bytes(999))
    assert _size(tmp_path / "a.png") == "999 bytes"
    (tmp_path / "below/b.png").write_bytes(bytes(1501))
    assert _size(tmp_path) == "2 files, 2.5 KB"  # 999 + 1501 = 2500
    (tmp_path / "c.json").write_bytes(bytes(250_000))
    assert _size(tmp_path / "c.json") == "250 KB"


def test_of_many_findings_the_first_twenty_of_a_kind_are_named() -> None:
    findings = [Finding(Mistake.MISSING, Path(f"{number}.jpg"), "no such image") for number in range(22)]
    findings.insert(1, Finding(Mistake.SIZE, Path("a.png"), "has (1, 2)"))
    lines = findings_text(findings, everything=False).splitlines()
    assert lines[0].startswith("missing file (22): put the file there")
    assert lines[20] == "  19.jpg: no such image"
    assert lines[21] == "  and 2 more; --all names them"
    assert lines[22].startswith("sizes that differ (1): ")
    assert len(findings_text(findings, everything=True).splitlines()) == 2 + 23
