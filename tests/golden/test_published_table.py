# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""docs/published_arithmetic.md names options and tests that exist, and defaults that are true."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from cmpf.config import get_cfg
from cmpf.config.keys import KEYS

ROOT = Path(__file__).resolve().parent.parent.parent
TEXT = (ROOT / "docs" / "published_arithmetic.md").read_text(encoding="utf-8")
KEY = re.compile(r"(?:MODEL|TEST)(?:\.[A-Z_]+)+")
QUOTED = re.compile(r"`([^`]+)`")


class Row(NamedTuple):
    """One difference."""

    published: str
    ours: str
    option: str
    default: str
    shown_by: str


ROWS = [
    Row(*(cell.strip() for cell in line.strip("|").split("|")))
    for line in TEXT.splitlines()
    if line.startswith("| ") and not line.startswith("| The published code |")
]


def test_the_table_has_a_row_for_every_known_issue() -> None:
    assert len(ROWS) >= 5
    for words in ("3 levels", "last layer", "boxes", "never set", "multiple of 32"):
        assert any(words in row.published for row in ROWS), words


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.published[:30])
def test_an_option_exists_takes_the_published_value_and_has_the_default_given(row: Row) -> None:
    if row.option.startswith("none: "):
        return
    [setting] = QUOTED.findall(row.option)
    key, value = setting.split()
    get_cfg(None, [key, value])
    assert QUOTED.findall(row.default) == [str(KEYS[key].field.default)]


def test_every_key_in_the_text_exists() -> None:
    keys = set(KEY.findall(TEXT))
    assert len(keys) >= 6
    assert keys <= set(KEYS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.published[:30])
def test_every_test_that_shows_a_difference_exists(row: Row) -> None:
    named = QUOTED.findall(row.shown_by)
    assert named
    for name in named:
        path, function = name.split("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, name
