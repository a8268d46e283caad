# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest
import torch
from helpers.exported import small_predictor

from cmpf.errors import ConfigError
from cmpf.export.exporting import model_outputs
from cmpf.export.network import INPUTS, ExportNetwork, check_size, example_inputs


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("cmpf_tiny", ()),
        ("fcclip_tiny", ()),
        ("cmpf_tiny", ("MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS", 3)),
        ("cmpf_tiny", ("MODEL.CMPF.ENSEMBLE_ON_VALID_MASK", True)),
        ("cmpf_tiny", ("MODEL.MASK_FORMER.TEST.CLIP_OBJECTNESS", 0.5)),
    ],
)
def test_the_network_computes_what_the_model_computes_with_padding_too(
    name: str, overrides: tuple[object, ...]
) -> None:
    model = small_predictor(name, *overrides).model
    network = ExportNetwork(model)
    inputs = example_inputs(network, (96, 128), synonyms=7, classes=5, padding=(13, 30))
    with torch.no_grad():
        mask_cls, mask_pred = network(**inputs)
    wanted_cls, wanted_pred = model_outputs(model, inputs)
    assert mask_cls.shape == (10, 6)
    assert mask_pred.shape == (10, 24, 32)
    torch.testing.assert_close(mask_cls, wanted_cls)
    torch.testing.assert_close(mask_pred, wanted_pred)


def test_what_stands_in_the_padding_has_no_effect() -> None:
    network = ExportNetwork(small_predictor().model)
    inputs = example_inputs(network, (96, 128), synonyms=7, classes=5, padding=(13, 30))
    other = {**inputs, "image": inputs["image"].clone()}
    other["image"][:, :, 96 - 13 :] = 255
    other["image"][..., 128 - 30 :] = 7
    with torch.no_grad():
        torch.testing.assert_close(network(**inputs), network(**other), rtol=0, atol=0)


def test_the_text_tower_and_sams_mask_decoder_are_no_part_of_it() -> None:
    names = [name for name, _ in ExportNetwork(small_predictor().model).named_parameters()]
    assert {name.split(".")[0] for name in names} == {
        "clip_image", "sam_image", "pixel_decoder", "sam_branch", "decoder", "void_embedding",
    }  # fmt: skip
    assert not any("transformer.resblocks" in name or "prompt_encoder" in name for name in names)


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
