# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import pytest

from cmpf.cli.datasets import dataset_name


@pytest.mark.parametrize("given", ["mine/fruit.yaml", "mine/fruit.YML", "file:mine/fruit.yaml", "file:odd"])
def test_files_get_their_prefix_and_an_absolute_path(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert dataset_name(given) == f"file:{tmp_path}/{given.removeprefix('file:')}"


def test_other_words_are_names_of_the_table() -> None:
    assert dataset_name("shapes_val") == "shapes_val"
