# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The commands of GETTING_STARTED.md, "Your own dataset", run one after the other."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from helpers.documents import blocks as document_blocks

from cmpf.cli import main

ROOT = Path(__file__).resolve().parent.parent
# In place of a training of minutes.
SHORT = (
    *("SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "INPUT.IMAGE_SIZE", "128", "NUM_THREADS", "1"),
    *("MODEL.DEVICE", "cpu", "TEST.ENSEMBLE.POINTS_PER_SIDE", "2"),
)


def section(title: str) -> str:
    text = (ROOT / "GETTING_STARTED.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^## \d+ {title}\n(.*?)(?=^## |\Z)", text, flags=re.M | re.S)
    return str(found)


def commands(text: str) -> list[list[str]]:
    blocks = re.findall(r"^```bash\n(.*?)^```", text, flags=re.M | re.S)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


@pytest.fixture
def _checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory, with what the commands take from a checkout."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "tests/data/own_dataset", "tests/data/own_dataset")
    Path("cmpf").mkdir()
    Path("cmpf/assets").symlink_to(ROOT / "cmpf/assets")


@pytest.mark.usefixtures("_checkout")
def test_the_way_from_images_to_a_trained_model_can_be_walked(capsys: pytest.CaptureFixture[str]) -> None:
    done = []
    for command in commands(section("Your own dataset")):
        program, *arguments = command
        if program == "cp":
            shutil.copytree(arguments[-2], arguments[-1])
            continue
        assert program == "cmpf"
        short = SHORT if arguments[0] in ("train", "eval") else ()
        assert main([*arguments, *short]) == 0, capsys.readouterr().err
        done.append(arguments[0])
    assert done == ["datasets"] * 5 + ["train", "eval", "predict"]

    for folder in ("output/fruit_truth", "output/fruit_seen"):
        assert len(list(Path(folder).glob("*_bowl_*.png"))) == 8
    results = [
        json.loads(Path(f"output/{name}/results.json").read_text()) for name in ("fruit", "fruit_eval")
    ]
    assert results[0] == results[1]
    tasks = results[0]["fruit_val"]
    assert {"PQ", "AP", "mIoU"} <= {name for metrics in tasks.values() for name in metrics}
    # Trained and tested on the same classes: all are seen.
    assert tasks["panoptic"]["S_PQ"] == tasks["panoptic"]["PQ"]
    assert Path("output/fruit_found/bowl_01.jpg").is_file()


def test_the_page_for_people_with_a_dataset_has_the_same_commands() -> None:
    text = (ROOT / "docs/dataset.md").read_text(encoding="utf-8")
    (block,) = (b for b in document_blocks("docs/dataset.md", text) if b.tests)
    known = [line for line in section("Your own dataset").splitlines() if line.startswith(("cp ", "cmpf "))]
    assert len(block.text.splitlines()) == 7
    assert [line for line in block.text.splitlines() if line not in known] == []


def test_the_yaml_file_of_the_section_is_the_one_of_the_example() -> None:
    (shown,) = re.findall(r"^```yaml\n(.*?)^```", section("Your own dataset"), flags=re.M | re.S)
    real = (ROOT / "tests/data/own_dataset/fruit_val.yaml").read_text()

    def lines(text: str) -> list[str]:
        return [line.partition("#")[0].strip() for line in text.splitlines()]

    assert lines(shown) == lines(real)
