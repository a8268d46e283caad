# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The split definition: which categories there are, why the unseen ones are unseen, and sentences with their words."""

from __future__ import annotations

import pytest

from cmpf.shapeworld.categories import (
    CATEGORIES,
    COLORS,
    HELD_OUT,
    PATTERNS,
    SEEN_SHAPES,
    STUFF,
    THINGS,
    UNSEEN_SHAPES,
    scene_caption,
    thing_caption,
    vocabulary_text,
)

SEEN_THINGS = [category for category in THINGS if category.seen]
UNSEEN_THINGS = [category for category in THINGS if not category.seen]


def test_there_are_at_least_40_things_and_8_stuff_categories():
    # 8 materials x 6 shapes - 3 patterns x 2 unseen shapes = 48 - 6 = 42
    assert len(THINGS) == 42
    assert len(STUFF) == 12


def test_seen_things_are_colors_in_seen_shapes_without_the_held_out_compositions():
    # 5 colors x 4 seen shapes - 5 held out = 15
    assert len(SEEN_THINGS) == 15
    for category in SEEN_THINGS:
        assert category.material in COLORS
        assert category.shape in SEEN_SHAPES
        assert (category.material, category.shape) not in HELD_OUT


def test_a_held_out_composition_has_its_shape_and_its_material_seen_elsewhere():
    assert sorted(material for material, _ in HELD_OUT) == sorted(COLORS)
    assert {shape for _, shape in HELD_OUT} == set(SEEN_SHAPES)
    for material, shape in HELD_OUT:
        assert any(category.material == material for category in SEEN_THINGS)
        assert any(category.shape == shape for category in SEEN_THINGS)


def test_an_unseen_thing_has_exactly_one_reason():
    for category in UNSEEN_THINGS:
        reasons = [
            (category.material, category.shape) in HELD_OUT,
            category.shape in UNSEEN_SHAPES,
            category.material in PATTERNS,
        ]
        assert sum(reasons) == 1, category.name


def test_unseen_shapes_and_materials_never_occur_among_seen_things():
    assert not {category.shape for category in SEEN_THINGS} & set(UNSEEN_SHAPES)
    assert not {category.material for category in SEEN_THINGS} & set(PATTERNS)


def test_half_of_the_stuff_is_unseen():
    assert sum(category.seen for category in STUFF) == 6


def test_ids_are_positions_and_seen_categories_come_first():
    assert [category.id for category in CATEGORIES] == list(range(54))
    flags = [category.seen for category in CATEGORIES]
    assert flags == sorted(flags, reverse=True)


def test_no_word_names_two_categories():
    words = [word for category in CATEGORIES for word in category.words]
    assert len(words) == len(set(words))
    assert all(word == word.strip().lower() and "," not in word for word in words)


def test_every_category_has_synonyms_and_stuff_has_no_shape():
    assert all(len(category.synonyms) == 2 for category in CATEGORIES)
    assert all(category.shape == category.material == "" for category in STUFF)


def test_the_vocabulary_file_has_a_flag_a_class_and_ids_from_one():
    lines = vocabulary_text((THINGS[0], STUFF[0])).splitlines()
    assert lines == [
        "# ShapeWorld, 2 categories",
        "# isthing: 1 0",
        "1:red circle,red disc,scarlet circle",
        "16:sky,cloudy sky,heaven",
    ]


@pytest.mark.parametrize(
    ("things", "stuff", "sentence"),
    [
        (["red circle"], ["grass"], "a red circle on grass"),
        (["red circle"], ["sky"], "a red circle in the sky"),
        (
            ["red circle", "striped bar"],
            ["sky", "grass"],
            "a red circle and a striped bar on grass under the sky",
        ),
        (
            ["blue ring", "red bar", "blue ring", "green bolt"],
            ["sand", "sky", "wood"],
            "two blue rings, a red bar and a green bolt on sand and wood under the sky",
        ),
        (["red bar"] * 12, ["brick", "tiles", "snow"], "12 red bars on brick, tiles and snow"),
    ],
)
def test_a_scene_caption_lists_all_words(things, stuff, sentence):
    assert scene_caption(things, stuff) == sentence


def test_a_thing_lies_on_its_ground_but_hangs_in_the_sky():
    assert thing_caption("yellow star", "gravel") == "a yellow star on gravel"
    assert thing_caption("yellow star", "sky") == "a yellow star in the sky"
