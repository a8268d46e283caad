# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers.own_dataset import change_json, copy_own_dataset

from cmpf.cli.datasets import dataset_name
from cmpf.data.datasets.catalog import DATASETS, get_dataset
from cmpf.data.datasets.validate import Finding, Mistake, check_dataset
from cmpf.errors import DatasetError


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return copy_own_dataset(tmp_path)


def messages(findings: Sequence[Finding], folder: Path) -> list[str]:
    """Kind and text of each finding, with paths relative to the folder."""
    return [f"{f.mistake.name} {f}".replace(f"{folder}/", "") for f in findings]


@pytest.mark.parametrize("name", ["fruit_train", "fruit_val", "fruit_semantic", "fruit_instances"])
def test_a_whole_dataset_has_no_findings_and_can_be_read(own: Path, name: str) -> None:
    file = dataset_name(str(own / f"{name}.yaml"))
    assert check_dataset(file) == []
    assert len(get_dataset(file).samples) == (8 if name == "fruit_train" else 4)


def test_a_missing_folder_is_one_finding_and_the_rest_is_checked_all_the_same(own: Path) -> None:
    (own / "images/val").rename(own / "images/elsewhere")
    (own / "panoptic_val/bowl_03.png").unlink()
    found = messages(check_dataset(dataset_name(str(own / "fruit_val.yaml"))), own)
    assert found == [
        "MISSING images/val: no such file or folder; correct the paths in fruit_val.yaml",
        "MISSING panoptic_val/bowl_03.png: no such panoptic PNG",
    ]


def test_many_mistakes_are_told_at_once_where_the_reader_names_the_first_kinds_only(own: Path) -> None:
    (own / "images/val/bowl_01.jpg").unlink()
    (own / "images/val/bowl_02.jpg").write_bytes(b"no image")
    (own / "panoptic_val/bowl_04.png").unlink()
    change_json(own / "instances_val.json", lambda content: content["annotations"][0].update(category_id=77))
    found = check_dataset(dataset_name(str(own / "fruit_val.yaml")))
    assert [finding.mistake for finding in found] == [
        Mistake.MISSING,
        Mistake.DAMAGED,
        Mistake.MISSING,
        Mistake.CATEGORY,
    ]


def test_what_only_the_reader_refuses_is_a_finding_too(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise DatasetError("images of a kind that nobody thought of")

    monkeypatch.setattr("cmpf.data.datasets.custom.read_coco_instances", refuse)
    (found,) = check_dataset(dataset_name(str(own / "fruit_instances.yaml")))
    assert (found.mistake, found.file) == (Mistake.OTHER, own)
    assert found.message == "images of a kind that nobody thought of"


def test_a_dataset_of_the_table_that_is_not_there_says_how_to_make_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    found = messages(check_dataset("openvocab_pascal20_sem_seg_val"), tmp_path)
    assert found == [
        f"MISSING pascal_voc_d2/{folder}/validation: no such file or folder; "
        "python datasets/prepare_pascal_voc.py"
        for folder in ("images", "annotations_pascal20")
    ]


def test_datasets_of_the_table_are_checked_by_their_own_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: Path
) -> None:
    """LVIS finds images by their address: here val2017/bowl_01.jpg below coco/."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    (tmp_path / "coco").mkdir()
    (own / "images/val").rename(tmp_path / "coco/val2017")
    (tmp_path / "lvis").mkdir()
    (own / "instances_val.json").rename(tmp_path / "lvis/lvis_v1_val.json")

    def as_in_lvis(content: dict[str, list[dict[str, object]]]) -> None:
        for image in content["images"]:
            image["coco_url"] = f"http://images.cocodataset.org/val2017/{image.pop('file_name')}"
            image["neg_category_ids"] = image["not_exhaustive_category_ids"] = []

    change_json(tmp_path / "lvis/lvis_v1_val.json", as_in_lvis)
    assert check_dataset("openvocab_lvis_v1_val") == []
    (tmp_path / "coco/val2017/bowl_02.jpg").unlink()
    found = messages(check_dataset("openvocab_lvis_v1_val"), tmp_path)
    assert found == ["MISSING coco/val2017/bowl_02.jpg: no such image, but lvis_v1_val.json lists it"]


def test_unknown_names_and_wrong_files_are_errors(own: Path) -> None:
    with pytest.raises(DatasetError, match="openvocab_lvis_v1_vall: unknown dataset; did you mean"):
        check_dataset("openvocab_lvis_v1_vall")
    (own / "fruit_val.yaml").write_text("name: x\n")
    with pytest.raises(DatasetError, match="task: missing"):
        check_dataset(dataset_name(str(own / "fruit_val.yaml")))


def test_every_dataset_of_the_table_has_a_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for name in DATASETS:
        found = check_dataset(name)
        assert found
        assert {finding.mistake for finding in found} == {Mistake.MISSING}, name
