# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmpf.errors import DatasetError
from cmpf.formats.label_map import NO_CLASS, LabelReader, read_labels, read_pixels


def write(path: Path, values: list[list[int]], dtype: type = np.uint8) -> Path:
    Image.fromarray(np.array(values, dtype=dtype)).save(path)
    return path


@pytest.mark.parametrize(
    ("name", "dtype", "high"),
    [("a.png", np.uint8, 255), ("a.png", np.uint16, 65535), ("a.tif", np.uint16, 65535)],
)
def test_values_are_read_as_they_are(tmp_path: Path, name: str, dtype: type, high: int) -> None:
    labels = read_labels(write(tmp_path / name, [[0, 7, high]], dtype))
    assert labels.tolist() == [[0, 7, high]]
    assert labels.dtype == np.int32


def test_a_palette_gives_its_indices_or_its_colors(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([9, 9, 9, 0, 0, 0, 5, 6, 7])
    image.putpixel((1, 0), 2)
    image.save(tmp_path / "p.png")
    assert read_labels(tmp_path / "p.png").tolist() == [[0, 2]]
    colors = read_pixels(tmp_path / "p.png", "panoptic PNG", palette_colors=True)
    assert colors.tolist() == [[[9, 9, 9], [5, 6, 7]]]


def test_classes_come_out_as_indices_and_the_ignore_label_as_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", [[0, 1, 2, 255]])
    assert LabelReader(num_classes=3, ignore_label=255)(path).tolist() == [[0, 1, 2, NO_CLASS]]


def test_a_label_map_gives_the_indices_but_the_ignore_label_goes_before_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", [[7, 30, 0]], np.uint16)
    reader = LabelReader(num_classes=2, ignore_label=0, label_map={7: 1, 30: 0, 0: 1})
    assert reader(path).tolist() == [[1, 0, NO_CLASS]]


def test_an_ignore_label_inside_of_the_classes_hides_that_class(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", [[0, 1]])
    assert LabelReader(num_classes=2, ignore_label=0)(path).tolist() == [[NO_CLASS, 1]]


def test_labels_out_of_range_are_named_with_their_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", [[0, 3, 3, 200], [255, 1, 2, 4]])
    with pytest.raises(DatasetError) as caught:
        LabelReader(num_classes=3, ignore_label=255)(path)
    assert str(caught.value) == (
        f"{path}: label 3, 4, 200 in 4 pixels; allowed are 0..2 and the ignore label 255; "
        "check how it was prepared"
    )
    with pytest.raises(
        DatasetError, match=r"label 0, 1, 2, 3, 4, \.\.\. in 7 pixels; allowed are one of \[9\]"
    ):
        LabelReader(num_classes=1, ignore_label=255, label_map={9: 0})(path)


def test_the_highest_sixteen_bit_label_is_no_class_by_accident(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", [[65535, 255]], np.uint16)
    with pytest.raises(DatasetError, match="label 65535 in 1 pixels"):
        LabelReader(num_classes=300, ignore_label=300)(path)


def test_colors_and_other_numbers_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "rgb.png")
    with pytest.raises(DatasetError, match=r"rgb\.png: a label map has one channel, this one has 3"):
        read_labels(tmp_path / "rgb.png")
    with pytest.raises(
        DatasetError, match=r"f\.tif: holds values of type float32; save it with 8 or 16 bits"
    ):
        read_labels(write(tmp_path / "f.tif", [[0, 1]], np.float32))
    with pytest.raises(DatasetError, match=r"i\.tif: values 0\.\.70000 do not fit 16 bits"):
        read_labels(write(tmp_path / "i.tif", [[0, 70000]], np.int32))


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", np.random.default_rng(0).integers(0, 9, (40, 40)).tolist())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DatasetError, match=r"a\.png: damaged label map .*prepare the dataset again"):
        read_labels(path)
    with pytest.raises(DatasetError, match=r"none\.png: no such label map"):
        read_labels(tmp_path / "none.png")


def test_an_image_too_large_to_be_true_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.png", [[0] * 30] * 30)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DatasetError, match=r"a\.png: damaged label map \(Image size"):
        read_labels(path)
