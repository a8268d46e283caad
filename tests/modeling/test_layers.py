# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Layers, heads and injectors."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.modeling import class_embeddings, fill_by_name, generator, random
from torch import nn
from torch.nn import functional as F

from benchmarks.published import network as published
from cmpf.common.tensors import mask_pooling
from cmpf.errors import ConfigError
from cmpf.modeling.heads import MaskFeatures, PredictionHead, class_logits
from cmpf.modeling.injectors import FeatureInjector, QueryInjector
from cmpf.modeling.layers import (
    MLP,
    AttentionLayer,
    FeedForwardLayer,
    MultiheadAttention,
    conv_norm,
    conv_xavier,
    sine_position_encoding,
)
from cmpf.types import ClassEmbeddings


def test_agrees_with_torch_under_the_same_parameter_names() -> None:
    own = fill_by_name(MultiheadAttention(dim=12, heads=3))
    reference = nn.MultiheadAttention(12, 3, batch_first=True)
    reference.load_state_dict(own.state_dict())
    query, key, value = random("q", 2, 4, 12), random("k", 2, 7, 12), random("v", 2, 7, 12)
    attend = random("mask", 2, 4, 7) > 0
    attend[..., 0] = True
    expected, _ = reference(
        query, key, value, attn_mask=~attend.repeat_interleave(3, dim=0), need_weights=False
    )
    torch.testing.assert_close(own(query, key, value, attend), expected)
    expected, _ = reference(query, key, value, need_weights=False)
    torch.testing.assert_close(own(query, key, value), expected)


def test_what_a_query_may_not_read_has_no_influence() -> None:
    attention = fill_by_name(MultiheadAttention(dim=8, heads=2))
    query, tokens = random("q", 1, 2, 8), random("k", 1, 3, 8)
    attend = torch.tensor([[[True, False, True], [True, True, True]]])
    changed = tokens.clone()
    changed[0, 1] += 5.0
    before, after = attention(query, tokens, tokens, attend), attention(query, changed, changed, attend)
    torch.testing.assert_close(before[0, 0], after[0, 0])
    assert (before[0, 1] - after[0, 1]).abs().max() > 0.1


def test_a_width_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="width 10 with 4 heads"):
        MultiheadAttention(dim=10, heads=4)


def test_attention_positions_reach_queries_only() -> None:
    layer = fill_by_name(AttentionLayer(dim=8, heads=2))
    x, positions = random("x", 2, 3, 8), random("p", 1, 3, 8)
    keys, values = random("k", 2, 5, 8), random("v", 2, 5, 8)
    expected = layer.norm(x + layer.attention(x + positions, keys, values))
    torch.testing.assert_close(layer(x, positions_BQD=positions, keys_BLD=keys, values_BLD=values), expected)


def test_feed_forward_normalizes_after_the_residual() -> None:
    layer = FeedForwardLayer(dim=2, hidden_dim=3)
    with torch.no_grad():
        layer.linear2.weight.zero_()
        layer.linear2.bias.copy_(torch.tensor([1.0, 1.0]))
    # Residual: [1, 5] + [1, 1] = [2, 6]; mean 4, deviation 2 -> [-1, 1].
    torch.testing.assert_close(layer(torch.tensor([[[1.0, 5.0]]])), torch.tensor([[[-1.0, 1.0]]]))


def test_mlp_has_no_relu_at_its_end() -> None:
    mlp = fill_by_name(MLP(dims=(4, 6, 6, 3)))
    x = random("x", 2, 4)
    hidden = F.relu(mlp.layers[1](F.relu(mlp.layers[0](x))))
    torch.testing.assert_close(mlp(x), mlp.layers[2](hidden))
    assert (mlp(x) < 0).any()


def test_a_convolution_starts_xavier_uniform_with_zero_bias() -> None:
    conv = conv_xavier(64, 32, kernel=3)
    bound = math.sqrt(6 / (9 * (64 + 32)))
    assert conv.weight.abs().max() <= bound
    assert conv.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert conv.bias is not None
    assert conv.bias.abs().max() == 0


def test_stride_two_halves_the_map_and_the_bias_is_optional() -> None:
    block = conv_norm(3, 8, kernel=3, stride=2, groups=4, bias=False)
    assert block(random("x", 1, 3, 10, 13)).shape == (1, 8, 5, 7)
    assert block[0].bias is None


def test_groups_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(ConfigError, match="10 channels in 4 groups"):
        conv_norm(3, 10, kernel=1, groups=4)


def test_agrees_with_a_loop_over_channels() -> None:
    height, width, channels = 3, 5, 12
    encoded = sine_position_encoding(height, width, channels, device="cpu", dtype=torch.float32)
    for row in range(height):
        for column in range(width):
            y = (row + 1) / (height + 1e-6) * 2 * math.pi
            x = (column + 1) / (width + 1e-6) * 2 * math.pi
            expected = []
            for angle in (y, x):  # y first
                for pair in range(channels // 4):
                    frequency = 10000 ** (2 * pair / (channels // 2))
                    expected += [math.sin(angle / frequency), math.cos(angle / frequency)]
            torch.testing.assert_close(encoded[0, :, row, column], torch.tensor(expected), atol=1e-5, rtol=0)


def test_the_last_row_and_column_complete_the_circle() -> None:
    encoded = sine_position_encoding(4, 4, 4, device="cpu", dtype=torch.float32)
    # Row 4 of 4: angle 2 pi, sine 0, cosine 1; row 2 of 4: angle pi, sine 0, cosine -1.
    torch.testing.assert_close(encoded[0, :2, 3, 0], torch.tensor([0.0, 1.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded[0, :2, 1, 0], torch.tensor([0.0, -1.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded[0, 2:, 0, 3], torch.tensor([0.0, 1.0]), atol=1e-5, rtol=0)


def test_the_wanted_precision_is_returned() -> None:
    encoded = sine_position_encoding(2, 3, 8, device="cpu", dtype=torch.float64)
    assert encoded.dtype == torch.float64
    assert encoded.shape == (1, 8, 2, 3)


def test_channels_that_cannot_be_shared_between_axes_are_refused() -> None:
    with pytest.raises(ConfigError, match="6 channels: use a multiple of 4"):
        sine_position_encoding(2, 2, 6, device="cpu", dtype=torch.float32)


def test_a_class_counts_as_its_best_synonym() -> None:
    matrix = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    embeddings = ClassEmbeddings(matrix=matrix, class_of_row=torch.tensor([0, 0, 1]), num_classes=2)
    # (0, 3) normalized is (0, 1). Class 0: max(0, 1) = 1; class 1: 0.8. Times 10.
    logits = class_logits(torch.tensor([[[0.0, 3.0]]]), embeddings, 10.0)
    torch.testing.assert_close(logits, torch.tensor([[[10.0, 8.0]]]))


def test_a_negative_similarity_survives_the_maximum() -> None:
    embeddings = ClassEmbeddings(
        matrix=torch.tensor([[1.0, 0.0], [0.8, 0.6]]), class_of_row=torch.tensor([0, 0]), num_classes=1
    )
    logits = class_logits(torch.tensor([[[-1.0, 0.0]]]), embeddings, 1.0)
    torch.testing.assert_close(logits, torch.tensor([[[-0.8]]]))


def test_1203_classes_agree_with_a_loop_over_classes() -> None:
    synonyms = torch.randint(1, 8, (1203,), generator=generator("synonyms")).tolist()
    embeddings = class_embeddings(*synonyms, width=16)
    x = random("x", 2, 3, 16)
    torch.testing.assert_close(class_logits(x, embeddings, 20.0), published.class_logits(x, embeddings, 20.0))


def test_one_synonym_a_class_needs_no_maximum_and_agrees() -> None:
    embeddings, x = class_embeddings(1, 1, 1, 1), random("x", 2, 3, 6)
    torch.testing.assert_close(class_logits(x, embeddings, 5.0), published.class_logits(x, embeddings, 5.0))


def test_the_order_of_synonyms_inside_a_class_changes_nothing() -> None:
    embeddings, x = class_embeddings(3, 1, 2), random("x", 1, 4, 6)
    order = torch.tensor([2, 0, 1, 3, 5, 4])
    shuffled = ClassEmbeddings(
        matrix=embeddings.matrix[order], class_of_row=embeddings.class_of_row, num_classes=3
    )
    torch.testing.assert_close(class_logits(x, shuffled, 7.0), class_logits(x, embeddings, 7.0))


def test_gradients_reach_the_embedding_the_scale_and_the_best_synonym_only() -> None:
    embeddings, x = class_embeddings(3, 2), random("x", 1, 1, 6).requires_grad_()
    matrix, scale = embeddings.matrix.requires_grad_(), torch.tensor(4.0, requires_grad=True)
    class_logits(x, embeddings, scale).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0
    assert scale.grad is not None
    assert scale.grad.abs() > 0
    assert matrix.grad is not None
    assert (matrix.grad.abs().sum(dim=-1) > 0).sum() == 2  # one synonym a class


def test_autocast_keeps_the_logits_in_full_precision() -> None:
    embeddings, x = class_embeddings(3, 2), random("x", 1, 4, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = class_logits(x, embeddings, 100.0)
    torch.testing.assert_close(logits, published.class_logits(x, embeddings, 100.0))


def test_a_mask_is_the_product_of_its_embedding_with_every_pixel() -> None:
    features = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])[None]  # 2 channels, 1 x 2 pixels
    masks = MaskFeatures(features).masks(torch.tensor([[[1.0, -1.0]]]))
    # Pixel 1: 1 - 3 = -2; pixel 2: 2 - 4 = -2.
    torch.testing.assert_close(masks, torch.tensor([[[[-2.0, -2.0]]]]))


def test_masks_at_another_size_equal_the_resized_masks_and_carry_no_gradient() -> None:
    features, embedding = random("f", 2, 6, 12, 20).requires_grad_(), random("e", 2, 3, 6).requires_grad_()
    mask_features = MaskFeatures(features)
    for size in ((3, 5), (7, 9), (16, 16)):
        expected = F.interpolate(
            mask_features.masks(embedding), size=size, mode="bilinear", align_corners=False
        )
        small = mask_features.masks_at(embedding, size)
        torch.testing.assert_close(small, expected.detach(), atol=1e-5, rtol=1e-5)
        assert not small.requires_grad


def head() -> PredictionHead:
    return fill_by_name(PredictionHead(dim=8, mask_dim=12, embed_dim=6))


def test_class_logits_come_from_the_query_plus_what_its_mask_covers() -> None:
    module, queries, features = head(), random("q", 2, 3, 8), random("f", 2, 12, 5, 7)
    embeddings = class_embeddings(2, 1, 3)
    normalized, embedding = module(queries)
    output = module.predict(normalized, embedding, MaskFeatures(features), embeddings)
    masks = torch.einsum("bqc,bchw->bqhw", module.mask_mlp(module.norm(queries)), features)
    covered = module.pool_projection(mask_pooling(features, masks))
    expected = class_logits(module.class_mlp(module.norm(queries) + covered), embeddings, math.exp(2.0))
    torch.testing.assert_close(output["pred_masks"], masks)
    torch.testing.assert_close(output["pred_logits"], expected)


def test_the_scale_starts_at_its_inverse_temperature_and_stops_at_one_hundred() -> None:
    module = PredictionHead(dim=8, mask_dim=12, embed_dim=6)
    torch.testing.assert_close(module.logit_scale.exp(), torch.tensor(1 / 0.07))
    features, queries, embeddings = (
        MaskFeatures(random("f", 1, 12, 4, 4)),
        random("q", 1, 2, 8),
        class_embeddings(1, 1),
    )
    module.logit_scale.data.fill_(math.log(100))
    at_limit = module.predict(*module(queries), features, embeddings)["pred_logits"]
    module.logit_scale.data.fill_(9.0)
    torch.testing.assert_close(
        module.predict(*module(queries), features, embeddings)["pred_logits"], at_limit
    )


def test_a_query_with_an_empty_mask_has_finite_logits() -> None:
    module, queries = head(), random("q", 1, 2, 8)
    normalized, embedding = module(queries)
    output = module.predict(
        normalized, embedding, MaskFeatures(torch.zeros(1, 12, 4, 4)), class_embeddings(1, 2)
    )
    assert output["pred_logits"].isfinite().all()


CLIP, POSITIONS = random("clip", 2, 6, 8), random("positions", 1, 6, 8)
SAM, LEVEL = random("sam", 2, 8, 2, 3), random("level", 8)


def injector(*, in_channels: int = 8, keep_positions: bool = False) -> FeatureInjector:
    module = FeatureInjector(dim=8, heads=2, in_channels=in_channels, keep_positions=keep_positions)
    return fill_by_name(module)


def test_clip_tokens_attend_to_sam_tokens_with_positions_on_queries_and_keys() -> None:
    module = injector()
    reference = nn.MultiheadAttention(8, 2, batch_first=True)
    reference.load_state_dict(module.attention.attention.state_dict())
    tokens = SAM.flatten(2).transpose(1, 2) + LEVEL
    attended, _ = reference(CLIP + POSITIONS, tokens + POSITIONS, tokens, need_weights=False)
    keys, values = module(CLIP, POSITIONS, SAM, LEVEL)
    torch.testing.assert_close(values, module.attention.norm(CLIP + attended))
    torch.testing.assert_close(keys, values)


def test_keys_carry_positions_when_they_are_kept() -> None:
    keys, values = injector(keep_positions=True)(CLIP, POSITIONS, SAM, LEVEL)
    torch.testing.assert_close(keys, values + POSITIONS)
    torch.testing.assert_close(values, injector()(CLIP, POSITIONS, SAM, LEVEL)[1])


def test_other_widths_are_projected_and_equal_widths_are_not() -> None:
    assert isinstance(injector().input_projection, nn.Identity)
    module, sam = injector(in_channels=5), random("sam5", 2, 5, 2, 3)
    projected = module.input_projection(sam)
    assert projected.shape == (2, 8, 2, 3)
    same_width = injector()
    torch.testing.assert_close(
        module(CLIP, POSITIONS, sam, LEVEL)[1], same_width(CLIP, POSITIONS, projected, LEVEL)[1]
    )


def test_a_query_receives_the_mean_of_sam_inside_its_mask() -> None:
    injector = QueryInjector(projection=nn.Identity(), in_channels=1, dim=1)
    sam = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2)
    masks = torch.tensor([[[1.0, 1.0], [-1.0, -1.0]], [[-1.0, -1.0], [-1.0, 9.0]]]).view(1, 2, 2, 2)
    # First mask covers 1 and 2, mean 1.5; the second covers 4.
    queries = torch.tensor([[[10.0], [20.0]]])
    torch.testing.assert_close(injector(queries, masks, sam), torch.tensor([[[11.5], [24.0]]]))


def test_an_empty_mask_adds_the_projection_of_zeros() -> None:
    projection = fill_by_name(nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4)))
    injector = QueryInjector(projection=projection, in_channels=4, dim=4)
    queries = random("q", 1, 2, 4)
    injected = injector(queries, torch.full((1, 2, 3, 3), -1.0), random("sam", 1, 4, 3, 3))
    torch.testing.assert_close(injected, queries + projection(torch.zeros(4)))


def test_masks_of_another_size_are_resized_to_the_embedding() -> None:
    injector = QueryInjector(projection=nn.Identity(), in_channels=4, dim=4)
    queries, sam, masks = random("q", 1, 2, 4), random("sam", 1, 4, 6, 6), random("m", 1, 2, 5, 7)
    resized = nn.functional.interpolate(masks, size=(6, 6), mode="bilinear", align_corners=False)
    torch.testing.assert_close(injector(queries, masks, sam), injector(queries, resized, sam))


def test_other_widths_are_brought_to_the_projection_by_a_convolution() -> None:
    injector = QueryInjector(projection=nn.Identity(), in_channels=6, dim=4)
    assert injector(random("q", 1, 2, 4), random("m", 1, 2, 5, 5), random("sam", 1, 6, 5, 5)).shape == (
        1,
        2,
        4,
    )
    assert [name for name, _ in injector.named_parameters()] == [
        "input_projection.weight",
        "input_projection.bias",
    ]


def test_the_shared_projection_is_named_once_in_a_state_dict() -> None:
    injector = QueryInjector(projection=nn.Linear(4, 4), in_channels=4, dim=4)
    assert injector.state_dict() == {}


def test_masks_receive_no_gradient() -> None:
    injector = QueryInjector(projection=nn.Linear(4, 4), in_channels=4, dim=4)
    queries, masks = random("q", 1, 2, 4).requires_grad_(), random("m", 1, 2, 5, 5).requires_grad_()
    injector(queries, masks, random("sam", 1, 4, 5, 5)).sum().backward()
    assert masks.grad is None
    assert queries.grad is not None
