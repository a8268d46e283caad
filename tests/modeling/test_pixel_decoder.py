# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Pixel decoder and SAM branch."""

from __future__ import annotations

import pytest
import torch
from helpers.modeling import CHANNELS, clip_levels, random, tiny_pixel_decoder, tiny_sam_branch
from torch.nn import functional as F

from cmpf.modeling.pixel_decoder import PixelDecoder


def test_strides_of_an_image_that_is_no_square() -> None:
    output = tiny_pixel_decoder(mask_dim=20)(clip_levels(2, 320, 416))
    assert [tuple(m.shape) for m in output.multi_scale] == [
        (2, 16, 10, 13),
        (2, 16, 20, 26),
        (2, 16, 40, 52),
    ]
    assert output.mask_features.shape == (2, 20, 80, 104)


def test_levels_go_coarse_to_fine_through_the_encoder() -> None:
    decoder, levels = tiny_pixel_decoder(), clip_levels(1, 64, 96)
    projected = [decoder.input_projections[name](levels[name]) for name in ("res5", "res4", "res3")]
    output = decoder(levels)
    for got, expected in zip(output.multi_scale, decoder.encoder(projected), strict=True):
        torch.testing.assert_close(got, expected)


def test_mask_features_are_one_fpn_step_from_stride_eight() -> None:
    decoder, levels = tiny_pixel_decoder(), clip_levels(1, 64, 96)
    output = decoder(levels)
    upsampled = F.interpolate(output.multi_scale[2], size=(16, 24), mode="bilinear", align_corners=False)
    fused = decoder.lateral(levels["res2"]) + upsampled
    expected = decoder.mask_projection(F.relu(decoder.output(fused)))
    torch.testing.assert_close(output.mask_features, expected)


def test_a_batch_of_two_equals_two_batches_of_one() -> None:
    decoder, levels = tiny_pixel_decoder(), clip_levels(2, 64, 64)
    both = decoder(levels)
    for index in range(2):
        alone = decoder({name: m[index : index + 1] for name, m in levels.items()})
        torch.testing.assert_close(both.mask_features[index], alone.mask_features[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(both.multi_scale[0][index], alone.multi_scale[0][0], atol=1e-5, rtol=1e-5)


def test_autocast_and_half_precision_inputs_do_not_leave_float32() -> None:
    decoder, levels = tiny_pixel_decoder(), clip_levels(1, 64, 64)
    half = {name: m.bfloat16() for name, m in levels.items()}
    plain = decoder({name: m.float() for name, m in half.items()})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = decoder(half)
    assert output.mask_features.dtype == torch.float32
    torch.testing.assert_close(output.mask_features, plain.mask_features)


def test_projections_start_xavier_uniform_and_the_fpn_has_no_bias() -> None:
    decoder = PixelDecoder(
        in_channels=CHANNELS,
        dim=16,
        mask_dim=16,
        heads=2,
        points=2,
        layers=1,
        dim_feedforward=24,
        norm_groups=4,
    )
    weight, bias = decoder.input_projections["res5"][0].weight, decoder.input_projections["res5"][0].bias
    assert weight.abs().max() <= (6 / (20 + 16)) ** 0.5
    assert bias.abs().max() == 0
    assert decoder.lateral[0].bias is None
    assert decoder.output[0].bias is None


@pytest.mark.parametrize("flat_levels", [0, 3])
def test_the_embedding_is_halved_and_encoded(flat_levels: int) -> None:
    branch = tiny_sam_branch(flat_levels=flat_levels)
    embedding = random("sam", 2, 10, 8, 8)
    features = branch(embedding)
    assert features.shape == (2, 16, 4, 4)
    torch.testing.assert_close(features, branch.encoder([F.relu(branch.reduction(embedding))])[0])


@pytest.mark.parametrize("flat_levels", [0, 3])
def test_the_branch_of_a_batch_of_two_equals_two_of_one(flat_levels: int) -> None:
    branch, embedding = tiny_sam_branch(flat_levels=flat_levels), random("sam", 2, 10, 8, 8)
    alone = torch.cat([branch(embedding[:1]), branch(embedding[1:])])
    torch.testing.assert_close(branch(embedding), alone, atol=1e-5, rtol=1e-5)


def test_the_published_layout_has_parameters_for_three_levels() -> None:
    correct, published = tiny_sam_branch(), tiny_sam_branch(flat_levels=3)
    assert correct.encoder.level_embedding.shape == (1, 16)
    assert published.encoder.level_embedding.shape == (3, 16)
    # 2 heads x 3 levels x 2 points x (x, y) = 24 offsets, against 8.
    assert correct.encoder.layers[0].attention.sampling_offsets.weight.shape == (8, 16)
    assert published.encoder.layers[0].attention.sampling_offsets.weight.shape == (24, 16)


def test_autocast_does_not_leave_float32() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert tiny_sam_branch()(random("sam", 1, 10, 8, 8).bfloat16()).dtype == torch.float32
