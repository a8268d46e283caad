# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest
import torch
from helpers.exported import small_predictor

from cmpf.errors import ConfigError
from cmpf.export.network import INPUTS, ExportNetwork
from cmpf.export.tracing import check_size, example_inputs


@pytest.mark.parametrize(("size", "fix"), [((100, 128), "128 is near 100"), ((64, 32), "64 is near 32")])
def test_a_size_that_does_not_fit_is_named_with_one_that_does(size: tuple[int, int], fix: str) -> None:
    with pytest.raises(ConfigError, match=f"image size {size[0]} x {size[1]}: .*multiples of 32.*{fix}"):
        check_size(size)


def test_sizes_of_64_to_8192_pixels_fit() -> None:
    check_size((64, 8192))


def test_example_inputs_have_the_form_that_the_network_documents() -> None:
    network = ExportNetwork(small_predictor().model)
    inputs = example_inputs(network, (64, 96), synonyms=9, classes=4, padding=(3, 5))
    assert tuple(inputs) == INPUTS
    assert inputs["image"].shape == (1, 3, 64, 96)
    assert 0 <= inputs["image"].min() < inputs["image"].max() <= 255
    assert inputs["size"].tolist() == [61, 91]
    torch.testing.assert_close(inputs["text"].norm(dim=1), torch.ones(9))
    assert inputs["class_of_row"].unique_consecutive().tolist() == [0, 1, 2, 3]
    assert inputs["seen"].shape == (4,)
