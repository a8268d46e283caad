# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmpf.data.preparation.files import lookup_table, place, present, read_bytes, read_channels, stems
from cmpf.errors import DatasetError


def test_label_maps_of_a_release_have_8_bits_and_palettes_count_by_index(tmp_path: Path) -> None:
    image = Image.new("P", (4, 3))
    image.putpalette([200, 100, 50] * 256)
    image.putdata(list(range(12)))
    image.save(tmp_path / "a.png")
    assert np.array_equal(read_bytes(tmp_path / "a.png"), np.arange(12).reshape(3, 4))
    for image in (Image.new("RGB", (4, 3)), Image.fromarray(np.ones((3, 4), np.uint16))):
        image.save(tmp_path / "b.png")
        with pytest.raises(
            DatasetError, match=r"b\.png: uint\d+ of shape .*; expected one channel of 8 bits"
        ):
            read_bytes(tmp_path / "b.png")


def test_channels_must_be_as_many_as_asked_for(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 3), (1, 2, 3, 4)).save(tmp_path / "a.png")
    assert read_channels(tmp_path / "a.png", 4)[0, 0].tolist() == [1, 2, 3, 4]
    with pytest.raises(DatasetError, match=r"a\.png: .*\(3, 4, 4\); expected 3 channels of 8 bits"):
        read_channels(tmp_path / "a.png", 3)


def test_stems_are_sorted_and_leave_hidden_and_other_files_out(tmp_path: Path) -> None:
    for name in ("b_x.png", "a_x.png", "a.png", ".tmp-1-c_x.png", "deep/d_x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert stems(tmp_path, "_x.png") == {"a": tmp_path / "a_x.png", "b": tmp_path / "b_x.png"}
    assert list(stems(tmp_path, "_x.png", recursive=True)) == ["a", "b", "d"]
    (tmp_path / "deep/a_x.png").touch()
    with pytest.raises(DatasetError, match=r"deep/a_x\.png: the same name as .*a_x\.png; keep one"):
        stems(tmp_path, "_x.png", recursive=True)
    with pytest.raises(DatasetError, match=r"no \*\.jpg in it; unpack"):
        stems(tmp_path, ".jpg")
    with pytest.raises(DatasetError, match="no such folder"):
        stems(tmp_path / "nowhere", ".png")


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
