# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""COCO panoptic, COCO-Stuff and LVIS."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.own_dataset import change_json
from helpers.preparing import Case, rewrite
from helpers.raw_datasets.coco import make_coco, make_coco_stuff, make_lvis
from PIL import Image

from cmpf.data import SemanticTargets, get_dataset
from cmpf.data.datasets.validate import report_of
from cmpf.data.preparation.coco import STUFF_CLASSES
from cmpf.evaluation import SemanticEvaluator

PANOPTIC = Case(name="coco_semantic", make=(make_coco,))
LABELS = "coco/panoptic_semseg_val2017/000000000139.png"
PANOPTIC_JSON = "coco/annotations/panoptic_val2017.json"


@pytest.fixture
def panoptic_root(tmp_path: Path) -> Path:
    make_coco(tmp_path)
    return tmp_path


def test_segments_become_classes_and_crowds_keep_theirs(panoptic_root: Path) -> None:
    assert PANOPTIC.run(panoptic_root) == 0
    labels = np.array(Image.open(panoptic_root / LABELS))
    assert labels.dtype == np.uint8
    # A grid of 2 x 3 blocks of 32 x 32: person, person, crowd of cars | sky (187), void, rug (200, the last one).
    # Car is id 3, so class 2. Sky: 80 things come before; of the stuff ids, 92 .. 181 are 36 and 184, 185, 186 three.
    assert labels[::32, ::32].tolist() == [[0, 0, 2], [80 + 36 + 3, 255, 132]]
    assert np.array_equal(labels, np.kron(labels[::32, ::32], np.ones((32, 32), dtype=np.uint8)))


def test_segments_that_the_json_file_lacks_are_named(
    panoptic_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_json(
        panoptic_root / PANOPTIC_JSON, lambda content: content["annotations"][0]["segments_info"].pop(0)
    )
    assert PANOPTIC.run(panoptic_root) == 1
    error = capsys.readouterr().err
    assert "coco/panoptic_val2017/000000000139.png: segments [3226956] are not in the JSON file" in error
    assert not (panoptic_root / LABELS).exists()
    assert (panoptic_root / "coco/panoptic_semseg_val2017/000000000285.png").exists()


def test_a_json_file_of_another_kind_is_refused(
    panoptic_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_json(panoptic_root / PANOPTIC_JSON, lambda content: content["annotations"][0].pop("segments_info"))
    assert PANOPTIC.run(panoptic_root) == 1
    assert (
        f"{panoptic_root / PANOPTIC_JSON}: not in COCO format: an entry has no 'segments_info'"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda c: c["annotations"][0]["segments_info"].pop(),
            " in the PNG, but not in panoptic_val2017.json",
        ),
        (
            lambda c: c["annotations"][0]["segments_info"].append({"id": 7, "category_id": 1}),
            "segment id 7 in panoptic_val2017.json, but without a pixel in the PNG",
        ),
        (
            lambda c: c["annotations"][0]["segments_info"][0].update(area=5),
            "(5 pixels in panoptic_val2017.json, ",
        ),
        (lambda c: c["annotations"][0]["segments_info"][0].update(category_id=12), "category id 12"),
        (lambda c: c["images"].append(c["images"][0]), "image id 139 is given twice"),
        (lambda c: c["annotations"].append(c["annotations"][0]), "image 139 has two annotations"),
        (lambda c: c["annotations"].pop(), ".jpg: has no annotation in panoptic_val2017.json"),
        (lambda c: c["images"].pop(), ", not in images"),
        (lambda c: c["images"][0].update(height=63), "says of 000000000139.jpg (63, 96) (H, W)"),
    ],
)
def test_the_check_compares_the_json_file_with_the_pngs(
    panoptic_root: Path, capsys: pytest.CaptureFixture[str], change, expected: str
) -> None:
    assert PANOPTIC.run(panoptic_root) == 0
    change_json(panoptic_root / PANOPTIC_JSON, change)
    assert PANOPTIC.check(panoptic_root) == 1
    assert expected in capsys.readouterr().out


def test_the_check_looks_at_instances(panoptic_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert PANOPTIC.run(panoptic_root) == 0
    instances = panoptic_root / "coco/annotations/instances_val2017.json"
    change_json(instances, lambda c: c["annotations"][0].update(category_id=187))
    assert PANOPTIC.check(panoptic_root) == 1
    assert "category id 187, which categories does not list, is no thing class" in capsys.readouterr().out


STUFF = Case(name="coco_stuff", make=(make_coco, make_coco_stuff))


def test_ids_lose_their_gaps(tmp_path: Path) -> None:
    STUFF.write(tmp_path)
    assert STUFF.run(tmp_path) == 0
    labels = np.array(Image.open(tmp_path / "coco/stuffthingmaps_detectron2/val2017/000000000139.png"))
    # Blocks: person 0, car 2, wood 181 | banner 91, void 255, stop sign 12. Gaps among category ids below each:
    # wood is id 182, 11 gaps, the 171st class; banner id 92, 11 gaps, 92 - 1 - 11 = 80; stop sign id 13, 1 gap: 11.
    assert labels[::32, ::32].tolist() == [[0, 2, 170], [80, 255, 11]]


def test_all_171_categories_have_a_class_of_their_own() -> None:
    table = STUFF_CLASSES
    assert sorted(set(table.tolist()) - {254, 255}) == list(range(171))
    assert (table == 254).sum() == 256 - 171 - 1
    assert table[255] == 255


def test_values_in_the_gaps_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    STUFF.write(tmp_path)
    path = tmp_path / "coco/stuffthingmaps/val2017/000000000285.png"
    rewrite(path, lambda values: np.where(values == 2, 11, values).astype(np.uint8))
    assert STUFF.run(tmp_path) == 1
    assert f"{path}: values [11] are not categories of COCO-Stuff" in capsys.readouterr().err


def test_maps_of_16_bits_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    STUFF.write(tmp_path)
    path = tmp_path / "coco/stuffthingmaps/val2017/000000000285.png"
    rewrite(path, lambda values: values.astype(np.uint16))
    assert STUFF.run(tmp_path) == 1
    assert f"{path}: uint16 of shape (64, 96); expected one channel of 8 bits" in capsys.readouterr().err


LVIS = Case(name="lvis", make=(make_coco, make_lvis))
LVIS_JSON = "lvis/lvis_v1_val.json"


@pytest.fixture
def lvis_root(tmp_path: Path) -> Path:
    LVIS.write(tmp_path)
    return tmp_path


def test_the_release_is_used_as_it_is(lvis_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert LVIS.run(lvis_root) == 0
    assert "the release is used unchanged; verify it with --check" in capsys.readouterr().out
    assert LVIS.check(lvis_root, "--jobs", "2") == 0
    assert "openvocab_lvis_v1_val, 3 images: opened every file, no issues" in capsys.readouterr().out


def test_images_are_looked_for_where_their_address_says(
    lvis_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = lvis_root / "coco/train2017/000000000009.jpg"
    missing.unlink()
    assert LVIS.check(lvis_root) == 1
    out = capsys.readouterr().out
    assert f"{missing}: no such image, but lvis_v1_val.json lists it" in out


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c["categories"].pop(), "1,202 categories; expected 1,203"),
        (lambda c: c["categories"][6].pop("frequency"), "category 7 has no frequency r, c or f"),
        (lambda c: c["images"][0].pop("neg_category_ids"), " has no list neg_category_ids"),
        (
            lambda c: c["images"][0].pop("not_exhaustive_category_ids"),
            " has no list not_exhaustive_category_ids",
        ),
        (lambda c: c["annotations"][0].update(category_id=1204), "category id 1204"),
        (
            lambda c: c["annotations"][0].update(segmentation=[[0, 0, 1, 1]]),
            "a polygon needs three points, x and y of each",
        ),
        (lambda c: c["annotations"][0].update(image_id=77), "is of image 77, not in images"),
        (lambda c: c["images"][0].update(height=65), "(65, 96) (H, W), the image has (64, 96)"),
    ],
)
def test_the_check_finds_issues_of_the_file(
    lvis_root: Path, capsys: pytest.CaptureFixture[str], change, expected: str
) -> None:
    content = json.loads((lvis_root / LVIS_JSON).read_text())
    change(content)
    (lvis_root / LVIS_JSON).write_text(json.dumps(content))
    assert LVIS.check(lvis_root, "--split", "val") == 1
    assert expected in capsys.readouterr().out


def test_a_file_without_addresses_is_refused(lvis_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((lvis_root / LVIS_JSON).read_text())
    del content["images"][0]["coco_url"]
    (lvis_root / LVIS_JSON).write_text(json.dumps(content))
    assert LVIS.check(lvis_root) == 1
    assert f"{lvis_root / LVIS_JSON}: entry 0 of images: has no 'file_name'" in capsys.readouterr().out


def test_an_image_of_coco_stuff_without_a_labeled_pixel_is_made_read_and_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_coco(tmp_path)
    make_coco_stuff(tmp_path)
    name = "000000000285"
    rewrite(tmp_path / f"coco/stuffthingmaps/val2017/{name}.png", lambda values: np.full_like(values, 255))
    case = Case(name="coco_stuff", make=())
    assert case.run(tmp_path) == 0
    assert case.check(tmp_path) == 0
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    dataset = get_dataset("openvocab_coco_2017_test_stuff_sem_seg")
    assert report_of(dataset.name).issues == []
    classes = dataset.vocabulary.num_classes
    source = SemanticTargets(num_classes=classes, ignore_label=255)
    evaluator = SemanticEvaluator(
        class_names=dataset.vocabulary.names, seen=[True] * classes, ignore_label=255
    )
    evaluator.reset()
    for sample in dataset.samples:
        labels = source.read(sample)
        assert (labels < 0).all() == (name in sample["file_name"])
        evaluator.process([sample], [{"sem_seg": torch.from_numpy(np.maximum(labels, 0))}])
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == 100
    assert source.build(source.read(dataset.samples[1]), dataset.samples[1])["labels"].tolist() == []
