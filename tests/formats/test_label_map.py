# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmpf.errors import DatasetError
from cmpf.formats.label_map import (
    NO_CLASS,
    LabelReader,
    decode_panoptic_ids,
    encode_panoptic_ids,
    read_labels,
    read_panoptic_ids,
    write_labels,
    write_panoptic_ids,
)


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
    # As a panoptic PNG its colors count: 9 * (1 + 256 + 65536) = 592137, and 5 + 256 * 6 + 65536 * 7 = 460293.
    assert read_panoptic_ids(tmp_path / "p.png").tolist() == [[592137, 460293]]


def test_classes_come_out_as_indices_and_the_ignore_label_as_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", [[0, 1, 2, 255]])
    assert LabelReader(num_classes=3, ignore_label=255)(path).tolist() == [[0, 1, 2, NO_CLASS]]


def test_what_the_ignore_label_becomes_can_be_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", [[0, 65, 2]])
    assert LabelReader(num_classes=3, ignore_label=65, no_class=3)(path).tolist() == [[0, 3, 2]]


def test_a_mapping_gives_the_indices_but_the_ignore_label_goes_before_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", [[7, 30, 0]], np.uint16)
    reader = LabelReader(num_classes=2, ignore_label=0, class_of_id={7: 1, 30: 0, 0: 1})
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
        "check how it was made"
    )
    with pytest.raises(
        DatasetError, match=r"label 0, 1, 2, 3, 4, \.\.\. in 7 pixels; allowed are one of \[9\]"
    ):
        LabelReader(num_classes=1, ignore_label=255, class_of_id={9: 0})(path)


def test_the_highest_sixteen_bit_label_is_no_class_by_accident(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", [[65535, 255]], np.uint16)
    with pytest.raises(DatasetError, match="label 65535 in 1 pixels"):
        LabelReader(num_classes=300, ignore_label=300)(path)


def test_colors_and_other_numbers_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "rgb.png")
    with pytest.raises(DatasetError, match=r"rgb\.png: a label map has one channel, this one has 3"):
        read_labels(tmp_path / "rgb.png")
    with pytest.raises(
        DatasetError, match=r"f\.tif: label map of type float32; save whole numbers of 8 or 16 bits"
    ):
        read_labels(write(tmp_path / "f.tif", [[0, 1]], np.float32))
    for low, high in ((0, 70000), (-1, 3)):
        with pytest.raises(DatasetError, match=rf"i\.tif: values {low}\.\.{high} do not fit 16 bits"):
            read_labels(write(tmp_path / "i.tif", [[low, high]], np.int32))


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", np.random.default_rng(0).integers(0, 9, (40, 40)).tolist())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DatasetError, match=r"a\.png: damaged label map .*create or download it again"):
        read_labels(path)
    with pytest.raises(DatasetError, match=r"none\.png: no such label map"):
        read_labels(tmp_path / "none.png")


def test_an_image_too_large_to_be_true_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.png", [[0] * 30] * 30)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DatasetError, match=r"a\.png: damaged label map \(Image size"):
        read_labels(path)


@pytest.mark.parametrize(("name", "dtype"), [("a.png", np.uint8), ("a.png", np.uint16), ("a.tif", np.uint16)])
def test_written_labels_are_read_as_they_were(tmp_path: Path, name: str, dtype: type) -> None:
    labels = np.array([[0, 7], [np.iinfo(dtype).max, 1]], dtype=dtype)
    assert read_labels(write_labels(tmp_path / name, labels)).tolist() == labels.tolist()
    with pytest.raises(ValueError, match="labels of type int64; expected uint8 or uint16"):
        write_labels(tmp_path / name, labels.astype(np.int64))


# Segment ids


def test_ids_are_three_bytes_of_color() -> None:
    # 70000 = 112 + 256 * 17 + 65536 * 1
    colors = encode_panoptic_ids(np.array([[3, 259, 70000]]))
    assert (colors.dtype, colors.tolist()) == (np.uint8, [[[3, 0, 0], [3, 1, 0], [112, 17, 1]]])
    assert decode_panoptic_ids(colors).tolist() == [[3, 259, 70000]]


def test_ids_survive_the_file(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 255], [256, 65_536, 16_777_215]])
    assert read_panoptic_ids(write_panoptic_ids(tmp_path / "a.png", ids)).tolist() == ids.tolist()


@pytest.mark.parametrize("value", [-1, 1 << 24])
def test_ids_beyond_three_bytes_are_not_written(tmp_path: Path, value: int) -> None:
    with pytest.raises(ValueError, match=r"expected 0\.\.16777215"):
        write_panoptic_ids(tmp_path / "a.png", np.array([[0, value]]))
    assert list(tmp_path.iterdir()) == []


def test_a_gray_panoptic_png_holds_plain_ids(tmp_path: Path) -> None:
    assert read_panoptic_ids(write(tmp_path / "a.png", [[0, 3]])).tolist() == [[0, 3]]
    assert read_panoptic_ids(write(tmp_path / "b.png", [[0, 300]], np.uint16)).tolist() == [[0, 300]]


def test_files_that_hold_no_ids_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(DatasetError, match=r"a\.png: no such panoptic PNG"):
        read_panoptic_ids(path)
    write_panoptic_ids(path, np.random.default_rng(0).integers(0, 1 << 24, (40, 40)))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DatasetError, match=r"a\.png: damaged panoptic PNG"):
        read_panoptic_ids(path)
    write(path, [[0, 1]])
    Image.open(path).save(path, format="JPEG")
    with pytest.raises(
        DatasetError, match=rf"^{path}: panoptic PNG saved as JPEG, which changes its numbers"
    ):
        read_panoptic_ids(path)


@pytest.mark.parametrize("mode", ["LA", "F", "1", "CMYK", "LAB"])
def test_channels_that_are_no_bytes_of_ids_are_refused(tmp_path: Path, mode: str) -> None:
    """Such files gave ids that no segment has, so that training silently had no target for the image."""
    Image.new(mode, (2, 2)).save(tmp_path / "a.tif")
    with pytest.raises(DatasetError, match=rf"^{tmp_path}/a\.tif: panoptic PNG of mode {mode}, expected RGB"):
        read_panoptic_ids(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_label_maps_compressed_as_jpeg_are_refused(tmp_path: Path, name: str) -> None:
    Image.new("L", (8, 8)).save(tmp_path / name, **({"compression": "jpeg"} if name == "a.tif" else {}))
    with pytest.raises(
        DatasetError, match=rf"^{tmp_path / name}: label map saved as JPEG, which changes its numbers"
    ):
        LabelReader(num_classes=9, ignore_label=255)(tmp_path / name)
