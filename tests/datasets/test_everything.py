# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Raw tree -> script -> catalog: what the scripts make is where the catalog looks, in the form that it reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.raw_datasets import make_everything, prepare_everything

from cmpf.data.catalog import get_dataset

NAMES = (
    "openvocab_coco_2017_train_panoptic_with_sem_seg",
    "openvocab_coco_2017_val_panoptic_with_sem_seg",
    "openvocab_coco_stuff_164k_sem_seg",
    "openvocab_lvis_v1_val",
    "openvocab_ade20k_panoptic_train",
    "openvocab_ade20k_panoptic_val",
    "openvocab_ade20k_full_sem_seg_train",
    "openvocab_ade20k_full_sem_seg_val",
    "openvocab_mapillary_vistas_panoptic_train",
    "openvocab_mapillary_vistas_panoptic_val",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("everything")
    make_everything(folder)
    prepare_everything(folder)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_the_catalog_reads_what_the_scripts_made(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from preparation import read_ids, read_labels

    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    dataset = get_dataset(name)
    classes = len(dataset.vocabulary.names)
    assert dataset.samples
    for sample in dataset.samples:
        assert Path(sample["file_name"]).is_file()
        assert all(0 <= a["category_id"] < classes for a in sample.get("annotations", []))
        if "sem_seg_file_name" in sample:
            labels = np.unique(read_labels(Path(sample["sem_seg_file_name"])))
            known = labels[labels != dataset.entry.ignore_label]
            assert len(known)
            assert known.max() < classes
        if "pan_seg_file_name" in sample:
            ids = np.unique(read_ids(Path(sample["pan_seg_file_name"])))
            assert {segment["id"] for segment in sample["segments_info"]} == set(ids[ids > 0].tolist())


@pytest.mark.parametrize("name", [name for name in NAMES if "panoptic" in name])
def test_label_pictures_and_panoptic_pngs_name_the_same_classes(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from preparation import read_ids, read_labels

    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    sample = get_dataset(name).samples[0]
    ids, labels = read_ids(Path(sample["pan_seg_file_name"])), read_labels(Path(sample["sem_seg_file_name"]))
    for segment in sample["segments_info"]:
        assert set(labels[ids == segment["id"]].tolist()) == {segment["category_id"]}
