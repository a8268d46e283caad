# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import pytest

from cmpf.common.files import folder_images, replacing
from cmpf.errors import ImageError


def test_a_file_appears_whole_and_leaves_no_temporary_one(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.json") as temporary:
        assert temporary.suffix == ".json"
        temporary.write_text("new")
        assert not (tmp_path / "a.json").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def write_half_and_raise(path: Path, error: BaseException) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise error


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="stop"):
        write_half_and_raise(path, RuntimeError("stop"))
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_ctrl_c_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_half_and_raise(path, KeyboardInterrupt())
    assert path.read_text() == "old"


@pytest.mark.parametrize("name", ["a" * 251 + ".pth", "\u00e4" * 125 + ".json", "b." + "c" * 253])
def test_names_as_long_as_a_file_system_allows_can_be_written(tmp_path: Path, name: str) -> None:
    with replacing(tmp_path / name) as temporary:
        assert temporary.suffix == Path(name).suffix or len(temporary.name) < 255
        temporary.write_text("new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(name, "new")]


def test_a_folder_means_its_images_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png", "deep/c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in folder_images(tmp_path)] == ["a.JPG", "b.png"]
    (tmp_path / "deep/deeper").mkdir()
    with pytest.raises(ImageError, match="deeper: no image in this folder"):
        folder_images(tmp_path / "deep/deeper")
