# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

from cmpf.cli.dataset_report import _size, columns


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
