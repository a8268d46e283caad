# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""docs/published_arithmetic.md is complete and true, and docs/reproduce.md has a row for each published figure."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from cmpf.cli import make_parser
from cmpf.config import get_cfg
from cmpf.config.keys import KEYS
from cmpf.data import dataset_names
from cmpf.factory.protocol import COMMON_SETTINGS
from cmpf.weights.zoo_entries import zoo

ROOT = Path(__file__).resolve().parent.parent.parent
TEXT = (ROOT / "docs" / "published_arithmetic.md").read_text(encoding="utf-8")
REPRODUCE = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")
KEY = re.compile(r"\b(?:MODEL|TEST|DATASETS|SOLVER|INPUT)(?:\.[A-Z_]+)+")
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


# Every known difference between the published systems and CMPF that changes a number, by words of its row.
KNOWN = (
    *("3 levels", "last layer", "boxes", "never set", "multiple of 32", "without any keeps plain scores"),
    *(
        "vote in semantic results only",
        "points of its grid",
        "islands",
        "authors' logs",
        "share one",
        "OpenSeg",
    ),
    *(
        "float32",
        "float16",
        "above 0.4",
        "100 detections",
        "crop of the large-scale jitter",
        "Weight decay spares",
    ),
    *(
        "Test sizes",
        "shorter side is above 512",
        "before things are pasted",
        "5,104 images",
        "without a labeled pixel",
    ),
    *("BDD100K's own converter", "NaN for a mask", "in the order of its memory", "mean logit"),
)
# Keys of published files say "published" too, and are no difference.
NO_DIFFERENCE = {"MODEL.CMPF.SAM.CHECKPOINT", "TEST.ENSEMBLE.SAM_CHECKPOINT"}


def test_the_table_has_a_row_for_every_known_difference() -> None:
    for words in KNOWN:
        assert any(words in row.published for row in ROWS), words


def test_every_option_of_the_published_protocol_and_every_key_that_names_it_has_a_row() -> None:
    named = {name for name, key in KEYS.items() if "publish" in key.meaning.lower() or "PUBLISHED" in name}
    assert "MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS" in named
    shown = {QUOTED.findall(row.option)[0].split()[0] for row in ROWS if not row.option.startswith("none: ")}
    assert (named | set(COMMON_SETTINGS)) - NO_DIFFERENCE - shown == set()


@pytest.mark.parametrize("key", COMMON_SETTINGS)
def test_the_protocol_sets_the_published_value_of_the_table(key: str) -> None:
    [value] = {QUOTED.findall(row.option)[0].split()[1] for row in ROWS if row.option.startswith(f"`{key} ")}
    assert str(COMMON_SETTINGS[key]) == value


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.published[:30])
def test_an_option_exists_takes_the_published_value_and_has_the_default_given(row: Row) -> None:
    if row.option.startswith("none: "):
        return
    [setting] = QUOTED.findall(row.option)
    key, value = setting.split()
    get_cfg(None, [key, value])
    assert QUOTED.findall(row.default) == [str(KEYS[key].field.default) or '""']


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


class Figure(NamedTuple):
    """A row of docs/reproduce.md."""

    figures: str
    command: str
    weights: str
    data: str
    disk: str
    memory: str
    hours: str
    tolerance: str


FIGURES = [
    Figure(*(cell.strip() for cell in line.strip("|").split("|")))
    for line in REPRODUCE.splitlines()
    if line.startswith("| ") and not line.startswith("| figure |")
]
SHORT = {
    "PQ": "panoptic/PQ",
    "AP": "segm/AP",
    "APr": "segm/APr",
    "mIoU": "sem_seg/mIoU",
    "fwIoU": "sem_seg/fwIoU",
}


@pytest.mark.parametrize("model", ["cmpf_convnext_large", "cmpf_r50x64"])
def test_every_published_figure_has_a_row_that_says_how_to_get_it(model: str) -> None:
    entry = zoo()[model]
    wanted = {
        (dataset, metric, value)
        for of_dataset in (entry.published, entry.with_ensemble)
        for dataset, figures in of_dataset.items()
        for metric, value in figures.items()
    }
    found = set()
    for row in FIGURES:
        arguments = make_parser().parse_args(shlex.split(QUOTED.findall(row.command)[0])[1:])
        assert (arguments.program, arguments.protocol) == ("cmpf eval", "published")
        [dataset] = arguments.dataset
        assert dataset in dataset_names()
        assert f"`{dataset}`" in row.data
        if arguments.model == model:
            figures = re.findall(r"(PQ|APr|AP|mIoU|fwIoU) ([\d.]+)", row.figures)
            found |= {(dataset, SHORT[name], float(value)) for name, value in figures}
    assert found == wanted


def test_every_figure_of_the_results_has_a_row() -> None:
    results = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    table = results.partition("| dataset | ConvNeXt-Large: PQ |")[2].partition("\n\n")[0]
    numbers = re.findall(r"\d+\.\d", "\n".join(table.splitlines()[2:]))
    assert len(numbers) == 42
    assert [number for number in numbers if number not in " ".join(row.figures for row in FIGURES)] == []


@pytest.mark.parametrize("row", FIGURES, ids=lambda row: row.figures[:40])
def test_a_row_says_what_its_command_needs(row: Figure) -> None:
    assert float(row.tolerance) > 0
    assert row.memory.endswith("GiB")
    assert row.hours == "not measured" or float(row.hours.split()[0]) > 0
    assert ("ViT-H" in row.weights) == ("with ensemble" in row.figures) == ("SAM's masks" in row.hours)
