# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from cmpf.errors import EvaluationError
from cmpf.formats.run_lengths import to_rle

# Columns 1 and 2 of 3 x 4 pixels: run lengths go down the columns, 3 zeros, 6 ones, 3 zeros.
FORMS = (
    [[1, 0, 3, 0, 3, 3, 1, 3]],
    {"size": [3, 4], "counts": [3, 6, 3]},
    coco_mask.frPyObjects({"size": [3, 4], "counts": [3, 6, 3]}, 3, 4),
)


@pytest.mark.parametrize("segmentation", FORMS)
def test_all_forms_are_the_same_mask(segmentation: Any) -> None:
    rle = to_rle(segmentation, height=3, width=4, where="a.json: mask")
    assert coco_mask.decode(rle).tolist() == [[0, 1, 1, 0]] * 3


def test_text_counts_are_read_too() -> None:
    packed = {"size": [3, 4], "counts": FORMS[2]["counts"].decode()}
    assert coco_mask.decode(to_rle(packed, height=3, width=4, where="x")).sum() == 6


@pytest.mark.parametrize(
    "segmentation", [[], [[1, 2, 3, 4]], {"size": [3, 4]}, None, [1, 2], {"counts": [1]}]
)
def test_other_things_are_refused(segmentation: Any) -> None:
    with pytest.raises(EvaluationError, match=r"a\.json: mask of result 3 is neither polygons nor RLE"):
        to_rle(segmentation, height=3, width=4, where="a.json: mask of result 3")


@pytest.mark.parametrize("segmentation", FORMS[1:])
def test_masks_of_another_size_are_refused(segmentation: Any) -> None:
    with pytest.raises(EvaluationError, match=r"mask is \(3, 4\) \(H, W\) in an image of \(4, 3\)"):
        to_rle(segmentation, height=4, width=3, where="mask")


def test_polygons_are_drawn_at_the_size_of_the_image() -> None:
    assert np.shape(coco_mask.decode(to_rle(FORMS[0], height=9, width=7, where="x"))) == (9, 7)
