# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cmpf.errors import ImageError, VocabularyError
from cmpf.visualization import ground_truth
from cmpf.visualization.ground_truth import TrueRegion, contact_sheet, draw_ground_truth
from cmpf.visualization.labels import Label
from cmpf.visualization.palette import class_color, shade

NAMES = ("sky", "grass", "cat")
SIDE = 640  # no enlarging
GRAY = np.full((SIDE, SIDE, 3), 120, dtype=np.uint8)


def box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def labels_of(
    monkeypatch: pytest.MonkeyPatch, regions: list[TrueRegion], *, per_component: bool = False
) -> list[Label]:
    """Labels that a drawing asks for."""
    found: list[Label] = []

    def finish(canvas: object, labels: list[Label], *rest: object) -> Image.Image:
        found.extend(labels)
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(ground_truth, "add_labels", finish)
    draw_ground_truth(GRAY, regions, names=NAMES, per_component=per_component)
    return found


def test_regions_have_the_color_of_their_class_and_unlabeled_pixels_none() -> None:
    regions = [TrueRegion(box(0, 0, 640, 200), 0), TrueRegion(box(100, 300, 300, 500), 2)]
    drawn = np.asarray(draw_ground_truth(GRAY, regions, names=NAMES, opacity=1.0))
    assert np.abs(drawn[20, 20].astype(int) - class_color(0)).max() <= 2
    assert np.abs(drawn[320, 120].astype(int) - class_color(2)).max() <= 2
    assert (drawn[600, 600] == 120).all()


def test_of_overlapping_objects_the_smaller_one_is_on_top() -> None:
    small, large = TrueRegion(box(300, 300, 400, 400), 2), TrueRegion(box(100, 100, 600, 600), 2)
    drawn = np.asarray(draw_ground_truth(GRAY, [small, large], names=NAMES, opacity=1.0))
    assert np.abs(drawn[388, 312].astype(int) - shade(2, 0)).max() <= 2  # beside its label
    assert np.abs(drawn[150, 150].astype(int) - shade(2, 1)).max() <= 2


def test_crowds_are_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    regions = [TrueRegion(box(0, 0, 99, 99), 2), TrueRegion(box(200, 0, 500, 99), 2, crowd=True)]
    assert [label.text for label in labels_of(monkeypatch, regions)] == ["cat", "cat (crowd)"]


def test_pieces_of_a_class_are_named_each_if_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    sky = TrueRegion(box(0, 0, 200, 200) | box(400, 400, 600, 600), 0)
    assert len(labels_of(monkeypatch, [sky])) == 1
    assert len(labels_of(monkeypatch, [sky], per_component=True)) == 2


def test_empty_regions_and_no_regions_leave_the_image_as_it_is() -> None:
    for regions in ([], [TrueRegion(box(0, 0, 0, 0), 1)]):
        assert (np.asarray(draw_ground_truth(GRAY, regions, names=NAMES)) == 120).all()


def test_small_images_are_enlarged() -> None:
    mask = np.ones((10, 20), dtype=bool)
    for regions in ([TrueRegion(mask, 0)], [TrueRegion(mask, 0), TrueRegion(mask, 1)]):
        assert draw_ground_truth(GRAY[:10, :20], regions, names=NAMES).size == (640, 320)


def test_the_legend_is_added_below() -> None:
    regions = [TrueRegion(box(0, 0, 100, 100), 1)]
    assert draw_ground_truth(GRAY, regions, names=NAMES, legend=True).height > SIDE


def test_masks_of_another_size_and_classes_without_name_are_errors() -> None:
    with pytest.raises(ImageError, match=r"ground truth of \(3, 4\) \(H, W\) on an image of \(640, 640\)"):
        draw_ground_truth(GRAY, [TrueRegion(np.ones((3, 4), dtype=bool), 0)], names=NAMES)
    with pytest.raises(VocabularyError, match="class index 3 has no name"):
        draw_ground_truth(GRAY, [TrueRegion(box(0, 0, 5, 5), 3)], names=NAMES)


def test_a_sheet_holds_all_images_in_rows() -> None:
    images = [Image.new("RGB", (960, 480), color) for color in ("red", "green", "blue")]
    sheet = contact_sheet(images, ["a", "b", "c"])
    # Two columns of 480 pixels and three gaps of 16; images become 480 x 240.
    assert sheet.width == 2 * 480 + 3 * 16
    assert sheet.getpixel((20, 20)) == (255, 0, 0)
    assert sheet.getpixel((20 + 480 + 16, 20)) == (0, 128, 0)
    third = (sheet.height - 16) // 2 + 20
    assert sheet.getpixel((20, third)) == (0, 0, 255)
    assert contact_sheet(images, ["a", "b", "c"], columns=3).width == 3 * 480 + 4 * 16


def test_the_ends_of_long_captions_are_kept() -> None:
    assert ground_truth._shorten("short.png", 480) == "short.png"
    shown = ground_truth._shorten("very/" * 100 + "long.png", 480)
    assert shown.startswith("…")
    assert shown.endswith("long.png")
    assert ground_truth.text_width(shown, ground_truth.font_for(shown, 15)) <= 480
