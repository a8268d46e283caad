# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import pytest

from cmpf.data.datasets.readers.issues import Issues
from cmpf.errors import DatasetError


def test_without_issues_nothing_is_raised() -> None:
    issues = Issues()
    issues.add_doubles("doubled ids", [1, 2, 3])
    issues.raise_any(Path("a.json"))


def test_all_kinds_come_in_one_message_and_only_the_first_names_of_each() -> None:
    issues = Issues()
    for name in ("a", "b", "c", "d"):
        issues.add("missing images", name)
    issues.add_doubles("doubled ids", [5, 7, 5, 5], " in x.png")
    with pytest.raises(DatasetError) as caught:
        issues.raise_any(Path("a.json"))
    assert str(caught.value) == (
        "a.json: 4 missing images: a, b, c, ...; 1 doubled ids: 5 in x.png. "
        "Repair the dataset or prepare it again"
    )
