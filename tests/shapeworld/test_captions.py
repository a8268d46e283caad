# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Sentences about scenes."""

from __future__ import annotations

import pytest

from cmpf.shapeworld.captions import scene_caption, thing_caption


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
