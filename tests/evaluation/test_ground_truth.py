# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import numpy as np
import pytest
import torch

from cmpf.errors import EvaluationError
from cmpf.evaluation.ground_truth import paired, required, to_array


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
