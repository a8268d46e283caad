# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import pytest

from cmpf.data.readers.faults import Faults
from cmpf.errors import DatasetError


def test_without_faults_nothing_is_raised() -> None:
    faults = Faults()
    faults.add_doubles("doubled ids", [1, 2, 3])
    faults.raise_any(Path("a.json"))


def test_all_kinds_come_in_one_message_and_only_the_first_names_of_each() -> None:
    faults = Faults()
    for name in ("a", "b", "c", "d"):
        faults.add("missing pictures", name)
    faults.add_doubles("doubled ids", [5, 7, 5, 5], " in x.png")
    with pytest.raises(DatasetError) as caught:
        faults.raise_any(Path("a.json"))
    assert str(caught.value) == (
        "a.json: 4 missing pictures: a, b, c, ...; 1 doubled ids: 5 in x.png. "
        "Repair the dataset or prepare it again"
    )
