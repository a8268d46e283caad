# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Formats of datasets, read back by the tools that read them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.predictions import garden
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from cmpf.data.vocabulary import Vocabulary
from cmpf.formats.label_map import read_panoptic_ids
from cmpf.labelling.configuration import class_configuration, configured_vocabulary
from cmpf.labelling.journal import Entry
from cmpf.labelling.record import ImageRecord, record_of
from cmpf.labelling.writers import DATASETS, FORMATS, resolve_formats, write_dataset

CLASSES = {"vocabulary": ["cat", "grass"], "stuff": ["grass"]}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos/2024").mkdir(parents=True)
    for name in ("garden.png", "2024/other.jpg"):
        Image.fromarray(garden().image).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


@pytest.fixture
def entries(photos: Path) -> list[Entry]:
    failed = ImageRecord(str(photos / "bad.jpg"), "", 0, 0, error="bad.jpg: damaged")
    return [
        Entry(record_of(garden(), str(photos / "garden.png"), "ab"), "garden.png", "garden"),
        Entry(failed, "bad.jpg", "bad"),
        Entry(record_of(garden(), str(photos / "2024/other.jpg"), "cd"), "2024/other.jpg", "2024/other"),
    ]


def written(name: str, entries: list[Entry], folder: Path) -> list[Path]:
    return write_dataset(name, lambda: entries, CLASSES, folder)


@pytest.mark.parametrize(("name", "least"), [("coco", 1.0), ("coco-polygons", 1.0)])
def test_pycocotools_reads_the_masks_of_coco(
    entries: list[Entry], tmp_path: Path, name: str, least: float
) -> None:
    (path,) = written(name, entries, tmp_path / "out")
    coco = COCO(path)
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == [
        "garden.png",
        "2024/other.jpg",
    ]
    assert [(c["id"], c["name"], c["isthing"]) for c in coco.loadCats(coco.getCatIds())] == [
        (1, "cat", 1), (2, "grass", 0),
    ]  # fmt: skip
    annotations = coco.loadAnns(coco.getAnnIds())
    assert [(a["id"], a["image_id"], a["category_id"]) for a in annotations] == [(1, 1, 1), (2, 2, 1)]
    expected = garden().instances.masks[0]
    for annotation in annotations:  # a rectangle: its polygon is exact
        found = coco.annToMask(annotation).astype(bool)
        assert (found & expected).sum() / (found | expected).sum() >= least
        assert (annotation["bbox"], annotation["area"]) == ([0, 0, 3, 4], 12)


def test_coco_panoptic_has_the_ids_of_the_segments(entries: list[Entry], tmp_path: Path) -> None:
    (path,) = written("coco-panoptic", entries, tmp_path)
    content = json.loads(path.read_text())
    first, second = content["annotations"]
    assert (first["file_name"], second["file_name"]) == ("garden.png", "2024/other.png")
    assert [(s["id"], s["category_id"], s["area"]) for s in second["segments_info"]] == [
        (1, 1, 12),
        (2, 2, 36),
    ]
    ids = read_panoptic_ids(tmp_path / "panoptic" / second["file_name"])
    assert np.array_equal(ids, garden().panoptic)


def test_yolo_is_laid_out_as_ultralytics_documents_it(entries: list[Entry], tmp_path: Path) -> None:
    (path,) = written("yolo", entries, tmp_path)
    data = yaml.safe_load(path.read_text())
    assert data["names"] == {0: "cat", 1: "grass"}
    images = Path(data["path"]) / data["train"]
    for image in (images / "garden.png", images / "2024/other.jpg"):
        with Image.open(image) as pixels:
            assert pixels.size == (8, 6)
        label = Path(str(image).replace("/images/", "/labels/")).with_suffix(".txt")  # its rule
        ((kind, *numbers),) = [line.split() for line in label.read_text().splitlines()]
        points = np.array(numbers, dtype=float).reshape(-1, 2)
        assert kind == "0"
        assert ((points >= 0) & (points <= 1)).all()
        ring = (points * (8, 6)).reshape(-1).tolist()
        mask = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([ring], 6, 8))).astype(bool)
        assert np.array_equal(mask, garden().instances.masks[0])


def test_yolo_labels_of_a_folder_images_are_where_ultralytics_looks(
    entries: list[Entry], tmp_path: Path
) -> None:
    inner = [replace(entries[0], name="images/garden"), replace(entries[2], name="images/2024/images/other")]
    written("yolo", inner, tmp_path)
    images = sorted((tmp_path / "yolo/images").rglob("*.[pj][np]g"))
    assert len(images) == 2
    for image in images:  # ultralytics.data.utils.img2label_paths
        label = "/labels/".join(str(image).rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt"
        assert Path(label).read_text().startswith("0 0")


def test_classes_that_share_their_first_word_keep_their_kinds_and_names_apart(tmp_path: Path) -> None:
    vocabulary = Vocabulary(classes=[["bag", "grip"], ["bag", "purse"]], things=[0])
    assert configured_vocabulary(class_configuration(vocabulary)) == vocabulary
    (path,) = write_dataset("coco", list, class_configuration(vocabulary), tmp_path)
    assert [(c["name"], c["isthing"]) for c in json.loads(path.read_text())["categories"]] == [
        ("bag (grip)", 1), ("bag (purse)", 0),
    ]  # fmt: skip


def test_where_links_are_not_allowed_images_are_copied(
    entries: list[Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*given: object) -> None:
        raise OSError("a privilege is needed")

    monkeypatch.setattr(os, "symlink", refused)
    written("yolo", entries, tmp_path)
    copied = tmp_path / "yolo/images/garden.png"
    assert copied.is_file()
    assert not copied.is_symlink()


def test_labelme_finds_the_image_and_a_polygon_a_part(entries: list[Entry], tmp_path: Path) -> None:
    written("labelme", entries, tmp_path / "out")
    path = tmp_path / "out/labelme/2024/other.json"
    content = json.loads(path.read_text())
    assert (path.parent / content["imagePath"]).resolve() == Path(entries[2].record.uri).resolve()
    (shape,) = content["shapes"]
    assert (shape["label"], shape["shape_type"]) == ("cat", "polygon")
    assert sorted(shape["points"]) == [[0, 0], [0, 4], [3, 0], [3, 4]]
    assert (content["imageHeight"], content["imageWidth"]) == (6, 8)


def test_the_page_holds_everything_it_shows_and_nothing_that_ends_its_script(
    entries: list[Entry], tmp_path: Path
) -> None:
    evil = replace(entries[0], file_name="</script><script>alert(1)</script>.png")
    (path,) = FORMATS["html"].write_dataset([evil, *entries[1:]], CLASSES, tmp_path)  # type: ignore[misc]
    text = path.read_text()
    assert text.count("</script>") == 2
    assert "http" not in text.replace("http://www.apache.org", "").replace("https://www.apache.org", "")
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert [image["file"] for image in data["images"]] == [
        "</script><script>alert(1)</script>.png", "bad.jpg", "2024/other.jpg",
    ]  # fmt: skip
    assert data["images"][0]["found"] == [[0, 0.9], [1, 0.8]]
    assert data["images"][1]["error"] == "bad.jpg: damaged"
    assert data["classes"][0]["name"] == "cat"


def test_a_table_holds_the_records(entries: list[Entry], tmp_path: Path) -> None:
    from cmpf.labelling.parquet import read_parquet

    strange = os.fsdecode(b"caf\xe9.jpg")
    failed = Entry(ImageRecord(strange, "", 0, 0, error=f"{strange}: damaged"), strange, "cafe")
    (path,) = written("parquet", [*entries, failed], tmp_path)
    *records, last = read_parquet(path)
    assert [record.uri for record in records] == [entry.record.uri for entry in entries]
    assert (last.uri, last.error) == (r"caf\udce9.jpg", r"caf\udce9.jpg: damaged")  # text, as tables demand


@pytest.mark.parametrize("name", DATASETS)
def test_no_image_at_all_makes_an_empty_dataset(name: str, tmp_path: Path) -> None:
    from cmpf.labelling.parquet import read_parquet

    paths = written(name, [], tmp_path)
    assert len(paths) == (name != "labelme")  # that has a file of each image
    for path in paths:
        if path.suffix == ".json":
            content = json.loads(path.read_text())
            assert content["images"] == content["annotations"] == []
            assert [category["name"] for category in content["categories"]] == ["cat", "grass"]
        elif path.suffix == ".yaml":
            assert yaml.safe_load(path.read_text())["names"] == {0: "cat", 1: "grass"}
        else:
            assert list(read_parquet(path)) == []


def test_a_page_brings_the_images_that_it_shows() -> None:
    assert resolve_formats(["html", "coco", "coco"]) == ("overlay", "coco", "html")
    assert set(DATASETS) == {"coco", "coco-polygons", "coco-panoptic", "yolo", "labelme", "parquet"}
