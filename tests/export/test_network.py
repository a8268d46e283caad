# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest
import torch
from helpers.exported import small_predictor

from cmpf.export.checking import model_outputs
from cmpf.export.network import ExportNetwork
from cmpf.export.tracing import example_inputs


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
