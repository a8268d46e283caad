# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import numpy as np
from PIL import Image

from cmpf.visualization.labels import Label, add_legend, draw_labels, font_size, tag_color
from cmpf.visualization.palette import class_color

WHITE = Image.new("RGB", (640, 480), (255, 255, 255))


def box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((480, 640), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def changed(image: Image.Image) -> np.ndarray:
    return (np.asarray(image) != 255).any(axis=2)


def test_a_label_is_drawn_at_its_region_and_nowhere_else() -> None:
    drawn = changed(draw_labels(WHITE, [Label("cat", (200, 60, 60), box(300, 200, 600, 440))]))
    ys, xs = np.nonzero(drawn)
    assert 430 < xs.mean() < 470
    assert 310 < ys.mean() < 330
    assert drawn.sum() < 6000
    assert not changed(WHITE).any()  # the given image is left alone


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
    assert changed(draw_labels(WHITE, [label])).any()


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
