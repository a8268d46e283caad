# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import pytest

from cmpf.errors import ImageError
from cmpf.formats.image_files import folder_images


def test_a_folder_means_its_images_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png", "deep/c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in folder_images(tmp_path)] == ["a.JPG", "b.png"]
    (tmp_path / "deep/deeper").mkdir()
    with pytest.raises(ImageError, match="deeper: no image in this folder"):
        folder_images(tmp_path / "deep/deeper")
