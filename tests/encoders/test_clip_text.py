# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The text tower at less than its context length."""

from __future__ import annotations

import open_clip
import pytest
import torch
from helpers.encoders import CONVNEXT, open_clip_model
from torch import nn

from cmpf.encoders.clip import encode_tokens, end_positions

TOKENS = open_clip.tokenize(["cat", "a dog in the grass", "sky"])
# End tokens stand after the start token and 1, 5 and 1 words.
ENDS = [2, 6, 2]


@pytest.mark.parametrize("custom_text", [False, True])
def test_the_end_token_is_found(custom_text: bool) -> None:
    model = open_clip_model(vision=CONVNEXT, custom_text=custom_text)
    assert end_positions(model, TOKENS).tolist() == ENDS


@pytest.mark.parametrize("custom_text", [False, True])
def test_an_end_token_that_is_not_the_highest_is_found_by_its_number(custom_text: bool) -> None:
    model = open_clip_model(vision=CONVNEXT, custom_text=custom_text, pool_type="eos", eos_id=2)
    tokens = torch.tensor([[9, 5, 2, 0, 0], [9, 5, 7, 8, 2]])
    assert end_positions(model, tokens).tolist() == [2, 4]
    padded = torch.cat([tokens, torch.zeros(2, 72, dtype=torch.int64)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(
            encode_tokens(model, tokens), model.encode_text(padded), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("length", [7, 8, 40, 77])
@pytest.mark.parametrize("custom_text", [False, True])
def test_any_length_from_the_longest_text_on_gives_the_same_embedding(custom_text: bool, length: int) -> None:
    model = open_clip_model(vision=CONVNEXT, custom_text=custom_text)
    with torch.no_grad():
        found = encode_tokens(model, TOKENS[:, :length])
        torch.testing.assert_close(found, model.encode_text(TOKENS), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{"proj_bias": True}, {"proj_type": "none"}], ids=["biased", "none"])
def test_every_kind_of_projection_is_applied(options: dict[str, object]) -> None:
    model = open_clip_model(vision=CONVNEXT, custom_text=True, **options)
    assert model.text.text_projection is None or isinstance(model.text.text_projection, nn.Linear)
    with torch.no_grad():
        found = encode_tokens(model, TOKENS[:, :7])
        torch.testing.assert_close(found, model.encode_text(TOKENS), atol=1e-5, rtol=1e-5)
