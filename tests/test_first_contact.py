# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The commands of docs/paper.md, as a reader walks them: an idea, its configuration, the comparison; in small."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from pathlib import Path

import pytest
from helpers.documents import ROOT, blocks, command_lines, own_program

from cmpf.cli import ablation, main
from cmpf.cli.ablation import Pool, Process, Run
from cmpf.shapeworld.__main__ import main as shapeworld

# In place of trainings of minutes.
SHORT = (
    *("--seeds", "1", "--iterations", "1", "--jobs", "1", "--opts"),
    *("SOLVER.IMS_PER_BATCH", "2", "MODEL.DEVICE", "cpu", "INPUT.IMAGE_SIZE", "128"),
)
PAGE = "docs/paper.md"


def in_this_process(run: Run) -> Process:
    """A run as the pool's processes do it, without starting one."""
    run.folder.mkdir(parents=True)
    assert main(list(run.arguments)) == 0
    return subprocess.Popen(["true"])


@pytest.fixture
def _reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of a fresh clone, with the files that the page has written out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    Path("configs").symlink_to(ROOT / "configs")
    for block in blocks(PAGE, (ROOT / PAGE).read_text(encoding="utf-8")):
        if block.language in ("python", "yaml"):
            Path({"python": "my_idea.py", "yaml": "my_idea.yaml"}[block.language]).write_text(block.text)


@pytest.mark.usefixtures("_reader")
def test_an_idea_is_compared_with_its_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "Pool", partial(Pool, start=in_this_process))
    (block,) = (b for b in blocks(PAGE, (ROOT / PAGE).read_text("utf-8")) if b.language == "bash" and b.tests)
    worlds, comparison = (own_program(command) for command in command_lines(block))
    assert worlds is not None
    assert comparison is not None
    assert shapeworld([*worlds[1], "--train", "4", "--val", "2", "--jobs", "1"]) == 0
    assert main([*comparison[1], *SHORT]) == 0
    table = json.loads(Path("output/my_idea/ablation.json").read_text())["shapes_val"]
    assert list(table) == ["no_ensemble", "my_idea"]
    assert all(row["PQ seen"]["mean"] is not None for row in table.values())
