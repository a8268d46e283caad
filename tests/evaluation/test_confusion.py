# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import numpy as np
import pytest

from cmpf.errors import EvaluationError
from cmpf.evaluation.averages import seen_groups
from cmpf.evaluation.confusion import Confusion, confusion_cells, predicted_indices, semantic_metrics


def test_pixels_are_counted_by_true_and_predicted_class() -> None:
    total = Confusion(2)
    # 2 = ignored in the truth, no class in the prediction
    total.add(confusion_cells(np.array([[0, 0, 1, 2]]), np.array([[0, 1, 2, 0]]), 2))
    total.add(confusion_cells(np.array([[1]]), np.array([[1]]), 2))
    assert total.matrix.tolist() == [[1, 1, 0], [0, 1, 1]]


def test_metrics_of_a_hand_worked_matrix() -> None:
    got = semantic_metrics(np.array([[3.0, 1, 0], [0, 1, 1]]), ["a", "b"], seen_groups([True, False], 2))
    # a: 3 right of union 4;  b: 1 right of union 2 + 2 - 1 = 3;  b's last pixel is "no class"
    assert (got["IoU-a"], got["IoU-b"]) == (75, pytest.approx(100 / 3))
    assert got["mIoU"] == got["mIoU_union"] == pytest.approx((75 + 100 / 3) / 2)
    assert (got["ACC-b"], got["mACC"]) == (50, pytest.approx((75 + 50) / 2))
    assert got["fwIoU"] == pytest.approx(4 / 6 * 75 + 2 / 6 * 100 / 3)
    assert got["pACC"] == pytest.approx(400 / 6)
    assert (got["S_mIoU"], got["U_mIoU"]) == (75, pytest.approx(100 / 3))


def test_a_class_of_the_prediction_only_counts_in_the_union_mean() -> None:
    got = semantic_metrics(np.array([[1.0, 1, 0], [0, 0, 0]]), ["a", "b"], seen_groups(None, 2))
    assert (got["mIoU"], got["mIoU_union"]) == (50, 25)


def test_the_ignore_label_predicted_is_no_class_and_others_are_refused() -> None:
    labels = np.array([[0, 2, 255]], dtype=np.uint8)
    assert predicted_indices(labels, num_classes=3, ignore_label=255, where="x").tolist() == [[0, 2, 3]]
    with pytest.raises(EvaluationError, match=r"p\.png: predicted label 2; allowed are 0\.\.1 and 255"):
        predicted_indices(labels, num_classes=2, ignore_label=255, where="p.png")


def test_an_ignore_label_among_the_classes_stays_a_class_where_it_is_predicted() -> None:
    assert predicted_indices(np.array([[0, 1]]), num_classes=2, ignore_label=0, where="x").tolist() == [
        [0, 1]
    ]
