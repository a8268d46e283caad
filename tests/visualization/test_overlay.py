# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from cmpf.common.regions import select_instances
from cmpf.errors import ImageError, VocabularyError
from cmpf.visualization import draw_instances, draw_panoptic, draw_semantic
from cmpf.visualization.canvas import MIN_LONG_SIDE, Canvas, near_border
from cmpf.visualization.palette import class_color, mix, oklch_to_rgb, shade, shades

GRAY = np.full((128, 96, 3), 120, dtype=np.uint8)
NAMES = ("sky", "grass", "red circle", "striped star")
SIZES = [(1, 1), (20, 6000), (6000, 20), (1, 300), (128, 128), (480, 640), (700, 1000)]


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


def gray(size: tuple[int, int]) -> np.ndarray:
    return np.full((*size, 3), 120, dtype=np.uint8)


def halves(size: tuple[int, int]) -> np.ndarray:
    ids = np.ones(size, dtype=np.int32)
    ids[:, size[1] // 2 :] = 2
    return ids


def near(pixel: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool(np.abs(pixel.astype(int) - color).max() <= 2)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("legend", [False, True])
def test_images_of_every_shape_can_be_drawn(size: tuple[int, int], legend: bool) -> None:
    ids = halves(size)
    segments = [{"id": int(i), "category_id": int(i)} for i in np.unique(ids)]
    images = [
        draw_panoptic(gray(size), ids, segments, names=NAMES, legend=legend),
        draw_semantic(gray(size), ids, names=NAMES, legend=legend),
        draw_instances(
            gray(size),
            np.stack([ids == 2]),
            labels=np.array([2]),
            scores=np.array([0.9]),
            names=NAMES,
            legend=legend,
        ),
    ]
    scale = max(1.0, 640 / max(size))
    for image in images:
        assert image.mode == "RGB"
        assert image.height >= round(size[0] * scale)
        assert image.width >= round(size[1] * scale)


def test_segments_have_the_color_of_their_class_and_void_has_none() -> None:
    ids = np.zeros((640, 640), dtype=np.int32)
    ids[:, 300:] = 7
    ids[400:, 300:] = 9
    segments = [{"id": 7, "category_id": 0}, {"id": 9, "category_id": 3}]
    drawn = np.asarray(draw_panoptic(gray((640, 640)), ids, segments, names=NAMES, opacity=1.0))
    assert near(drawn[50, 350], class_color(0))
    assert near(drawn[630, 350], class_color(3))
    assert (drawn[50, 50] == 120).all()


def test_instances_of_one_class_have_different_shades() -> None:
    segments = [{"id": 1, "category_id": 2}, {"id": 2, "category_id": 2}]
    drawn = np.asarray(
        draw_panoptic(gray((640, 640)), halves((640, 640)), segments, names=NAMES, opacity=1.0)
    )
    assert near(drawn[20, 20], shade(2, 0, NAMES[2]))
    assert near(drawn[20, 600], shade(2, 1, NAMES[2]))
    assert shade(2, 0, NAMES[2]) != shade(2, 1, NAMES[2])


def test_an_image_of_void_stays_as_it_is() -> None:
    image = draw_panoptic(gray((640, 640)), np.zeros((640, 640), np.int32), [], names=NAMES, legend=True)
    assert np.array_equal(np.asarray(image), gray((640, 640)))


def test_pillow_images_are_taken_and_not_changed() -> None:
    image = Image.new("RGB", (640, 640), (120, 120, 120))
    draw_semantic(image, np.zeros((640, 640), np.uint16), names=NAMES)
    assert np.array_equal(np.asarray(image), gray((640, 640)))


def test_semantic_regions_have_the_color_of_their_class() -> None:
    labels = np.full((640, 640), 3, dtype=np.uint16)
    labels[:300] = 1
    drawn = np.asarray(draw_semantic(gray((640, 640)), labels, names=NAMES, opacity=1.0))
    assert near(drawn[20, 20], class_color(1))
    assert near(drawn[600, 20], class_color(3))


def test_separate_pieces_of_a_class_are_each_labeled() -> None:
    labels = np.zeros((640, 640), dtype=np.int64)
    labels[100:250, 50:250] = labels[400:550, 350:600] = 2
    drawn = np.asarray(draw_semantic(gray((640, 640)), labels, names=NAMES, opacity=0.0))
    white = (drawn > 200).all(axis=2)  # letters
    assert white[100:250, 50:250].any()
    assert white[400:550, 350:600].any()


def test_smaller_instances_lie_on_larger_ones() -> None:
    masks = np.zeros((2, 640, 640), dtype=bool)
    masks[0, 250:390, 250:390] = True
    masks[1, 50:600, 50:600] = True
    drawn = np.asarray(
        draw_instances(
            gray((640, 640)),
            masks,
            labels=np.array([2, 3]),
            scores=np.array([0.4, 0.9]),
            names=NAMES,
            opacity=1.0,
        )
    )
    assert near(drawn[260, 260], class_color(2, NAMES[2]))
    assert near(drawn[590, 60], class_color(3))


def test_weak_empty_and_repeated_instances_are_not_shown() -> None:
    masks = np.zeros((5, 40, 40), dtype=bool)
    masks[0, :20] = masks[1, :19] = masks[2, 25:35] = masks[3, 30:] = True
    scores = np.array([0.8, 0.9, 0.2, 0.5, 0.95])
    # 1 is best and covers 0 (IoU 19 / 20); 2 is weak; 4 is empty
    assert select_instances(masks, scores, 0.3, 0.7) == [1, 3]
    assert select_instances(masks, scores, 0.0, 1.0) == [1, 0, 3, 2]


def test_no_instance_leaves_the_image() -> None:
    drawn = draw_instances(
        gray((640, 640)),
        np.zeros((0, 640, 640), dtype=bool),
        labels=np.zeros(0, dtype=np.int64),
        scores=np.zeros(0),
        names=NAMES,
    )
    assert np.array_equal(np.asarray(drawn), gray((640, 640)))


def test_a_class_without_a_name_is_refused() -> None:
    ids = halves((10, 10))
    with pytest.raises(VocabularyError, match=r"class index 4 has no name.*0\.\.3"):
        draw_panoptic(gray((10, 10)), ids, [{"id": 1, "category_id": 4}], names=NAMES)
    with pytest.raises(VocabularyError, match="class index 9 has no name"):
        draw_semantic(gray((10, 10)), np.where(ids == 2, 9, 0), names=NAMES)
    with pytest.raises(VocabularyError, match="class index -1 has no name"):
        draw_semantic(gray((10, 10)), ids - 2, names=NAMES)
    with pytest.raises(VocabularyError, match="class index 5 has no name"):
        draw_instances(
            gray((10, 10)), ids[None] == 1, labels=np.array([5]), scores=np.array([1.0]), names=NAMES
        )


def test_another_size_is_refused() -> None:
    with pytest.raises(ImageError, match=r"segment ids of \(10, 20\) \(H, W\) on an image of \(20, 10\)"):
        draw_panoptic(gray((20, 10)), halves((10, 20)), [], names=NAMES)
    with pytest.raises(ImageError, match=r"labels of \(10, 20\)"):
        draw_semantic(gray((20, 10)), halves((10, 20)), names=NAMES)
    with pytest.raises(ImageError, match=r"masks of \(10, 20\)"):
        draw_instances(
            gray((20, 10)),
            np.zeros((1, 10, 20), bool),
            labels=np.zeros(1, int),
            scores=np.ones(1),
            names=NAMES,
        )


def test_a_class_keeps_its_color() -> None:
    first = [class_color(i) for i in range(100)]
    assert first == [class_color(i) for i in range(100)]
    assert class_color(0) == shade(0, 0)


def test_a_hundred_classes_have_colors_that_differ_visibly() -> None:
    colors = np.array([class_color(i) for i in range(100)], dtype=float)
    nearest = min(np.abs(a - b).max() for a, b in itertools.combinations(colors, 2))
    assert nearest >= 14  # of 255, in some channel


def test_many_classes_all_have_a_color() -> None:
    assert len({class_color(i) for i in range(500)}) == 500
    assert len(class_color(100_000)) == 3


def test_instances_of_a_class_have_different_shades() -> None:
    assert len({shade(3, number) for number in range(6)}) == 6
    assert shade(3, 6) == shade(3, 0)


def test_grays_are_those_of_oklab() -> None:
    assert oklch_to_rgb((1.0, 0.0, 0.0)) == (255, 255, 255)
    assert oklch_to_rgb((0.59987, 0.0, 0.0)) == (128, 128, 128)
    assert oklch_to_rgb((0.0, 0.0, 0.0)) == (0, 0, 0)


def test_a_color_outside_srgb_is_brought_inside_without_another_hue() -> None:
    r, g, b = oklch_to_rgb((0.6, 0.4, 142.0))
    assert g > r
    assert g > b


def test_mixing() -> None:
    assert mix((0, 100, 200), (100, 200, 0), 0.5) == (50, 150, 100)
    assert mix((0, 100, 200), (100, 200, 0), 0.0) == (0, 100, 200)


def test_a_name_with_a_color_word_has_that_color_whatever_its_index() -> None:
    assert (
        class_color(0, "red circle") == class_color(7, "Red-tailed hawk") != class_color(7, "tail of a hawk")
    )
    assert class_color(7, "hundred birds") == class_color(7)  # the word itself, not a part of another
    red, green, blue = class_color(3, "blue ring")
    assert blue > max(red, green)


def test_two_classes_of_one_color_word_are_told_apart_by_shades() -> None:
    first, second, other = shades([0, 1, 2], ["red ring", "red star", "sky"])
    assert first == class_color(5, "red")
    assert second == shade(5, 1, "red") != first
    assert other == class_color(2)


def test_a_mask_of_a_few_pixels_is_drawn_on_an_enlarged_image() -> None:
    masks = np.zeros((1, 48, 64), dtype=bool)
    masks[0, 20, 10:13] = True  # too thin for a smooth border
    image = np.full((48, 64, 3), 128, np.uint8)
    drawn = draw_instances(
        image, masks, labels=np.array([0]), scores=np.array([0.9]), names=["wire"], opacity=1.0
    )
    assert len(np.unique(np.asarray(drawn)[200:210, 100:130].reshape(-1, 3), axis=0)) > 1


@pytest.mark.parametrize("shape", [(1, 1), (2, 40), (40, 2), (30, 50)])
@pytest.mark.parametrize("reach", [1.0, 3.1, 7.5])
def test_pixels_near_a_border_and_their_distances_are_those_of_the_distance_transform(
    shape: tuple[int, int], reach: float
) -> None:
    border = np.random.default_rng(3).random(shape) < 0.03
    border[0, 0] = True
    for rows in (slice(0, shape[0]), slice(shape[0] // 2, shape[0] - shape[0] // 5)):
        distance = ndimage.distance_transform_edt(~border)[rows].reshape(-1)
        places, found = near_border(border, reach, rows)
        assert places.tolist() == np.flatnonzero(distance < reach).tolist()
        np.testing.assert_allclose(found, distance[places], rtol=1e-6)


def test_segment_numbers_of_any_size_are_drawn_alike() -> None:
    ids = np.repeat([[0, 1, 2]], 40, axis=0).repeat(30, axis=1)
    image = np.full((*ids.shape, 3), 90, np.uint8)
    drawn = [
        np.asarray(
            draw_panoptic(
                image,
                np.array([0, *numbers])[ids],
                [
                    {"id": number, "category_id": k, "isthing": True, "score": 1.0}
                    for k, number in enumerate(numbers)
                ],
                names=NAMES,
            )
        )
        for numbers in ([1, 2], [2**24 - 2, 300])
    ]
    assert np.array_equal(*drawn)
