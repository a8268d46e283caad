# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""PASCAL VOC and PASCAL Context."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.preparing import Case, files, rewrite
from helpers.raw_datasets.pascal import (
    make_pascal_context,
    make_pascal_in_detail,
    make_pascal_voc,
    write_label_map,
)
from PIL import Image

from cmpf.data import get_dataset, get_vocabulary
from cmpf.data.preparation import pascal_context
from cmpf.data.preparation.pascal_context import CONTEXT_59, Context59, Context459

VOC = Case(name="pascal_voc", make=(make_pascal_voc,))
DEVKIT, FOLDER = "VOCdevkit/VOC2012", "pascal_voc_d2"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    VOC.write(tmp_path)
    return tmp_path


def voc_grid(path: Path) -> list[list[int]]:
    """The values of the 2 x 3 blocks of 32 x 32."""
    return np.array(Image.open(path))[::32, ::32].tolist()


def test_21_classes_keep_the_palette_indices_and_20_lose_the_background(root: Path) -> None:
    assert VOC.run(root) == 0
    name = "training/2008_000008.png"
    # Background, aeroplane, tv monitor | border, dog, background.
    assert voc_grid(root / DEVKIT / "SegmentationClass/2008_000008.png") == [[0, 1, 20], [255, 12, 0]]
    assert voc_grid(root / FOLDER / "annotations_pascal21" / name) == [[0, 1, 20], [255, 12, 0]]
    assert voc_grid(root / FOLDER / "annotations_pascal20" / name) == [[255, 0, 19], [255, 11, 255]]
    for classes in (20, 21):
        labels = Image.open(root / FOLDER / f"annotations_pascal{classes}" / name)
        assert labels.mode == "L"


def test_images_of_each_split_lie_in_a_folder_without_taking_room(root: Path) -> None:
    assert VOC.run(root) == 0
    images = root / FOLDER / "images"
    assert sorted(path.name for path in (images / "training").iterdir()) == [
        "2008_000008.jpg",
        "2008_000015.jpg",
    ]
    assert sorted(path.name for path in (images / "validation").iterdir()) == [
        "2008_000002.jpg",
        "2008_000003.jpg",
    ]
    released = root / DEVKIT / "JPEGImages/2008_000003.jpg"
    assert released.samefile(images / "validation/2008_000003.jpg")


def test_the_devkit_may_lie_without_the_folder_around_it(root: Path, tmp_path_factory) -> None:
    assert VOC.run(root) == 0
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(root / DEVKIT, other / "VOC2012")
    assert VOC.run(other) == 0
    assert files(other / FOLDER) == files(root / FOLDER)


def test_unknown_indices_are_refused_by_name(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = root / DEVKIT / "SegmentationClass/2008_000002.png"
    rewrite(path, lambda values: np.where(values == 12, 21, values).astype(np.uint8))
    assert VOC.run(root) == 1
    error = capsys.readouterr().err
    assert f"{path}: values [21]; expected 0..20 and 255" in error


def test_a_listed_image_without_labels_is_named_and_the_rest_done(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = root / DEVKIT / "SegmentationClass/2008_000002.png"
    missing.unlink()
    assert VOC.run(root, "--split", "val") == 1
    assert f"{missing}: no such label map" in capsys.readouterr().err
    assert [path.name for path in (root / FOLDER / "annotations_pascal20/validation").iterdir()] == [
        "2008_000003.png"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", "lists no image"), ("a\nb\na\n", "lists an image twice"), ("a\xff", "cannot be read")],
)
def test_a_spoilt_list_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str], text: str, expected: str
) -> None:
    listing = root / DEVKIT / "ImageSets/Segmentation/val.txt"
    listing.write_text(text, encoding="latin-1")
    assert VOC.run(root) == 1
    assert f"error: {listing}: {expected}" in capsys.readouterr().err


def test_the_check_looks_at_both_kinds_of_labels(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert VOC.run(root) == 0
    # 20 is the tv monitor of 21 classes, but beyond the last of 20.
    path = root / FOLDER / "annotations_pascal20/validation/2008_000003.png"
    rewrite(path, lambda values: np.where(values == 19, 20, values).astype(np.uint8))
    assert VOC.check(root) == 1
    out = capsys.readouterr().out
    assert "openvocab_pascal21_sem_seg_val, 2 images: opened every file, no issues" in out
    assert f"  {path}: label 20 in " in out


MATS = Case(name="pascal_context_59", make=(make_pascal_context,))
DETAIL = Case(name="pascal_context_59", make=(make_pascal_in_detail,))
BOTH = Case(name="pascal_context_59", make=(make_pascal_context, make_pascal_in_detail))
JSON = "VOCdevkit/VOC2010/trainval_merged.json"
CONTEXT_LABELS = "pascal_ctx_d2/annotations_ctx59/training/2008_000008.png"
# Of the 59: wall 55, person 36, wood 58.
FROM_DETAIL = [[55, 55, 36], [255, 255, 58]]


def context_grid(root: Path) -> list[list[int]]:
    """The values of the 2 x 3 blocks of 32 x 32."""
    labels = np.array(Image.open(root / CONTEXT_LABELS))
    assert labels.dtype == np.uint8
    return labels[::32, ::32].tolist()


def edit(root: Path, change) -> None:
    content = json.loads((root / JSON).read_text())
    change(content)
    (root / JSON).write_text(json.dumps(content))


def test_of_the_459_labels_of_a_mat_59_have_a_class(tmp_path: Path) -> None:
    MATS.write(tmp_path)
    assert MATS.run(tmp_path) == 0
    # Accordion, aeroplane, wool | nothing, unknown, wood: aeroplane is the first of the 59, wood the last.
    assert context_grid(tmp_path) == [[255, 0, 255], [255, 255, 58]]
    assert MATS.check(tmp_path) == 0


def test_the_59_are_the_classes_of_the_same_name_among_the_459() -> None:
    few, all_words = (
        [words[0] for words in get_vocabulary(f"openvocab_pascal_ctx{n}_sem_seg_val").classes]
        for n in (59, 459)
    )
    names = [all_words[label - 1] for label in CONTEXT_59]
    different = [(name, of_all) for name, of_all in zip(few, names, strict=True) if name != of_all]
    assert different == [("dining table", "table")]


def test_masks_of_the_json_file_lie_one_over_the_other_and_its_phase_is_the_split(tmp_path: Path) -> None:
    DETAIL.write(tmp_path)
    assert DETAIL.run(tmp_path, "--jobs", "2") == 0
    assert context_grid(tmp_path) == FROM_DETAIL
    assert DETAIL.check(tmp_path) == 0
    images = tmp_path / "pascal_ctx_d2/images"
    assert sorted(path.stem for path in (images / "validation").iterdir()) == ["2008_000002", "2008_000003"]


def test_the_json_file_is_taken_where_both_are_there(tmp_path: Path) -> None:
    BOTH.write(tmp_path)
    assert BOTH.run(tmp_path) == 0
    assert context_grid(tmp_path) == FROM_DETAIL


def test_a_json_file_of_another_kind_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DETAIL.write(tmp_path)
    edit(tmp_path, lambda content: content["images"][0].pop("phase"))
    assert DETAIL.run(tmp_path) == 1
    assert f"error: {tmp_path / JSON}: not in COCO format: an entry has no 'phase'" in capsys.readouterr().err
    edit(tmp_path, lambda content: content.update(images=[]))
    assert DETAIL.run(tmp_path) == 1
    assert f"error: {tmp_path / JSON}: no image of phase 'train'" in capsys.readouterr().err
    edit(tmp_path, lambda content: content.pop("annos_segmentation"))
    assert DETAIL.run(tmp_path) == 1
    assert "it has no list 'annos_segmentation'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"category_id": 460}, "category 460; expected 0..459"),
        ({"category_id": -1}, "category -1; expected 0..459"),
        ({"segmentation": [[0, 0, 9, 0]]}, "a mask: a polygon needs three points"),
        (
            {"segmentation": {"size": [96, 64], "counts": "0"}},
            "a mask: run lengths of size [96, 64] in an image of [64, 96]",
        ),
    ],
)
def test_a_spoilt_mask_is_named_by_its_image_and_the_rest_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], expected: str
) -> None:
    DETAIL.write(tmp_path)
    edit(tmp_path, lambda content: content["annos_segmentation"][0].update(change))
    assert DETAIL.run(tmp_path) == 1
    image = tmp_path / "VOCdevkit/VOC2010/JPEGImages/2008_000008.jpg"
    assert f"{image}: {expected}" in capsys.readouterr().err
    assert len(list((tmp_path / "pascal_ctx_d2/annotations_ctx59").rglob("*.png"))) == 3


FULL = Case(name="pascal_context_459", make=(make_pascal_context,))
MAT = "VOCdevkit/VOC2010/trainval/2008_000008.mat"
FULL_LABELS = "pascal_ctx_d2/annotations_ctx459/training/2008_000008.tif"


def labels(root: Path) -> np.ndarray:
    return np.array(Image.open(root / FULL_LABELS))


def test_labels_count_from_0_in_16_bits_and_nothing_is_65535(tmp_path: Path) -> None:
    FULL.write(tmp_path)
    assert FULL.run(tmp_path) == 0
    assert labels(tmp_path).dtype == np.uint16
    # A grid of 2 x 3 blocks of 32 x 32: accordion 1, aeroplane 2, wool 459 | nothing 0, unknown 431, wood 458.
    assert labels(tmp_path)[::32, ::32].tolist() == [[0, 1, 458], [65535, 430, 457]]
    images = tmp_path / "pascal_ctx_d2/images"
    found = sorted(str(path.relative_to(images)) for path in images.rglob("*.jpg"))
    assert found == [
        "training/2008_000008.jpg",
        "training/2008_000015.jpg",
        "validation/2008_000002.jpg",
        "validation/2008_000003.jpg",
    ]


def test_label_maps_of_whole_floats_are_read_too(tmp_path: Path) -> None:
    FULL.write(tmp_path)
    assert FULL.run(tmp_path) == 0
    expected = labels(tmp_path)
    write_label_map(tmp_path / MAT, (expected.astype(np.float64) + 1) % 65536)
    assert FULL.run(tmp_path, "--overwrite") == 0
    assert np.array_equal(labels(tmp_path), expected)


@pytest.mark.parametrize(
    ("written", "key", "expected"),
    [
        (np.ones((64, 96)), "labels", "no LabelMap in it; it is not of PASCAL Context"),
        (np.full((64, 96), 460), "LabelMap", "values 460..460; expected whole numbers 0..459"),
        (np.full((64, 96), -1), "LabelMap", "values -1..-1; expected whole numbers 0..459"),
        (np.full((64, 96), 1.5), "LabelMap", "values 1.5..1.5; expected whole numbers 0..459"),
        (np.ones((64, 96, 3)), "LabelMap", "LabelMap of shape (64, 96, 3) and type float64; expected (H, W)"),
    ],
)
def test_other_contents_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], written: np.ndarray, key: str, expected: str
) -> None:
    FULL.write(tmp_path)
    write_label_map(tmp_path / MAT, written, key=key)
    assert FULL.run(tmp_path) == 1
    assert f"{tmp_path / MAT}: {expected}" in capsys.readouterr().err
    assert not (tmp_path / FULL_LABELS).exists()


def test_a_missing_mat_is_named_and_the_rest_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FULL.write(tmp_path)
    (tmp_path / MAT).unlink()
    assert FULL.run(tmp_path) == 1
    assert f"{tmp_path / MAT}: no such file; unpack trainval.tar.gz again" in capsys.readouterr().err
    assert len(list((tmp_path / "pascal_ctx_d2/annotations_ctx459").rglob("*.tif"))) == 3


def context_images(root: Path) -> list[str]:
    images = root / "pascal_ctx_d2/images"
    return sorted(str(path.relative_to(images)) for path in images.rglob("*.jpg"))


def context_labels(root: Path, classes: int) -> list[str]:
    labels = root / f"pascal_ctx_d2/annotations_ctx{classes}"
    return sorted(str(path.relative_to(labels).with_suffix(".jpg")) for path in labels.rglob("*.*"))


@pytest.mark.parametrize("order", [(59, 459), (459, 59)])
@pytest.mark.parametrize("kept", [True, False])
def test_both_preparations_make_the_images_of_the_59_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: tuple[int, ...], kept: bool
) -> None:
    make_pascal_context(tmp_path)
    make_pascal_in_detail(tmp_path, left_out=("2008_000003",))  # listed for val, and with a *.mat
    cases = {59: MATS, 459: FULL}
    assert cases[order[0]].run(tmp_path) == 0
    if not kept and order[0] == 59:
        (tmp_path / JSON).unlink()
    assert cases[order[1]].run(tmp_path) == 0
    expected = ["training/2008_000008.jpg", "training/2008_000015.jpg", "validation/2008_000002.jpg"]
    assert (
        context_images(tmp_path) == context_labels(tmp_path, 59) == context_labels(tmp_path, 459) == expected
    )
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for classes in order:
        assert len(get_dataset(f"openvocab_pascal_ctx{classes}_sem_seg_val").samples) == 1
        assert cases[classes].check(tmp_path) == 0


@pytest.mark.parametrize("key", ["phase", "file_name"])
def test_459_classes_refuse_a_spoilt_json_file_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    make_pascal_context(tmp_path)
    make_pascal_in_detail(tmp_path)
    edit(tmp_path, lambda content: content["images"][0].pop(key))
    assert FULL.run(tmp_path) == 1
    assert f"error: {tmp_path / JSON}: not in COCO format: an entry has no '{key}'" in capsys.readouterr().err


def test_a_stopped_run_of_459_classes_goes_on_with_all_images(tmp_path: Path) -> None:
    make_pascal_context(tmp_path)
    assert FULL.run(tmp_path) == 0
    for place in ("annotations_ctx459/validation/2008_000003.tif", "images/validation/2008_000003.jpg"):
        (tmp_path / "pascal_ctx_d2" / place).unlink()
    assert FULL.run(tmp_path) == 0
    assert "validation/2008_000003.jpg" in context_labels(tmp_path, 459)


def test_the_numbers_of_images_are_those_of_published_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Context59.images == Context459.images == {"train": 4_996, "val": 5_104}
    MATS.write(tmp_path)
    assert MATS.run(tmp_path) == 0
    # All images that have a *.mat are two more in train and one more in val: as good, and said.
    monkeypatch.setattr(pascal_context, "MAT_IMAGES", {"train": 2, "val": 2})
    monkeypatch.setattr(Context59, "images", {"train": 2, "val": 1})
    assert MATS.run(tmp_path, "--check") == 0
    expected = "2 images have labels; published results are on 1 of them, those of trainval_merged.json"
    assert expected in capsys.readouterr().out
    monkeypatch.setattr(pascal_context, "MAT_IMAGES", {"train": 2, "val": 3})
    assert MATS.run(tmp_path, "--check") == 1
    assert "2 images found, 1 expected" in capsys.readouterr().out
