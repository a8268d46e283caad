# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cmpf.errors import ImageError
from cmpf.visualization.canvas import MIN_LONG_SIDE, Canvas

GRAY = np.full((128, 96, 3), 120, dtype=np.uint8)


def test_a_small_image_is_enlarged_and_a_large_one_is_not() -> None:
    assert Canvas(GRAY).size == (640, 480)
    assert Canvas(GRAY).scale == 5
    large = np.zeros((10, MIN_LONG_SIDE + 1, 3), dtype=np.uint8)
    assert Canvas(large).size == (10, MIN_LONG_SIDE + 1)
    assert np.array_equal(np.asarray(Canvas(large).image()), large)


def test_pillow_images_of_any_mode_are_taken() -> None:
    assert Canvas(Image.new("L", (8, 4), 7)).size == (320, 640)
    assert Canvas(Image.new("RGBA", (700, 4))).size == (4, 700)


def test_enlarged_regions_are_smooth_and_keep_their_areas() -> None:
    yy, xx = np.mgrid[:128, :96]
    disc = ((yy - 60) ** 2 + (xx - 50) ** 2 < 30**2).astype(np.int64)
    canvas = Canvas(GRAY)
    large = canvas.enlarge_regions(disc, 2)
    assert large.shape == (640, 480)
    assert (large == 1).sum() == pytest.approx(25 * disc.sum(), rel=0.02)
    # A square-pixelled border has runs of 5 equal rows; the smooth one moves in almost every row.
    left_edge = np.argmax(large[180:280] == 1, axis=1)
    assert np.count_nonzero(np.diff(left_edge)) > 30


def test_a_thin_region_survives_enlarging() -> None:
    regions = np.zeros((128, 96), dtype=np.int64)
    regions[40] = 1
    regions[90, 20] = 2
    large = Canvas(GRAY).enlarge_regions(regions, 3)
    assert (large == 1).sum() == pytest.approx(5 * 480, rel=0.4)
    assert (large == 2).sum() == 25
    assert Canvas(GRAY).enlarge_mask(regions == 2).sum() == 25


def test_a_region_without_color_stays_as_it_is() -> None:
    canvas = Canvas(np.full((640, 640, 3), 90, dtype=np.uint8))
    regions = np.zeros((640, 640), dtype=np.int64)
    regions[:, 320:] = 1
    canvas.fill_regions(regions, [None, (255, 0, 0)], 0.5)
    painted = np.asarray(canvas.image())
    assert (painted[:, :300] == 90).all()
    # 90 is gray already: 90 + (255 - 90) / 2 = 172.5 and 90 / 2 = 45
    assert painted[300, 500].tolist() == [173, 45, 45]


def test_opacity_1_leaves_the_color_only_and_0_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (640, 640, 3), dtype=np.uint8)
    regions = np.zeros((640, 640), dtype=np.int64)
    solid, clear = Canvas(image), Canvas(image)
    solid.fill_regions(regions, [(10, 200, 30)], 1.0)
    clear.fill_regions(regions, [(10, 200, 30)], 0.0)
    assert (np.asarray(solid.image()) == (10, 200, 30)).all()
    assert np.array_equal(np.asarray(clear.image()), image)


def test_borders_are_dark_with_a_light_line_beside() -> None:
    canvas = Canvas(np.full((640, 640, 3), 120, dtype=np.uint8))
    regions = np.zeros((640, 640), dtype=np.int64)
    regions[:, 320:] = 1
    canvas.fill_regions(regions, [(60, 120, 200), (200, 120, 60)], 0.5)
    row = np.asarray(canvas.image())[100].sum(axis=1)
    assert row[319:321].max() < 200
    assert row[322] > row[400] > row[320]


def test_a_mask_is_painted_only_where_it_is() -> None:
    canvas = Canvas(np.full((640, 640, 3), 120, dtype=np.uint8))
    mask = np.zeros((640, 640), dtype=bool)
    mask[100:200, 100:200] = True
    canvas.fill_mask(mask, (255, 255, 0), 0.5)
    canvas.fill_mask(np.zeros_like(mask), (255, 0, 0), 0.5)
    painted = np.asarray(canvas.image())
    assert (painted[210:] == 120).all()
    assert painted[150, 150].tolist() == [188, 188, 60]  # halfway to yellow


@pytest.mark.parametrize(
    "broken",
    [
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3)),
    ],
)
def test_what_is_no_image_is_refused(broken: np.ndarray) -> None:
    with pytest.raises(ImageError, match="cannot draw on an array of shape"):
        Canvas(broken)


def test_results_of_another_size_are_refused() -> None:
    with pytest.raises(ImageError, match=r"segment ids of \(96, 128\) \(H, W\) on an image of \(128, 96\)"):
        Canvas(GRAY).check("segment ids", (96, 128))
