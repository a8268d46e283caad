# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""--dry-run of cmpf train, cmpf eval and tools/train_net.py."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from helpers.prepared_trees import write_prepared_trees

import cmpf
from cmpf import factory
from cmpf.cli import main
from cmpf.cli.train import main as train_net
from cmpf.encoders.clip_factory import saved_file
from cmpf.encoders.sam import published_path
from cmpf.shapeworld.writer import WorldSpec, write_dataset
from cmpf.weights.vocabularies import vocabulary_path

TINY_WEIGHTS = Path(cmpf.__file__).parent / "assets" / "cmpf_tiny_decoder.safetensors"
VOC = "openvocab_pascal20_sem_seg_val"


@pytest.fixture(autouse=True)
def _nothing_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty folders of datasets and caches, and no model."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a dry run builds no model")

    monkeypatch.setattr(factory, "build_model", refuse, raising=False)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    monkeypatch.setenv("CMPF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def states(output: str) -> dict[str, str]:
    """Kind and name -> found or MISSING."""
    lines = [line.split("  ") for line in output.splitlines() if line.startswith(("found ", "MISSING "))]
    rows = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    return {f"{row[1]} {row[2]}": row[0] for row in rows}


def test_everything_is_missing_on_a_new_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--model", "cmpf_convnext_large", "--protocol", "published", "--dry-run"]) == 1
    out = capsys.readouterr().out
    assert states(out) == {
        "dataset openvocab_ade20k_panoptic_val": "MISSING",
        "published vocabulary coco_panoptic": "MISSING",
        "published vocabulary ade20k_150": "MISSING",
        "trained weights cmpf_convnext_large.pth": "MISSING",
        "CLIP convnext_large_d_320 laion2b_s29b_b131k_ft_soup": "MISSING",
        "SAM vit_b": "MISSING",
        "SAM of the ensemble vit_h": "MISSING",
    }
    place = tmp_path / "cache/zoo/cmpf_convnext_large/cmpf_convnext_large.pth"
    assert re.search(
        rf"missing trained weights {place.name}: downloaded when needed; .* save https://\S+ as {place}\n",
        out,
    )
    assert "missing published vocabulary ade20k_150: cmpf datasets vocabularies --fetch\n" in out
    assert "protocol of openvocab_ade20k_panoptic_val: published\n" in out
    assert out.endswith("11 of 11 missing\n")
    assert not Path("output").exists()


def test_a_weight_file_of_ones_own_that_is_missing_is_not_said_to_be_downloaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = "coco/fcclip/convnext_large_eval_ade20k"
    assert main(["eval", "--config-file", config, "--weights", "mine.pth", "--dry-run"]) == 1
    told = "missing trained weights mine.pth: correct the path, or give the name of a model: cmpf models\n"
    assert told in capsys.readouterr().out


def test_what_is_there_is_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_prepared_trees(tmp_path / "data")
    for path in (
        saved_file("convnext_large_d_320", "laion2b_s29b_b131k_ft_soup"),
        published_path("vit_b"),
        vocabulary_path("coco_panoptic"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1:something")
    command = [
        "eval",
        "--config-file",
        "coco/cmpf/convnext_large_eval_pas20.yaml",
        "--weights",
        str(TINY_WEIGHTS),
    ]
    assert main([*command, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert set(states(out).values()) == {"found"}
    assert f"protocol of {VOC}: own words: not comparable\n" in out
    assert out.endswith("nothing is missing; nothing was run\n")
    assert main([*command, "--dry-run", "--protocol", "published"]) == 1
    found = states(capsys.readouterr().out)
    # A file of this name with other bytes is not the published one.
    assert {what for what, state in found.items() if state == "MISSING"} == {
        "published vocabulary coco_panoptic",
        "published vocabulary pascal_voc_21",
    }


def test_a_training_needs_its_own_dataset_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--config-file", "shapes/cmpf_tiny", "--dry-run"]
    assert train_net(command) == 1
    out = capsys.readouterr().out
    assert states(out) == {"dataset shapes_train": "MISSING", "dataset shapes_val": "MISSING"}
    assert "missing dataset shapes_train: python -m cmpf.shapeworld --out" in out
    write_dataset(tmp_path / "data" / "shapeworld", WorldSpec(train=1, val=1), progress=False)
    assert train_net(command) == 0
    assert train_net([*command, "--eval-only", "MODEL.WEIGHTS", "nowhere.safetensors"]) == 1
    assert "MISSING  trained weights  nowhere.safetensors" in capsys.readouterr().out


def test_masks_in_a_folder_need_no_second_sam(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "data" / "shapeworld", WorldSpec(train=1, val=1), progress=False)
    cached = [
        "TEST.ENSEMBLE.ENABLED",
        "True",
        "TEST.ENSEMBLE.SOURCE",
        "cache",
        "TEST.ENSEMBLE.CACHE_DIR",
        "masks",
    ]
    command = ["--config-file", "shapes/cmpf_tiny", "--dry-run", *cached]
    assert train_net(command) == 1
    assert states(capsys.readouterr().out)["SAM's masks TEST.ENSEMBLE.CACHE_DIR"] == "MISSING"
    Path("masks").mkdir()
    assert train_net(command) == 0
    words = ["DATASETS.VOCABULARIES", "{'shapes_val': 'mine.txt'}"]
    assert train_net([*command, *words]) == 1
    assert states(capsys.readouterr().out)["vocabulary shapes_val"] == "MISSING"
