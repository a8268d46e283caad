# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Datasets made of Parquet files are those that cmpf predict writes, whatever the images lie in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.predictions import garden
from PIL import Image
from pycocotools.coco import COCO

from cmpf.cli import label
from cmpf.errors import CMPFError, DatasetError
from cmpf.formats.label_map import read_panoptic_ids
from cmpf.labelling.export import EXPORTS, export_labels
from cmpf.labelling.parquet import write_parquet
from cmpf.labelling.record import ImageRecord, record_of

ABOUT = {"cmpf": "0.2.0", "vocabulary": ["cat, kitty", "grass"], "stuff": ["grass"], "task": "all"}
URIS = ("photos/a.jpg", "photos/sub/a.jpg", "tar://0.jpg::photos/x.tar", "photos/t.parquet#3")


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    folder = tmp_path / "labels"
    folder.mkdir()
    failed = ImageRecord("photos/bad.jpg", "", 0, 0, error="photos/bad.jpg: empty")
    records = [record_of(garden(), uri) for uri in URIS]
    write_parquet(folder / "part-00000-of-00002.parquet", [*records[:2], failed], ABOUT)
    write_parquet(folder / "part-00001-of-00002.parquet", records[2:], ABOUT)
    return folder


def test_pycocotools_reads_the_instances_of_all_files(labels: Path, tmp_path: Path) -> None:
    count, (path,) = export_labels(labels, "coco", tmp_path / "out")
    assert count == 4
    coco = COCO(str(path))
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == [
        "a.jpg",
        "sub/a.jpg",
        "x/0.jpg",
        "t/3",
    ]
    assert {c["name"]: c["id"] for c in coco.loadCats(coco.getCatIds())} == {"cat": 1, "grass": 2}
    assert [annotation["category_id"] for annotation in coco.loadAnns(coco.getAnnIds())] == [1] * 4
    for annotation in coco.loadAnns(coco.getAnnIds()):
        assert np.array_equal(coco.annToMask(annotation).astype(bool), garden().panoptic == 1)


def test_panoptic_pngs_class_maps_and_outlines_are_named_after_their_images(
    labels: Path, tmp_path: Path
) -> None:
    export_labels(labels, "coco-panoptic", tmp_path / "panoptic")
    for name in ("a", "sub/a", "x/0", "t/3"):
        assert np.array_equal(
            read_panoptic_ids(tmp_path / f"panoptic/panoptic/{name}.png"), garden().panoptic
        )
    found = json.loads((tmp_path / "panoptic/annotations/panoptic.json").read_text())
    assert [len(a["segments_info"]) for a in found["annotations"]] == [2] * 4
    _, files = export_labels(labels, "png", tmp_path / "png")
    assert [path.read_text() for path in files] == ["cat, kitty\ngrass\n"]
    with Image.open(tmp_path / "png/sub/a.png") as image:
        assert np.array_equal(np.asarray(image), np.where(garden().panoptic == 1, 0, 1))
    export_labels(labels, "yolo", tmp_path)
    assert (tmp_path / "yolo/labels/sub/a.txt").read_text().startswith("0 0")


def test_pixels_of_no_segment_are_65535_in_a_class_map(tmp_path: Path) -> None:
    cat = replace(record_of(garden(), "a.jpg"), segments=record_of(garden(), "a.jpg").of_task("panoptic")[:1])
    write_parquet(tmp_path / "x.parquet", [cat], ABOUT)
    export_labels(tmp_path / "x.parquet", "png", tmp_path)
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), np.where(garden().panoptic == 1, 0, 65535))


def test_a_format_whose_result_was_not_made_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x.parquet", [], ABOUT | {"task": "panoptic"})
    with pytest.raises(
        CMPFError, match=r"coco is made of the instance result, .* of task 'panoptic'; label again"
    ):
        export_labels(tmp_path, "coco", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert export_labels(tmp_path, "coco-panoptic", tmp_path / "out")[0] == 0


def test_files_of_different_runs_are_refused(labels: Path) -> None:
    write_parquet(labels / "part-00001-of-00002.parquet", [], ABOUT | {"stuff": []})
    with pytest.raises(DatasetError, match=r'do not belong together: stuff \["grass"\] there, \[\] now'):
        export_labels(labels, "coco", labels / "out")


def test_the_command_offers_what_there_is() -> None:
    assert label.EXPORTS == EXPORTS
