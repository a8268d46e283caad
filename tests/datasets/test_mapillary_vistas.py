# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers.preparing import Case, files, rewrite
from helpers.raw_datasets.mapillary_vistas import make_mapillary_vistas
from PIL import Image

CASE = Case(name="mapillary_vistas", make=(make_mapillary_vistas,))
NEWER = Case(
    name="mapillary_vistas",
    make=(partial(make_mapillary_vistas, package="v2.0"),),
)
LABELS = "mapillary_vistas/validation/labels/0035fkbjWljhaftpVM37-g.png"
PANOPTIC = "mapillary_vistas/validation/panoptic/0035fkbjWljhaftpVM37-g.png"


def test_the_release_of_v1_2_is_used_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    CASE.write(tmp_path)
    before = files(tmp_path)
    assert CASE.run(tmp_path) == 0
    assert "the release is used as it is" in capsys.readouterr().out
    assert files(tmp_path) == before
    assert CASE.check(tmp_path) == 0


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
    rewrite(tmp_path / PANOPTIC, lambda values: values[..., 0])
    assert CASE.check(tmp_path) == 1
    out = capsys.readouterr().out
    assert f"{tmp_path / LABELS}: label 66 in " in out
    assert f"{tmp_path / PANOPTIC}: is an image of mode L; segment ids are read from R, G and B" in out
