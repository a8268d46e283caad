# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The notebooks run from top to bottom, as a reader runs them; what is stored of them is small and without errors."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from helpers.documents import ROOT

from cmpf.cli.ablation import COLUMNS

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
# In place of numbers that take minutes.
SMALL = "ITERATIONS, TRAIN_IMAGES, VAL_IMAGES, SEEDS = 1, 4, 2, 1"
MEGABYTE = 1_000_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", os.pathsep.join([programs, os.environ["PATH"]]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("CMPF_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source = SMALL
    client = nbclient.NotebookClient(
        book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    shown = "".join(output.get("text", "") for cell in book.cells for output in cell.get("outputs", ()))
    assert "error:" not in shown
    assert "cmpf: " not in shown
    expected = {
        "segment_your_own_words": ["blue triangle", "with SAM:", "results/image_0_panoptic.json"],
        "train_an_injector": ["| my_idea |", "query_injector.gate", "finished: my_idea, seed 0"],
    }
    assert [text for text in expected[path.stem] if text not in shown] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_stored_of_a_notebook_is_whole_and_small(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert path.stat().st_size < MEGABYTE
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = {output.output_type for cell in code for output in cell.outputs}
    assert kinds <= {"stream", "execute_result", "display_data"}
    assert "/tmp/" not in path.read_text(encoding="utf-8")


def test_the_table_that_is_stored_has_the_columns_of_today() -> None:
    book = nbformat.read(ROOT / "docs/notebooks/train_an_injector.ipynb", as_version=4)
    stored = "".join(output.get("text", "") for cell in book.cells for output in cell.get("outputs", ()))
    assert f"| | {' | '.join(COLUMNS)} |\n" in stored
