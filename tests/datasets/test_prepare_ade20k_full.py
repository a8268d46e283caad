# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import numpy as np
from helpers.preparing import Case
from helpers.raw_datasets import load_script
from helpers.raw_datasets.ade20k import make_ade20k_full
from PIL import Image

CASE = Case(script="prepare_ade20k_full", make=(make_ade20k_full,), raw="", target="")
FOLDER = "ADE20K_2021_17_01"


def test_objects_become_train_ids_of_16_bits_and_images_lie_in_one_folder(tmp_path: Path) -> None:
    CASE.write(tmp_path)
    assert CASE.run(tmp_path) == 0
    labels = tmp_path / FOLDER / "annotations_detectron2"
    values = np.array(Image.open(labels / "training" / "ADE_train_00016869.tif"))
    assert values.dtype == np.uint16
    # Objects 2978 (wall), 312 (building), 165 (bed) | 1 (none of the 847), 0 (nothing), 2978. In the file wall is
    # R = 2978 // 256 * 10 + B = 110 + 1, G = 2978 % 256 = 162; R / 10 drops the 1.
    assert values[::32, ::32].tolist() == [[0, 1, 7], [65535, 65535, 0]]
    names = {str(path.relative_to(labels)) for path in labels.rglob("*.tif")}
    assert names == {
        "training/ADE_train_00000001.tif",
        "training/ADE_train_00016869.tif",
        "validation/ADE_val_00000001.tif",
        "validation/ADE_val_00001471.tif",
    }
    image = tmp_path / FOLDER / "images_detectron2/training/ADE_train_00016869.jpg"
    released = tmp_path / FOLDER / "images/ADE/training/urban/street/ADE_train_00016869.jpg"
    assert image.samefile(released)  # a hard link takes no room


def test_there_are_847_objects_that_differ() -> None:
    script = load_script("prepare_ade20k_full")
    assert len(script.INDICES) == len(set(script.INDICES)) == 847
    assert script.INDICES[:3] == (2978, 312, 2420)
    assert script.INDICES[846] == 3148
    assert max(script.INDICES) < script.OBJECTS


def test_a_missing_image_is_made_again(tmp_path: Path) -> None:
    CASE.write(tmp_path)
    assert CASE.run(tmp_path) == 0
    image = tmp_path / FOLDER / "images_detectron2/validation/ADE_val_00001471.jpg"
    image.unlink()
    assert CASE.check(tmp_path) == 1
    assert CASE.run(tmp_path) == 0
    assert image.exists()
    assert CASE.check(tmp_path) == 0
