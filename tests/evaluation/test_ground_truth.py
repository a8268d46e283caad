# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.evaluation_data import write_ids
from PIL import Image

from cmpf.errors import EvaluationError
from cmpf.evaluation.ground_truth import paired, read_class_labels, read_panoptic_png, required, to_array


def test_panoptic_ids_survive_the_file(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 255], [256, 65_536, 16_777_215]])
    assert read_panoptic_png(write_ids(tmp_path / "a.png", ids)).tolist() == ids.tolist()


def test_a_gray_panoptic_png_holds_plain_ids(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 3]], dtype=np.uint8)).save(tmp_path / "a.png")
    assert read_panoptic_png(tmp_path / "a.png").tolist() == [[0, 3]]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"none\.png: ground truth not found"):
        read_panoptic_png(tmp_path / "none.png")


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "half.png"
    write_ids(path, np.random.default_rng(0).integers(0, 1 << 24, (40, 40)))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(EvaluationError, match=r"half\.png: cannot be read as an image"):
        read_panoptic_png(path)
    path.write_text("no image")
    with pytest.raises(EvaluationError, match=r"half\.png: cannot be read as an image"):
        read_panoptic_png(path)


def test_a_color_image_is_no_label_map(tmp_path: Path) -> None:
    path = write_ids(tmp_path / "color.png", np.ones((2, 2), dtype=np.int64))
    with pytest.raises(EvaluationError, match=r"color\.png: a label map has one channel, this one has 3"):
        read_class_labels(path, num_classes=3, ignore_label=255)


def test_fractions_are_no_labels(tmp_path: Path) -> None:
    path = tmp_path / "scores.tif"
    Image.fromarray(np.full((2, 2), 0.5, dtype=np.float32)).save(path)
    with pytest.raises(EvaluationError, match=r"scores\.tif: .*it holds fractions, labels are whole numbers"):
        read_class_labels(path, num_classes=3, ignore_label=255)


def test_ignored_pixels_become_the_number_of_classes(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 65, 2]], dtype=np.uint8)).save(tmp_path / "a.png")
    assert read_class_labels(tmp_path / "a.png", num_classes=3, ignore_label=65).tolist() == [[0, 3, 2]]


def test_tensors_and_arrays_become_arrays() -> None:
    assert to_array(torch.ones(2, requires_grad=True)).tolist() == [1, 1]
    assert to_array(np.ones(2)).tolist() == [1, 1]


def test_outputs_must_pair_with_inputs() -> None:
    with pytest.raises(EvaluationError, match="1 outputs for 2 inputs"):
        list(paired([{"file_name": "a"}, {"file_name": "b"}], [{}], "sem_seg"))


def test_a_missing_output_names_the_switch() -> None:
    output = {"sem_seg": torch.zeros(1, 1)}
    with pytest.raises(EvaluationError, match=r"a\.jpg: the model returned no panoptic_seg.*PANOPTIC_ON"):
        list(paired([{"file_name": "a.jpg"}], [output], "panoptic_seg"))


def test_a_missing_field_is_named() -> None:
    with pytest.raises(EvaluationError, match="image 7: the sample has no 'pan_seg_file_name'"):
        required({"image_id": 7}, "pan_seg_file_name")
