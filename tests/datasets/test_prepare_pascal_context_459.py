# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.preparing import Case
from helpers.raw_datasets.pascal import make_pascal_context, write_label_map
from PIL import Image

CASE = Case(script="prepare_pascal_context_459", make=(make_pascal_context,), raw="", target="")
MAT = "VOCdevkit/VOC2010/trainval/2008_000008.mat"
LABELS = "pascal_ctx_d2/annotations_ctx459/training/2008_000008.tif"


def labels(root: Path) -> np.ndarray:
    return np.array(Image.open(root / LABELS))


def test_labels_count_from_0_in_16_bits_and_nothing_is_65535(tmp_path: Path) -> None:
    CASE.write(tmp_path)
    assert CASE.run(tmp_path) == 0
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
    CASE.write(tmp_path)
    assert CASE.run(tmp_path) == 0
    expected = labels(tmp_path)
    write_label_map(tmp_path / MAT, (expected.astype(np.float64) + 1) % 65536)
    assert CASE.run(tmp_path, "--overwrite") == 0
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
    CASE.write(tmp_path)
    write_label_map(tmp_path / MAT, written, key=key)
    assert CASE.run(tmp_path) == 1
    assert f"{tmp_path / MAT}: {expected}" in capsys.readouterr().err
    assert not (tmp_path / LABELS).exists()


def test_a_missing_mat_is_named_and_the_rest_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    CASE.write(tmp_path)
    (tmp_path / MAT).unlink()
    assert CASE.run(tmp_path) == 1
    assert f"{tmp_path / MAT}: no such file; unpack trainval.tar.gz again" in capsys.readouterr().err
    assert len(list((tmp_path / "pascal_ctx_d2/annotations_ctx459").rglob("*.tif"))) == 3
