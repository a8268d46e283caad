# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFont
from scipy import ndimage

from cmpf.visualization import labels as fonts
from cmpf.visualization import placement
from cmpf.visualization.labels import (
    Label,
    add_legend,
    font_for,
    font_size,
    line_height,
    tag_color,
    text_width,
)
from cmpf.visualization.palette import class_color
from cmpf.visualization.placement import Placement, grid_step, place_labels, subsample

WHITE = Image.new("RGB", (640, 480), (255, 255, 255))
CANVAS = (400, 600)


def box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((480, 640), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def draw_labels(image: Image.Image, labels: list[Label]) -> Image.Image:
    """A copy of an image with labels whose masks have its size."""
    drawn = image.copy()
    step = grid_step((image.height, image.width))
    fonts.draw_labels(drawn, [replace(label, mask=subsample(label.mask, step)) for label in labels])
    return drawn


def changed(image: Image.Image) -> np.ndarray:
    return (np.asarray(image) != 255).any(axis=2)


def test_a_label_is_drawn_at_its_region_and_nowhere_else() -> None:
    drawn = changed(draw_labels(WHITE, [Label("cat", (200, 60, 60), box(300, 200, 600, 440))]))
    ys, xs = np.nonzero(drawn)
    assert 430 < xs.mean() < 470
    assert 310 < ys.mean() < 330
    assert drawn.sum() < 6000


def test_a_small_region_gets_a_line_to_its_middle() -> None:
    around = ~box(300, 200, 330, 225)
    labels = [Label("sky", (0, 0, 255), around), Label("a long name", (200, 60, 60), ~around)]
    assert changed(draw_labels(WHITE, labels))[212, 315]


def test_white_letters_are_readable_on_every_tag() -> None:
    for index in range(200):
        channels = np.array(tag_color(class_color(index))) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        luminance = linear @ (0.2126, 0.7152, 0.0722)
        assert 1.05 / (luminance + 0.05) >= 7  # WCAG AAA


def test_letters_grow_with_the_image_but_more_slowly() -> None:
    assert font_size((640, 640)) == 20
    assert font_size((1, 640)) == 11
    assert 40 < font_size((3000, 4000)) < 60


def test_long_names_and_line_breaks_do_not_leave_the_image() -> None:
    label = Label("a\nvery " + "long " * 30, (10, 200, 30), box(0, 0, 640, 480))
    drawn = changed(draw_labels(WHITE, [label]))
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    assert columns[0] > 0
    assert columns[-1] < 639
    assert len(rows) < 2 * line_height(font_for("a", font_size((480, 640))))  # one line


def test_a_legend_adds_rows_below_until_all_names_are_there() -> None:
    one = add_legend(WHITE, [("cat", (200, 60, 60))])
    many = add_legend(WHITE, [(f"class number {i}", (i, 60, 60)) for i in range(30)])
    assert one.width == many.width == 640
    assert 480 < one.height < many.height
    below = np.asarray(one)[480:].reshape(-1, 3).tolist()
    assert [200, 60, 60] in below


def test_a_legend_below_a_narrow_image_widens_the_paper() -> None:
    narrow = add_legend(Image.new("RGB", (20, 6000), (0, 0, 0)), [("striped triangle", (9, 9, 9))])
    assert narrow.width > 100
    assert narrow.height > 6000


def test_a_legend_without_entries_is_no_legend() -> None:
    assert add_legend(WHITE, []).size == (640, 480)


@pytest.fixture(autouse=True)
def forget_fonts() -> None:
    font_for.cache_clear()
    fonts._system_font.cache_clear()


def test_wider_text_and_larger_letters_take_more_room() -> None:
    font, large = font_for("cat", 12), font_for("cat", 24)
    assert text_width("cat and dog", font) > text_width("cat", font) > 0
    assert line_height(large) > 1.5 * line_height(font)


def test_plain_text_never_asks_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("asked for a system font")

    monkeypatch.setattr(fonts, "_system_font", refuse)
    assert text_width("striped star 93%…", font_for("striped star 93%…", 13)) > 0


def test_a_script_without_any_font_falls_back_to_the_built_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_UNICODE_FONTS", ("no such font.ttf",))
    assert text_width("猫", font_for("猫", 14)) > 0


def test_a_font_without_the_letters_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = ImageFont.load_default(14)

    def found(name: str, size: int) -> object:
        asked.append(name)
        return real

    monkeypatch.setattr(fonts, "_system_font", found)
    font_for("кот", 14)  # the built-in font has no Cyrillic, so each name is tried
    assert asked == list(fonts._UNICODE_FONTS)


def rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(CANVAS, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def place(
    *labels: tuple[np.ndarray, tuple[float, float]], canvas: tuple[int, int] = CANVAS
) -> list[Placement | None]:
    """The placements of labels, given as masks of the canvas and sizes."""
    step = grid_step(canvas)
    return place_labels([subsample(mask, step) for mask, _ in labels], [size for _, size in labels], canvas)


def center(placement: Placement | None) -> tuple[float, float]:
    assert placement is not None
    x0, y0, x1, y1 = placement.rect
    return (x0 + x1) / 2, (y0 + y1) / 2


def test_a_label_sits_in_the_middle_of_its_region() -> None:
    (found,) = place((rectangle(100, 100, 500, 300), (80, 20)))
    x, y = center(found)
    assert abs(x - 300) < 8
    assert abs(y - 200) < 8
    assert found is not None
    assert found.leader is None


def test_the_visual_center_of_a_hook_is_in_its_thick_part() -> None:
    hook = rectangle(50, 50, 70, 350) | rectangle(50, 230, 350, 350)
    x, y = center(place((hook, (60, 20)))[0])
    assert 230 < y < 350
    assert hook[int(y), int(x)]


def test_a_small_region_is_labeled_beside_with_a_leader() -> None:
    background = np.ones(CANVAS, dtype=bool)
    small = rectangle(290, 190, 320, 215)
    background &= ~small
    _, found = place((background, (50, 20)), (small, (90, 20)))
    assert found is not None
    assert found.leader is not None
    x, y = found.leader
    assert small[int(y), int(x)]
    x0, y0, x1, y1 = (round(v) for v in found.rect)
    assert not small[y0:y1, x0:x1].any()


def test_a_tiny_region_gets_no_label() -> None:
    assert place((rectangle(10, 10, 12, 13), (90, 20))) == [None]


def test_labels_stay_inside_and_apart_however_crowded() -> None:
    generator = np.random.default_rng(0)
    labels = []
    for _ in range(60):
        x, y = int(generator.integers(0, 520)), int(generator.integers(0, 340))
        labels.append((rectangle(x, y, x + 80, y + 60), (generator.uniform(40, 120), 22)))
    rects = [p.rect for p in place(*labels) if p is not None]
    assert len(rects) > 15
    for x0, y0, x1, y1 in rects:
        assert x0 >= 0
        assert y0 >= 0
        assert x1 <= 600
        assert y1 <= 400
    for a, b in itertools.combinations(rects, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_a_label_wider_than_the_image_is_left_out() -> None:
    everything = np.ones((50, 60), dtype=bool)
    assert place((everything, (90, 20)), canvas=(50, 60)) == [None]


def test_empty_regions_and_no_regions_are_fine() -> None:
    assert place() == []
    assert place((np.zeros(CANVAS, dtype=bool), (50, 20))) == [None]


def test_depths_are_those_of_the_distance_transform_and_sums_over_a_box_those_over_all():
    generator = np.random.default_rng(4)
    whole = np.zeros((40, 60), dtype=bool)
    whole[7:30, 11:52] = generator.random((23, 41)) < 0.9
    box = placement._bounding_box(whole)
    assert box == (slice(7, 30), slice(11, 52))
    own = whole[box]
    depths = ndimage.distance_transform_edt(np.pad(own, 1))[1:-1, 1:-1]
    np.testing.assert_array_equal(placement._squared_depths(own), np.rint(depths**2).astype(int))
    grid = placement._Grid(own, 2, (7, 11))
    for x0, y0, x1, y1 in [(-9, -9, 200, 200), (20, 20, 60, 50), (0, 0, 21, 13), (100, 4, 130, 61)]:
        cells = whole[max(0, round(y0 / 2)) : round(y1 / 2), max(0, round(x0 / 2)) : round(x1 / 2)]
        assert grid.total((x0, y0, x1, y1)) == cells.sum()
    assert placement._bounding_box(~np.ones((3, 4), dtype=bool)) is None
