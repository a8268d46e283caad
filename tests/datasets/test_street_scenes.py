# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Preparation of BDD100K and Mapillary Vistas."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers.preparing import Case, files, read_ids, rewrite
from helpers.raw_datasets.bdd100k import CROWD, make_bdd100k, make_converted_bdd100k
from helpers.raw_datasets.mapillary_vistas import make_mapillary_vistas
from PIL import Image

from cmpf.data import DatasetMapper, PanopticTargets, get_dataset, get_vocabulary
from cmpf.data.datasets.validate import report_of
from cmpf.data.preparation.bdd100k import CATEGORY_OF
from cmpf.errors import DatasetError

PANOPTIC = Case(name="bdd100k_panoptic", make=(make_bdd100k,))
NAME = "7d06fefd-f7be05a6"
BITMASK = f"bdd100k/labels/pan_seg/bitmasks/val/{NAME}.png"
PNG = f"bdd100k/jsons/pan_seg/masks/val/{NAME}.png"
JSON = "bdd100k/jsons/pan_seg_val_cocofmt.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    PANOPTIC.write(tmp_path)
    return tmp_path


def segments(root: Path) -> dict[int, dict[str, object]]:
    """Segment id -> entry of segments_info of the first image."""
    entry = json.loads((root / JSON).read_text())["annotations"][0]
    assert entry["file_name"] == f"{NAME}.png"
    return {segment["id"]: segment for segment in entry["segments_info"]}


def test_stuff_is_one_segment_a_class_and_things_one_an_object(root: Path) -> None:
    assert PANOPTIC.run(root) == 0
    ids = read_ids(root / PNG)
    # A grid of 3 x 3 blocks, rows start at 0, 22 and 43. Two pieces of road (7) become one. Things: category + 256
    # number, cars 35 + 256 * 3 = 803 and 35 + 256 * 300 = 76,835, persons 31 + 256 * 5 = 1,311, an ignored car
    # 35 + 256 * 6 = 1,571, a caravan 36 + 256 * 8 = 2,084. Sky is 30, unlabeled pixels 0.
    assert ids[[0, 22, 43]][:, [0, 32, 64]].tolist() == [[7, 7, 803], [76835, 1311, 1571], [30, 0, 2084]]
    found = segments(root)
    assert sorted(found) == [7, 30, 803, 1311, 1571, 2084, 76835]
    assert {i: s["category_id"] for i, s in found.items()} == {
        7: 7, 30: 30, 803: 35, 1311: 31, 1571: 35, 2084: 36, 76835: 35,
    }  # fmt: skip
    # The first row of blocks has 22 rows of pixels, and road two blocks of 32 columns: 22 * 64 = 1,408.
    assert (found[7]["area"], found[7]["bbox"]) == (1408, [0, 0, 64, 22])


def test_groups_and_ignored_objects_are_crowds(root: Path) -> None:
    assert PANOPTIC.run(root) == 0
    assert {i for i, segment in segments(root).items() if segment["iscrowd"]} == {1311, 1571}


def test_stuff_of_which_one_piece_is_marked_is_no_crowd(root: Path) -> None:
    def mark(values: np.ndarray) -> np.ndarray:
        values[:22, :32, 1] = CROWD  # one of the two pieces of road
        values[43:, :32, 1] = CROWD  # all of the sky
        return values

    rewrite(root / BITMASK, mark)
    assert PANOPTIC.run(root) == 0
    assert {i for i, segment in segments(root).items() if segment["iscrowd"]} == {30, 1311, 1571}


def test_the_json_file_lists_images_and_40_categories(root: Path) -> None:
    assert PANOPTIC.run(root) == 0
    content = json.loads((root / JSON).read_text())
    assert content["images"][0] == {"id": NAME, "file_name": f"{NAME}.jpg", "height": 64, "width": 96}
    assert [image["id"] for image in content["images"]] == [NAME, "7d128593-0ccfea4c"]
    assert [category["id"] for category in content["categories"]] == list(range(1, 41))
    assert [c["id"] for c in content["categories"] if c["isthing"]] == list(range(31, 41))


def test_unknown_categories_are_refused_by_name(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(root / BITMASK, lambda values: values + np.array([10, 0, 0, 0], dtype=np.uint8))
    assert PANOPTIC.run(root) == 1
    assert f"{root / BITMASK}: category 46; BDD100K has 1..40, 0 = unlabeled" in capsys.readouterr().err
    assert not (root / JSON).exists()


def test_colored_maps_are_refused_by_name(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(root / BITMASK, lambda values: values[..., :3])
    assert PANOPTIC.run(root) == 1
    assert (
        f"{root / BITMASK}: uint8 of shape (64, 96, 3); expected 4 channels of 8 bits"
        in capsys.readouterr().err
    )


def test_the_check_compares_the_json_file_with_the_pngs(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert PANOPTIC.run(root) == 0
    content = json.loads((root / JSON).read_text())
    content["annotations"][0]["segments_info"][0]["category_id"] = 41
    content["annotations"][1]["segments_info"].pop()
    (root / JSON).write_text(json.dumps(content))
    assert PANOPTIC.check(root) == 1
    out = capsys.readouterr().out
    assert f"  {root / JSON}: category id 41, which categories does not list, is no class" in out
    assert " in the PNG, but not in pan_seg_val_cocofmt.json" in out


def test_the_json_file_of_bdd100ks_own_converter_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bdd100k(tmp_path)
    make_converted_bdd100k(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    dataset = get_dataset("bdd10k_40_panoptic_val")
    first = dataset.samples[0]
    assert first["file_name"] == str(tmp_path / f"bdd100k/images/10k/val/{NAME}.jpg")
    assert first["pan_seg_file_name"] == str(tmp_path / PNG)
    assert (first["image_id"], first["height"], first["width"]) == (1, 64, 96)
    # Road, road, car, car, person, car, sky, caravan; the eighth block is void.
    found = {
        segment["id"]: (segment["category_id"], segment["iscrowd"]) for segment in first["segments_info"]
    }
    assert found == {
        1: (6, 0), 2: (6, 0), 3: (34, 0), 4: (34, 0), 5: (30, 1), 6: (34, 1), 7: (29, 0), 9: (35, 0),
    }  # fmt: skip
    mapper = DatasetMapper(augmentations=[], target=PanopticTargets(), image_pad=0)
    targets = mapper(first, np.random.default_rng(0))["targets"]
    assert targets["labels"].tolist() == [6, 6, 34, 34, 29, 35]  # without crowds
    assert report_of("bdd10k_40_panoptic_val").issues == []


def test_a_missing_image_of_a_converted_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bdd100k(tmp_path)
    make_converted_bdd100k(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    image = tmp_path / f"bdd100k/images/10k/val/{NAME}.jpg"
    image.unlink()
    with pytest.raises(DatasetError, match=rf"missing file \(1\): {image}: no such image"):
        _ = get_dataset("bdd10k_40_panoptic_val").samples
    assert [str(issue) for issue in report_of("bdd10k_40_panoptic_val").issues] == [
        f"{image}: no such image, but pan_seg_val_cocofmt.json lists it"
    ]


def test_what_another_program_made_is_replaced_only_by_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_bdd100k(tmp_path)
    downloaded = make_converted_bdd100k(tmp_path)
    before = files(tmp_path)
    assert PANOPTIC.run(tmp_path) == 0, "everything is there"
    assert files(tmp_path) == before
    (tmp_path / PNG).unlink()
    before.pop(PNG)
    for options in ((), ("--overwrite",)):
        assert PANOPTIC.run(tmp_path, *options) == 1
        error = capsys.readouterr().err
        assert error.startswith(
            f"error: {downloaded}: not written by this version of the command (perhaps a download), so it is kept"
        )
        assert "--force" in error
        assert error.count("\n") == 1
        assert files(tmp_path) == before
    assert PANOPTIC.run(tmp_path, "--force") == 0
    assert files(tmp_path)[JSON] != before[JSON]
    assert PANOPTIC.check(tmp_path) == 0
    # What this command wrote, it replaces.
    (tmp_path / PNG).unlink()
    assert PANOPTIC.run(tmp_path) == 0
    assert PANOPTIC.check(tmp_path) == 0


def test_pngs_of_another_program_are_not_described_as_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_bdd100k(tmp_path)
    make_converted_bdd100k(tmp_path).unlink()
    before = files(tmp_path)
    assert PANOPTIC.run(tmp_path) == 1
    assert (
        f"{tmp_path / PNG}: differs from what this command creates from {tmp_path / BITMASK}"
        in capsys.readouterr().err
    )
    assert files(tmp_path) == before
    assert PANOPTIC.run(tmp_path, "--overwrite") == 0
    assert PANOPTIC.check(tmp_path) == 0


SEMANTIC = Case(name="bdd100k_semantic", make=(make_bdd100k,))
MASKS_ONLY = Case(name="bdd100k_semantic", make=(partial(make_bdd100k, bitmasks=False),))
BITMASKS_ONLY = Case(name="bdd100k_semantic", make=(partial(make_bdd100k, masks=False),))
MASK = "bdd100k/labels/sem_seg/masks/val/7d06fefd-f7be05a6.png"


def test_masks_made_from_bitmasks_are_those_of_the_release(tmp_path: Path) -> None:
    SEMANTIC.write(tmp_path)
    released = np.array(Image.open(tmp_path / MASK))
    BITMASKS_ONLY.write(tmp_path / "other")
    assert BITMASKS_ONLY.run(tmp_path / "other") == 0
    made = np.array(Image.open(tmp_path / "other" / MASK))
    # A grid of 3 x 3 blocks, rows start at 0, 22 and 43: road, road, car | car, person, car | sky, unlabeled, caravan.
    assert made[[0, 22, 43]][:, [0, 32, 64]].tolist() == [[0, 0, 13], [13, 11, 13], [10, 255, 255]]
    assert made.dtype == np.uint8
    assert np.array_equal(made, released)


def test_only_masks_that_are_missing_are_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SEMANTIC.write(tmp_path)
    before = files(tmp_path)
    (tmp_path / MASK).unlink()
    assert SEMANTIC.check(tmp_path) == 1
    assert SEMANTIC.run(tmp_path) == 0
    assert "masks of val: 1 created, 1 already existed, 0 failed" in capsys.readouterr().out
    assert set(files(tmp_path)) == set(before)
    assert SEMANTIC.check(tmp_path) == 0


def test_every_train_id_is_of_the_category_of_its_name() -> None:
    categories = get_vocabulary("bdd10k_40_panoptic_val").names
    assert tuple(categories[c - 1] for c in CATEGORY_OF) == get_vocabulary("bdd10k_val_sem_seg").names


def test_category_ids_in_place_of_train_ids_are_found_by_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    MASKS_ONLY.write(tmp_path)
    rewrite(tmp_path / MASK, lambda values: np.where(values == 13, 35, values).astype(np.uint8))
    assert MASKS_ONLY.check(tmp_path) == 1
    assert f"  {tmp_path / MASK}: label 35 in " in capsys.readouterr().out


CASE = Case(name="mapillary_vistas", make=(make_mapillary_vistas,))
NEWER = Case(
    name="mapillary_vistas",
    make=(partial(make_mapillary_vistas, package="v2.0"),),
)
LABELS = "mapillary_vistas/validation/labels/0035fkbjWljhaftpVM37-g.png"
VISTAS_PANOPTIC = "mapillary_vistas/validation/panoptic/0035fkbjWljhaftpVM37-g.png"


@pytest.mark.parametrize("case", [MASKS_ONLY, CASE], ids=str)
def test_released_labels_are_used_as_they_are(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case.write(tmp_path)
    before = files(tmp_path)
    assert case.run(tmp_path) == 0
    assert "the release is used unchanged" in capsys.readouterr().out
    assert files(tmp_path) == before
    assert case.check(tmp_path) == 0


def test_labels_are_palette_images_of_ids_less_one(tmp_path: Path) -> None:
    CASE.write(tmp_path)
    image = Image.open(tmp_path / LABELS)
    assert image.mode == "P"
    # Road 14, car 56, car 56 | sky 28, unlabeled, ego vehicle 65.
    assert np.array(image)[::32, ::32].tolist() == [[13, 55, 55], [27, 65, 64]]


def test_the_v1_2_part_of_the_newer_package_is_linked(tmp_path: Path) -> None:
    NEWER.write(tmp_path)
    assert NEWER.run(tmp_path, "--jobs", "2") == 0
    assert NEWER.check(tmp_path) == 0
    labels = tmp_path / LABELS
    assert labels.samefile(labels.parents[1] / "v1.2" / "labels" / labels.name)
    assert (tmp_path / "mapillary_vistas/training/panoptic/panoptic_2018.json").is_file()
    labels.unlink()
    assert NEWER.check(tmp_path) == 1
    assert NEWER.run(tmp_path) == 0
    assert NEWER.check(tmp_path) == 0


def test_the_check_finds_issues_of_labels_and_pngs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    CASE.write(tmp_path)
    rewrite(tmp_path / LABELS, lambda values: np.where(values == 13, 66, values).astype(np.uint8))
    rewrite(tmp_path / VISTAS_PANOPTIC, lambda values: values[..., 0])
    assert CASE.check(tmp_path) == 1
    out = capsys.readouterr().out
    assert f"{tmp_path / LABELS}: label 66 in " in out
    assert f"{tmp_path / VISTAS_PANOPTIC}: is an image of mode L; segment ids are read from R, G and B" in out
