# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Scenes: determinism, labels without holes, what the options promise, and the way from labels to pixels."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from cmpf.errors import DatasetError
from cmpf.shapeworld import CATEGORIES, Scene, generate_scene
from cmpf.shapeworld.layout import PlacedThing, coverage
from cmpf.shapeworld.scene import render

COUNT = 60


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [generate_scene(seed, seen_only=False) for seed in range(COUNT)]


@pytest.fixture(scope="module")
def hard_scenes() -> list[Scene]:
    return [generate_scene(seed, seen_only=False, hard=True) for seed in range(COUNT)]


def _things(scene: Scene) -> list:
    return [segment for segment in scene.segments if CATEGORIES[segment.category_id].isthing]


def _area(scene: Scene, segment) -> int:
    return int(np.count_nonzero(scene.ids == segment.id))


def test_equal_seeds_give_equal_scenes_whatever_was_drawn_between():
    one = generate_scene(7, seen_only=False)
    np.random.default_rng(7).random(100)
    generate_scene(8, seen_only=True)
    again = generate_scene(7, seen_only=False)
    np.testing.assert_array_equal(one.image, again.image)
    np.testing.assert_array_equal(one.ids, again.ids)
    assert one.segments == again.segments
    assert one.caption == again.caption


def test_the_global_random_state_is_left_alone():
    before = np.random.get_state()[1].copy()
    generate_scene(3, seen_only=True)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_other_seeds_give_other_scenes(scenes):
    assert len({scene.image.tobytes() for scene in scenes}) == COUNT


def test_every_pixel_belongs_to_exactly_one_listed_segment(scenes, hard_scenes):
    for scene in scenes + hard_scenes:
        listed = [segment.id for segment in scene.segments]
        assert listed == list(range(1, len(listed) + 1))
        assert np.unique(scene.ids).tolist() == listed


def test_no_segment_is_a_left_over(scenes, hard_scenes):
    assert min(_area(scene, s) for scene in scenes + hard_scenes for s in scene.segments) >= 30


def test_types_and_sizes(scenes):
    scene = scenes[0]
    assert (scene.image.dtype, scene.image.shape) == (np.uint8, (128, 128, 3))
    assert (scene.ids.dtype, scene.ids.shape) == (np.int32, (128, 128))


def test_there_are_two_or_three_stuff_regions_and_two_to_five_things(scenes):
    for scene in scenes:
        assert 1 <= len(_things(scene)) <= 5
        assert 2 <= len(scene.segments) - len(_things(scene)) <= 3
    assert np.mean([len(_things(scene)) for scene in scenes]) > 3


def test_each_stuff_category_is_one_segment(scenes):
    for scene in scenes:
        stuff = [s.category_id for s in scene.segments if not CATEGORIES[s.category_id].isthing]
        assert len(stuff) == len(set(stuff))


def test_sky_is_uppermost(scenes):
    for scene in scenes:
        if any(CATEGORIES[segment.category_id].name == "sky" for segment in scene.segments):
            assert CATEGORIES[scene.segments[0].category_id].name == "sky"


def test_seen_only_never_shows_an_unseen_category():
    for hard in (False, True):
        for seed in range(COUNT):
            scene = generate_scene(seed, seen_only=True, hard=hard)
            assert all(CATEGORIES[segment.category_id].seen for segment in scene.segments)


def test_the_full_world_shows_seen_and_unseen_categories_about_equally(scenes):
    for isthing in (True, False):
        flags = [
            CATEGORIES[s.category_id].seen
            for scene in scenes
            for s in scene.segments
            if CATEGORIES[s.category_id].isthing == isthing
        ]
        assert 0.35 < np.mean(flags) < 0.65


def test_every_category_occurs():
    counts = Counter(
        segment.category_id
        for seed in range(250)
        for segment in generate_scene(seed, size=64, seen_only=False).segments
    )
    assert set(counts) == set(range(len(CATEGORIES)))


def test_the_hard_world_has_more_and_smaller_things(scenes, hard_scenes):
    number, hard_number = (np.mean([len(_things(s)) for s in world]) for world in (scenes, hard_scenes))
    area, hard_area = (
        np.mean([_area(scene, s) for scene in world for s in _things(scene)])
        for world in (scenes, hard_scenes)
    )
    assert hard_number > 1.5 * number
    assert hard_area < 0.6 * area


def test_a_thing_in_the_normal_world_keeps_half_of_the_smallest_outline(scenes):
    # 55 % of the outline at the least radius, 16 px, is a lower bound for any thing of that shape.
    for scene in scenes:
        for segment in _things(scene):
            least = np.count_nonzero(
                coverage(CATEGORIES[segment.category_id].shape, radius=16, angle=0) >= 0.5
            )
            assert _area(scene, segment) > 0.52 * least


def test_captions_name_every_segment(scenes):
    for scene in scenes:
        for segment in scene.segments:
            category = CATEGORIES[segment.category_id]
            assert category.name in scene.caption
            assert category.name in segment.caption
            if category.isthing:
                assert segment.caption.startswith(f"a {category.name} ")


def test_the_size_scales_the_whole_scene():
    small, large = (generate_scene(5, size=size, seen_only=False) for size in (128, 256))
    assert large.image.shape == (256, 256, 3)
    assert [s.category_id for s in small.segments] == [s.category_id for s in large.segments]
    shares = [[_area(scene, s) / scene.ids.size for s in scene.segments] for scene in (small, large)]
    np.testing.assert_allclose(*shares, atol=0.01)


@pytest.mark.parametrize(
    ("arguments", "words"), [({"seed": -1}, "seed -1"), ({"seed": 0, "size": 63}, "size 63")]
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(DatasetError, match=words):
        generate_scene(**arguments, seen_only=True)


REGIONS = np.repeat(np.array([0, 1], np.int32), 32)[:, None].repeat(64, axis=1)


def _render(things, regions=REGIONS, seed=0):
    return render(
        np.random.default_rng(seed), regions=regions, stuff=["snow", "road"], things=things, unit=1.0
    )


def test_each_region_gets_its_texture():
    image = _render([])
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    assert image[:28].mean() > 180
    assert image[36:].mean() < 130


def test_a_thing_shows_its_material_and_its_hole_what_lies_behind():
    alpha = coverage("ring", radius=20, angle=0.0)
    image = _render([PlacedThing(0, "red", alpha, 0, 0)]).astype(int)
    middle = alpha.shape[0] // 2
    band = image[middle, middle + 15]
    assert band[0] > band[1] + 80
    hole = image[middle, middle]
    assert np.ptp(hole) < 40


def test_a_later_thing_lies_on_an_earlier_one():
    alpha = np.ones((21, 21), np.float32)
    below, above = PlacedThing(0, "yellow", alpha, 10, 10), PlacedThing(0, "blue", alpha, 10, 10)
    red, _, blue = _render([below, above])[20, 20].astype(int)
    assert blue > red + 80


def test_a_thing_casts_a_shadow_below():
    regions = np.zeros((64, 64), np.int32)
    regions[63] = 1
    alpha = np.ones((21, 21), np.float32)
    image = _render([PlacedThing(0, "red", alpha, 10, 20)], regions).astype(float)
    # The light comes from above, so the strip under the thing is darker than the open snow.
    assert image[32:34, 24:38].mean() < image[50:55, 24:38].mean() - 15


def test_a_thing_across_the_border_is_cut():
    image = _render([PlacedThing(0, "red", np.ones((21, 21), np.float32), -10, 54)])
    assert image.shape == (64, 64, 3)
    assert image[2, 62, 0] > image[2, 62, 1] + 80
