# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Several images on the page: what the ZIP of results holds."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

import cmpf
from cmpf.errors import CMPFError
from cmpf.predictor import Predictor
from cmpf.shapeworld.scene import generate_scene
from cmpf.web.archive import number_duplicates
from cmpf.web.guard import DiskQuota
from cmpf.web.inputs import MAX_IMAGES, SEEDS, Limits
from cmpf.web.page import uploaded_paths
from cmpf.web.segmenter import BatchSegmenter

WORDS = ["sky", "grass", "water", "yellow star", "blue bar"]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return cmpf.load("cmpf_tiny", device="cpu")


@pytest.fixture
def quota(tmp_path: Path) -> DiskQuota:
    (tmp_path / "quota").mkdir()
    return DiskQuota(tmp_path / "quota", Limits())


def upload(folder: Path, name: str, seed: int) -> str:
    """An image of 128 x 128, in a folder of its own as Gradio puts them."""
    folder.mkdir(parents=True)
    Image.fromarray(generate_scene(seed, size=128, seen_only=False).image).save(folder / name)
    return str(folder / name)


def test_the_zip_has_an_overlay_of_each_image_one_dataset_and_what_could_not_be_read(
    predictor: Predictor, quota: DiskQuota, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    paths = [
        upload(tmp_path / "1", "shapes.png", SEEDS[0]),
        str(tmp_path / "broken.png"),
        upload(tmp_path / "2", "shapes.png", SEEDS[1]),
        str(tmp_path / "gone" / "removed.png"),
    ]
    segment = BatchSegmenter(predictor, Limits(working_side=100), quota)
    panel, path = segment(paths, WORDS, "panoptic", min_score=0.1)
    assert "2 of 4 images segmented" in panel
    assert "Large images were shrunk" in panel  # 128 pixels to 100
    assert path is not None
    assert quota.folder in Path(path).parents
    with zipfile.ZipFile(path) as content:
        names = content.namelist()
        images = {name: Image.open(io.BytesIO(content.read(name))) for name in names if name.endswith("jpg")}
        rows = list(csv.DictReader(io.StringIO(content.read("errors.csv").decode())))
        content.extract("instances.json", tmp_path)
    assert sorted(names) == ["errors.csv", "instances.json", "shapes.jpg", "shapes_2.jpg"]
    assert not np.array_equal(np.asarray(images["shapes.jpg"]), np.asarray(images["shapes_2.jpg"]))
    assert [row["file"] for row in rows] == ["broken.png", "removed.png"]
    assert all(row["error"].startswith(row["file"]) and str(tmp_path) not in row["error"] for row in rows)
    coco = COCO(str(tmp_path / "instances.json"))
    assert [(i["file_name"], i["height"], i["width"]) for i in coco.dataset["images"]] == [
        ("shapes.png", 100, 100), ("shapes_2.png", 100, 100)
    ]  # fmt: skip
    assert [category["name"] for category in coco.dataset["categories"]] == WORDS
    assert len(coco.dataset["annotations"]) >= 2
    assert {a["image_id"] for a in coco.dataset["annotations"]} <= {1, 2}
    assert all(coco.annToMask(a).sum() == a["area"] for a in coco.dataset["annotations"])
    assert min(a["score"] for a in coco.dataset["annotations"]) >= 0.1


def test_without_broken_images_there_is_no_list_of_errors(
    predictor: Predictor, quota: DiskQuota, tmp_path: Path
) -> None:
    paths = [upload(tmp_path / "1", "a.png", SEEDS[0]), upload(tmp_path / "2", "a.bmp", SEEDS[1])]
    for task in ("semantic", "instance"):
        _, path = BatchSegmenter(predictor, Limits(), quota)(paths, WORDS, task)
        assert path is not None
        with zipfile.ZipFile(path) as content:
            assert sorted(content.namelist()) == ["a.jpg", "a_bmp.jpg", "instances.json"]
            names = [i["file_name"] for i in json.loads(content.read("instances.json"))["images"]]
        assert names == ["a.png", "a.bmp"]


@pytest.mark.parametrize(
    ("paths", "words", "task", "message"),
    [
        ([], WORDS, "panoptic", "no images; upload"),
        (None, WORDS, "panoptic", "no images; upload"),
        (["a.png"] * (MAX_IMAGES + 1), WORDS, "panoptic", f"21 images; this page takes up to {MAX_IMAGES} at"),
        (["a.png"], [], "panoptic", "no classes; enter"),
        (["a.png"], WORDS, "depth", "is unknown; choose one of panoptic"),
        (["<b>.png", "b.png"], WORDS, "panoptic", "none of the images can be read. &lt;b&gt;.png"),
    ],
)  # fmt: skip
def test_what_visitors_do_wrong_is_told_as_text_and_leaves_no_file(
    predictor: Predictor, quota: DiskQuota, paths: list[str] | None, words: list[str], task: str, message: str
) -> None:
    panel, path = BatchSegmenter(predictor, Limits(), quota)(paths, words, task)
    assert panel.startswith("<div class='cmpf-error' role='alert'>")
    assert message in panel
    assert path is None
    assert list(quota.folder.iterdir()) == []


def test_results_share_the_quota_of_uploads_and_the_oldest_go(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "quota"
    example = folder / "example" / "a.png"
    example.parent.mkdir(parents=True)
    example.write_bytes(b"stays")
    quota = DiskQuota(folder, Limits(max_upload_mb=1, uploads_mb=1))
    quota.free(1)  # the first use tells what belongs to the page
    old = folder / "old" / "b.png"
    old.parent.mkdir()
    old.write_bytes(bytes(2**20 - 10))
    path = upload(tmp_path / "1", "a.png", SEEDS[0])
    _, zipped = BatchSegmenter(predictor, Limits(), quota)([path], WORDS, "instance")
    assert zipped is not None
    assert Path(zipped).is_file()
    assert not old.exists()
    assert example.exists()
    with pytest.raises(CMPFError, match=r"start cmpf serve with a larger --uploads-mb"):
        quota.free(2**20 + 1)


def test_equal_names_are_numbered_whatever_their_case() -> None:
    names = ["a.png", "A.png", "a_2.png", "a.png", "b"]
    assert number_duplicates(names) == ["a.png", "A_3.png", "a_2.png", "a_4.png", "b"]


def test_paths_of_uploads_are_those_that_are_named() -> None:
    assert uploaded_paths([{"path": "x/a.png"}, {"path": None}]) == ["x/a.png"]
    assert uploaded_paths(None) == []
