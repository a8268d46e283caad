# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cmpf.errors import ImageError, VocabularyError
from cmpf.visualization import draw_instances, draw_panoptic, draw_semantic
from cmpf.visualization.overlay import worth_showing
from cmpf.visualization.palette import class_color, shade

NAMES = ("sky", "grass", "red circle", "striped star")
SIZES = [(1, 1), (20, 6000), (6000, 20), (1, 300), (128, 128), (480, 640), (700, 1000)]


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
    assert near(drawn[20, 20], shade(2, 0))
    assert near(drawn[20, 600], shade(2, 1))
    assert shade(2, 0) != shade(2, 1)


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
    assert near(drawn[260, 260], class_color(2))
    assert near(drawn[590, 60], class_color(3))


def test_weak_empty_and_repeated_instances_are_not_shown() -> None:
    masks = np.zeros((5, 40, 40), dtype=bool)
    masks[0, :20] = masks[1, :19] = masks[2, 25:35] = masks[3, 30:] = True
    scores = np.array([0.8, 0.9, 0.2, 0.5, 0.95])
    # 1 is best and covers 0 (IoU 19 / 20); 2 is weak; 4 is empty
    assert worth_showing(masks, scores, 0.3, 0.7) == [1, 3]
    assert worth_showing(masks, scores, 0.0, 1.0) == [1, 0, 3, 2]


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
    with pytest.raises(ImageError, match=r"segment ids of \(10, 20\)"):
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
