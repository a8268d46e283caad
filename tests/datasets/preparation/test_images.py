# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from helpers.preparing import truncate
from PIL import Image
from preparation.images import (
    folder_items,
    image_size,
    lookup_table,
    place,
    present,
    read_channels,
    read_ids,
    read_labels,
    stems,
    write_ids,
    write_labels,
)

from cmpf.errors import DatasetError, ImageError

RAMP = np.arange(12).reshape(3, 4)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_labels_come_back_as_they_were_written(tmp_path: Path, suffix: str, dtype: type) -> None:
    labels = (RAMP * np.iinfo(dtype).max // 11).astype(dtype)
    write_labels(tmp_path / f"a{suffix}", labels)
    again = read_labels(tmp_path / f"a{suffix}")
    assert again.dtype == dtype
    assert np.array_equal(again, labels)


def test_of_a_palette_image_the_indices_count(tmp_path: Path) -> None:
    image = Image.new("P", (4, 3))
    image.putpalette([200, 100, 50] * 256)
    image.putdata(RAMP.ravel().tolist())
    image.save(tmp_path / "a.png")
    assert np.array_equal(read_labels(tmp_path / "a.png"), RAMP)


def test_images_of_several_channels_hold_no_labels(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a\.png: of kind RGB; labels need one channel of 8 or 16 bits"):
        read_labels(tmp_path / "a.png")


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"a\.png: no such file"):
        read_labels(tmp_path / "a.png")
    write_labels(tmp_path / "a.png", RAMP.astype(np.uint8))
    truncate(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a\.png: damaged .*; fetch it again"):
        read_labels(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"a\.png: cannot be opened as an image"):
        image_size(tmp_path / "a.png")


def test_labels_of_other_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="labels of type int64; expected uint8 or uint16"):
        write_labels(tmp_path / "a.png", RAMP)


def test_ids_use_all_three_channels(tmp_path: Path) -> None:
    ids = np.array([[0, 255, 256], [65536, (1 << 24) - 1, 3 + 256 * 5 + 65536 * 7]], dtype=np.int64)
    write_ids(tmp_path / "a.png", ids)
    assert np.array(Image.open(tmp_path / "a.png"))[1, 2].tolist() == [3, 5, 7]
    assert np.array_equal(read_ids(tmp_path / "a.png"), ids)
    with pytest.raises(ValueError, match=r"segment ids 0\.\.16777216; expected 0\.\.16777215"):
        write_ids(tmp_path / "a.png", np.array([[0, 1 << 24]]))


def test_channels_must_be_those_asked_for(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 3), (1, 2, 3, 4)).save(tmp_path / "a.png")
    assert read_channels(tmp_path / "a.png", "RGBA")[0, 0].tolist() == [1, 2, 3, 4]
    with pytest.raises(ImageError, match=r"a\.png: of kind RGBA; expected 8-bit RGB"):
        read_channels(tmp_path / "a.png")


def test_a_size_is_that_of_the_upright_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg")
    assert image_size(tmp_path / "a.jpg") == (20, 30)
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "b.jpg", exif=exif)
    assert image_size(tmp_path / "b.jpg") == (30, 20)


def test_stems_are_sorted_and_leave_hidden_and_other_files_out(tmp_path: Path) -> None:
    for name in ("b_x.png", "a_x.png", "a.png", ".tmp-1-c_x.png", "deep/d_x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert stems(tmp_path, "_x.png") == {"a": tmp_path / "a_x.png", "b": tmp_path / "b_x.png"}
    assert list(stems(tmp_path, "_x.png", recursive=True)) == ["a", "b", "d"]
    (tmp_path / "deep/a_x.png").touch()
    with pytest.raises(DatasetError, match=r"deep/a_x\.png: the same name as .*a_x\.png; keep one"):
        stems(tmp_path, "_x.png", recursive=True)
    with pytest.raises(DatasetError, match="no such folder"):
        stems(tmp_path / "nowhere", ".png")


def test_items_of_a_folder_keep_their_names(tmp_path: Path) -> None:
    (tmp_path / "a_gt.png").touch()
    (item,) = folder_items(tmp_path, tmp_path / "out", ending="_gt.png", suffix=".tif")
    assert (item.source, item.target) == (tmp_path / "a_gt.png", tmp_path / "out" / "a.tif")
    with pytest.raises(DatasetError, match=r"no \*\.jpg in it"):
        folder_items(tmp_path, tmp_path / "out", ending=".jpg")


def test_present_finds_files_in_several_folders(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a").touch()
    (tmp_path / "b").touch()
    asked = [tmp_path / "x" / "a", tmp_path / "b", tmp_path / "x" / "b", tmp_path / "y" / "a"]
    assert present(asked) == {tmp_path / "x" / "a", tmp_path / "b"}


def test_a_table_has_the_default_where_nothing_is_known() -> None:
    table = lookup_table({1: 0, 3: 7}, default=255, size=5, dtype=np.uint8)
    assert table.tolist() == [255, 0, 255, 7, 255]
    assert table.dtype == np.uint8


def test_a_file_is_placed_as_a_link_or_else_as_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("content")
    place(tmp_path / "a", tmp_path / "x" / "a")
    assert (tmp_path / "x" / "a").samefile(tmp_path / "a")

    def other_disk(source: Path, target: Path) -> None:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_disk)
    place(tmp_path / "a", tmp_path / "x" / "a")
    assert (tmp_path / "x" / "a").read_text() == "content"
    assert not (tmp_path / "x" / "a").samefile(tmp_path / "a")


def test_images_too_large_for_pillow_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_labels(tmp_path / "a.png", RAMP.astype(np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)  # Pillow refuses twice as many: 12 > 2 * 5
    with pytest.raises(ImageError, match=r"a\.png: damaged .*exceeds limit of 10 pixels"):
        read_labels(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a\.png: cannot be opened as an image .*10 pixels"):
        image_size(tmp_path / "a.png")
