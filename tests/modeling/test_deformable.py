# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Deformable attention and the encoder made of it."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from helpers.modeling import fill_by_name, random
from torch import Tensor

from cmpf.errors import ConfigError
from cmpf.modeling.deformable import ops, triton
from cmpf.modeling.deformable.encoder import DeformableEncoder, pixel_centers
from cmpf.modeling.deformable.module import (
    MultiScaleDeformableAttention,
    choose_deformable_attention,
)
from cmpf.modeling.deformable.ops import (
    AttentionFunction,
    deformable_attention,
    embedding_attention,
    gather_attention,
    grid_sample_attention,
)
from cmpf.modeling.layers import sine_position_encoding, softmax_of_few
from cmpf.modeling.pixel_decoder import PixelDecoder
from cmpf.modeling.sam_branch import SAMBranch

SHAPES = [(2, 3), (4, 6), (5, 7)]


def read(level_hwD: Tensor, x: float, y: float) -> Tensor:
    """The value at (x, y), 0..1, between cell centers; zeros outside."""
    height, width, depth = level_hwD.shape
    column, row = x * width - 0.5, y * height - 0.5
    left, top = math.floor(column), math.floor(row)
    total = torch.zeros(depth, dtype=level_hwD.dtype)
    for r, row_weight in ((top, top + 1 - row), (top + 1, row - top)):
        for c, column_weight in ((left, left + 1 - column), (left + 1, column - left)):
            if 0 <= r < height and 0 <= c < width:
                total += row_weight * column_weight * level_hwD[r, c]
    return total


def naive_attention(
    value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    B, Q, M, L, P, _ = locations.shape
    D = value.shape[-1]
    result = torch.zeros(B, Q, M, D, dtype=value.dtype)
    for b, q, m, level, p in torch.cartesian_prod(*(torch.arange(n) for n in (B, Q, M, L, P))).tolist():
        start = sum(h * w for h, w in shapes[:level])
        h, w = shapes[level]
        level_map = value[b, start : start + h * w, m].view(h, w, D)
        x, y = locations[b, q, m, level, p].tolist()
        result[b, q, m] += weights[b, q, m, level, p] * read(level_map, x, y)
    return result.flatten(2)


def inputs(
    shapes: list[tuple[int, int]], *, queries: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    places = sum(h * w for h, w in shapes)
    value = random("value", 2, places, 2, 3).to(dtype)
    # Uniform over -0.2..1.2, so that some samples fall outside.
    locations = (
        torch.rand(2, queries, 2, len(shapes), 2, 2, generator=torch.Generator().manual_seed(0)) * 1.4 - 0.2
    )
    weights = (
        random("weights", 2, queries, 2, len(shapes) * 2).softmax(-1).view(2, queries, 2, len(shapes), 2)
    )
    return value, locations.to(dtype), weights.to(dtype)


@pytest.mark.parametrize("attention", [gather_attention, grid_sample_attention, embedding_attention])
def test_agrees_with_a_loop_over_every_sample(attention: AttentionFunction) -> None:
    value, locations, weights = inputs(SHAPES, queries=5, dtype=torch.float64)
    expected = naive_attention(value, SHAPES, locations, weights)
    torch.testing.assert_close(attention(value, SHAPES, locations, weights), expected)


@pytest.mark.parametrize("attention", [gather_attention, grid_sample_attention, embedding_attention])
def test_a_cell_center_reads_that_cell(attention: AttentionFunction) -> None:
    value = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)  # [[1, 2], [3, 4]]
    # Center of the upper right cell; the middle of all four: (1 + 2 + 3 + 4) / 4 = 2.5; far outside.
    places = torch.tensor([[0.75, 0.25], [0.5, 0.5], [3.0, 0.5]]).view(1, 3, 1, 1, 1, 2)
    read_values = attention(value, [(2, 2)], places, torch.ones(1, 3, 1, 1, 1))
    torch.testing.assert_close(read_values.flatten(), torch.tensor([2.0, 2.5, 0.0]))


def test_gradients_agree_with_finite_differences() -> None:
    shapes = [(2, 3), (3, 2)]
    tensors = [t.requires_grad_() for t in inputs(shapes, queries=3, dtype=torch.float64)]
    assert torch.autograd.gradcheck(lambda v, p, w: deformable_attention(v, shapes, p, w), tensors)


def references(queries: int) -> Tensor:
    return torch.rand(1, queries, 2, generator=torch.Generator().manual_seed(1))


def test_the_module_adds_offsets_in_cells_to_the_reference_points() -> None:
    attention = fill_by_name(MultiScaleDeformableAttention(dim=8, heads=2, points=2, levels=3)).double()
    query, value = random("query", 2, 4, 8).double(), random("tokens", 2, 65, 8).double()
    points, sizes = references(4).double(), torch.tensor([[w, h] for h, w in SHAPES]).double()
    offsets = attention.sampling_offsets(query).view(2, 4, 2, 3, 2, 2)
    weights = attention.attention_weights(query).view(2, 4, 2, 6).softmax(-1).view(2, 4, 2, 3, 2)
    locations = points.view(1, 4, 1, 1, 1, 2) + offsets / sizes.view(3, 1, 2)
    heads = attention.value_projection(value).view(2, 65, 2, 4)
    expected = attention.output_projection(naive_attention(heads, SHAPES, locations, weights))
    torch.testing.assert_close(attention(query, points, value, SHAPES, sizes), expected)


def test_flat_levels_follow_the_addressing_of_the_published_kernel() -> None:
    """The kernel's walk, literally: flat arrays of three levels, read with the stride of one level."""
    heads, points, shape = 2, 2, (3, 4)
    attention = MultiScaleDeformableAttention(dim=8, heads=heads, points=points, levels=1, flat_levels=3)
    attention = fill_by_name(attention).double()
    S = shape[0] * shape[1]
    query, value = random("query", 2, S, 8).double(), random("tokens", 2, S, 8).double()
    points_in, sizes = references(S).double(), torch.tensor([[shape[1], shape[0]]]).double()
    result = attention(query, points_in, value, [shape], sizes)
    for b in range(2):  # image by image
        offsets = attention.sampling_offsets(query[b]).view(S, heads, 3, points, 2)
        flat_places = (points_in[0].view(S, 1, 1, 1, 2) + offsets / sizes.view(2)).reshape(-1, 2)
        flat_weights = attention.attention_weights(query[b]).view(S, heads, 6).softmax(-1).reshape(-1)
        heads_value = attention.value_projection(value[b]).view(*shape, heads, 4)
        walked = torch.zeros(S * heads, 4, dtype=torch.float64)
        for output in range(S * heads):
            for point in range(points):
                flat = output * points + point
                x, y = flat_places[flat].tolist()
                walked[output] += flat_weights[flat] * read(heads_value[:, :, output % heads], x, y)
        torch.testing.assert_close(result[b], attention.output_projection(walked.view(S, 8)))


def test_flat_levels_keep_images_of_a_batch_apart() -> None:
    attention = fill_by_name(MultiScaleDeformableAttention(dim=8, heads=2, points=2, levels=1, flat_levels=3))
    x, points, sizes = random("x", 2, 10, 8), references(10), torch.tensor([[5.0, 2.0]])
    both = attention(x, points, x, [(2, 5)], sizes)
    alone = attention(x[1:], points, x[1:], [(2, 5)], sizes)
    torch.testing.assert_close(both[1:], alone)


def test_offsets_start_as_a_ring_and_weights_start_equal() -> None:
    attention = MultiScaleDeformableAttention(dim=8, heads=4, points=2, levels=3)
    offsets = attention.sampling_offsets.bias.view(4, 3, 2, 2)
    # Four heads point right, down, left, up; the second point is two cells away, on every level alike.
    ring = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    torch.testing.assert_close(offsets[:, 2, 0], ring, atol=1e-6, rtol=0)
    torch.testing.assert_close(offsets[:, 0, 1], 2 * ring, atol=1e-6, rtol=0)
    for parameter in (attention.sampling_offsets.weight, *attention.attention_weights.parameters()):
        assert parameter.abs().max() == 0


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="width 10 with 4 heads"):
        MultiScaleDeformableAttention(dim=10, heads=4, points=2, levels=1)
    with pytest.raises(ConfigError, match="flat_levels=3 reads one level, not 2"):
        MultiScaleDeformableAttention(dim=8, heads=4, points=2, levels=2, flat_levels=3)


@pytest.mark.parametrize(
    ("name", "device", "problem", "kernels", "line"),
    [
        ("auto", "cpu", None, False, "INFO deformable attention: PyTorch"),
        ("torch", "cuda", None, False, "INFO deformable attention: PyTorch"),
        ("auto", "cuda", None, True, "INFO deformable attention: Triton kernels"),
        ("triton", "cuda", None, True, "INFO deformable attention: Triton kernels"),
        ("auto", "cuda", "Triton is not installed", False,
         "WARNING deformable attention: PyTorch instead of Triton kernels, because Triton is not installed"),
    ],
)  # fmt: skip
def test_the_implementation_is_chosen_by_name_and_device_and_logged_in_one_line(
    name: str, device: str, problem: str | None, kernels: bool, line: str,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(triton, "triton_issue", lambda device: problem)
    with caplog.at_level(logging.INFO, logger="cmpf"):
        chosen = choose_deformable_attention(name, torch.device(device))
    assert chosen is (triton.triton_deformable_attention if kernels else deformable_attention)
    assert [f"{r.levelname} {r.getMessage()}" for r in caplog.records] == [line]


def test_triton_that_is_asked_for_and_cannot_run_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"triton cannot run here, because .*set it to auto or torch"):
        choose_deformable_attention("triton", torch.device("cpu"))


def test_an_unknown_implementation_is_refused() -> None:
    with pytest.raises(ConfigError, match='attention "cuda": expected one of auto, torch, triton'):
        choose_deformable_attention("cuda", torch.device("cpu"))


def test_a_given_function_computes_every_attention_of_pixel_decoder_and_sam_branch() -> None:
    def zeros(value: Tensor, shapes: object, locations: Tensor, weights: Tensor) -> Tensor:
        return value.new_zeros(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])

    sizes = {"dim": 8, "heads": 2, "points": 2, "layers": 2, "dim_feedforward": 8, "norm_groups": 2}
    channels = dict.fromkeys(("res2", "res3", "res4", "res5"), 4)
    decoder = PixelDecoder(in_channels=channels, mask_dim=8, attention_function=zeros, **sizes)
    branch = SAMBranch(in_channels=4, flat_levels=3, attention_function=zeros, **sizes)
    for layer in (*decoder.encoder.layers, *branch.encoder.layers):
        with torch.no_grad():
            layer.attention.output_projection.bias.fill_(7.0)
        levels = layer.attention.levels
        x, shapes = random("x", 1, 6 * levels, 8), [(2, 3)] * levels
        result = layer.attention(x, references(6 * levels), x, shapes, torch.tensor([[3.0, 2.0]] * levels))
        torch.testing.assert_close(result, torch.full_like(x, 7.0))


def test_pixel_centers_run_row_by_row_with_x_first() -> None:
    # Width 2: centers at 1/4 and 3/4; height 1: center at 1/2.
    torch.testing.assert_close(pixel_centers(1, 2), torch.tensor([[0.25, 0.5], [0.75, 0.5]]))
    torch.testing.assert_close(pixel_centers(2, 1), torch.tensor([[0.5, 0.25], [0.5, 0.75]]))


def test_one_layer_is_attention_and_feed_forward_with_positions_on_queries_only() -> None:
    encoder = fill_by_name(
        DeformableEncoder(dim=8, heads=2, points=2, levels=2, layers=1, dim_feedforward=12)
    )
    maps = [random("a", 2, 8, 2, 3), random("b", 2, 8, 4, 6)]
    shapes = [(2, 3), (4, 6)]
    x = torch.cat([m.flatten(2) for m in maps], dim=2).transpose(1, 2)
    positions = torch.cat(
        [
            sine_position_encoding(h, w, 8, device="cpu", dtype=torch.float32).flatten(2).transpose(1, 2)
            + encoder.level_embedding[level]
            for level, (h, w) in enumerate(shapes)
        ],
        dim=1,
    )
    points = torch.cat([pixel_centers(h, w) for h, w in shapes])[None]
    layer = encoder.layers[0]
    attended = layer.attention(x + positions, points, x, shapes, torch.tensor([[3.0, 2.0], [6.0, 4.0]]))
    expected = layer.feed_forward(layer.norm(x + attended)).transpose(1, 2)
    first, second = encoder(maps)
    torch.testing.assert_close(first, expected[..., :6].reshape(2, 8, 2, 3))
    torch.testing.assert_close(second, expected[..., 6:].reshape(2, 8, 4, 6))


def test_a_batch_of_two_equals_two_batches_of_one() -> None:
    encoder = fill_by_name(
        DeformableEncoder(dim=8, heads=2, points=2, levels=1, layers=2, dim_feedforward=12)
    )
    maps = random("a", 2, 8, 3, 5)
    both = encoder([maps])[0]
    alone = torch.cat([encoder([maps[:1]])[0], encoder([maps[1:]])[0]])
    torch.testing.assert_close(both, alone)


def test_flat_levels_bring_as_many_level_embeddings() -> None:
    encoder = DeformableEncoder(
        dim=8, heads=2, points=2, levels=1, layers=1, dim_feedforward=12, flat_levels=3
    )
    assert encoder.level_embedding.shape == (3, 8)
    assert encoder([random("a", 1, 8, 3, 5)])[0].shape == (1, 8, 3, 5)


def test_recomputing_keeps_less_and_changes_no_gradient() -> None:
    kept, gradients = [], []
    for gradient_checkpointing in (False, True):
        encoder = fill_by_name(
            DeformableEncoder(
                dim=8,
                heads=2,
                points=2,
                levels=2,
                layers=3,
                dim_feedforward=32,
                gradient_checkpointing=gradient_checkpointing,
            )
        )
        maps = [random("a", 2, 8, 4, 6).requires_grad_(), random("b", 2, 8, 8, 12).requires_grad_()]
        saved: dict[int, int] = {}

        def pack(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            found = encoder(maps)
            kept.append(sum(saved.values()))
        (found[0].square().sum() + found[1].sum()).backward()
        gradients.append([*(m.grad for m in maps), *(p.grad for p in encoder.parameters())])
    assert kept[1] < kept[0] / 3
    for ours, expected in zip(gradients[1], gradients[0], strict=True):
        assert torch.equal(ours, expected)


def test_without_gradients_nothing_is_recomputed(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = DeformableEncoder(
        dim=8, heads=2, points=2, levels=1, layers=1, dim_feedforward=12, gradient_checkpointing=True
    )
    monkeypatch.setattr("cmpf.modeling.deformable.encoder.checkpoint", None)
    with torch.no_grad():
        assert encoder([random("a", 1, 8, 3, 5)])[0].shape == (1, 8, 3, 5)


def embedding_inputs(
    *, images: int = 3, queries: int = 7, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """2 heads of 4 numbers, 2 points; places uniform over -0.2..1.2."""
    value = random("value", images, 65, 2, 4)
    locations = random("locations", images, queries, 2, 3, 2, 2).sigmoid() * 1.4 - 0.2
    weights = random("weights", images, queries, 2, 6).softmax(-1).view(images, queries, 2, 3, 2)
    return value.to(dtype), locations.to(dtype), weights.to(dtype)


@pytest.mark.parametrize("points", [1, 12 * 3, 12 * 7, 12 * 16, 1 << 17])
def test_parts_of_any_size_give_the_same(points: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # A query has 2 * 3 * 2 = 12 points: one query, 3 of 7, an image, 2 of 3 images, all at a time.
    monkeypatch.setattr(ops, "MAX_POINTS", points)
    value, locations, weights = embedding_inputs()
    expected = grid_sample_attention(value, SHAPES, locations, weights)
    torch.testing.assert_close(embedding_attention(value, SHAPES, locations, weights), expected)


def test_float32_is_as_close_to_float64_as_grid_sample() -> None:
    exact = grid_sample_attention(*_arguments(embedding_inputs(queries=300)))
    tensors = _arguments(embedding_inputs(queries=300, dtype=torch.float32))
    errors = [float((f(*tensors) - exact).abs().max()) for f in (embedding_attention, grid_sample_attention)]
    assert errors[0] <= 1.5 * errors[1] < 1e-5


@pytest.mark.parametrize("attention", [gather_attention, embedding_attention])
def test_borders_corners_and_what_lies_outside_read_as_grid_sample_does(attention: AttentionFunction) -> None:
    value = random("value", 1, 6, 1, 4).double()
    axis = torch.tensor([-5.0, -0.25, -1e-9, 0.0, 1e-9, 0.1, 0.5, 0.9, 1.0, 1.0 + 1e-9, 1.25, 7.0, torch.inf])
    places = torch.cartesian_prod(axis, axis).double().view(1, -1, 1, 1, 1, 2)
    weights = torch.ones(places.shape[:-1], dtype=torch.float64)
    finite = places.clamp(-10, 10)
    expected = grid_sample_attention(value, [(2, 3)], finite, weights)
    torch.testing.assert_close(attention(value, [(2, 3)], places, weights), expected)


def test_a_place_that_is_no_number_reads_zeros_and_spoils_nothing_else() -> None:
    value, locations, weights = embedding_inputs()
    expected = embedding_attention(value, SHAPES, locations, weights)
    locations[1, 2] = torch.nan
    found = embedding_attention(value, SHAPES, locations, weights)
    assert found[1, 2].abs().max() == 0
    found[1, 2] = expected[1, 2]
    assert torch.equal(found, expected)


def test_no_queries_and_no_images_give_nothing() -> None:
    for images, queries in ((2, 0), (0, 3)):
        value, locations, weights = embedding_inputs(images=images, queries=queries)
        assert embedding_attention(value, SHAPES, locations, weights).shape == (images, queries, 8)


def test_embedding_bag_is_used_only_in_cpu_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for name in ("embedding_attention", "grid_sample_attention"):
        monkeypatch.setattr(ops, name, lambda value, *_, name=name: called.append(name) or value)
    value, locations, weights = embedding_inputs(images=1, dtype=torch.float32)
    deformable_attention(value, SHAPES, locations, weights)
    weights.requires_grad_()
    with torch.no_grad():
        deformable_attention(value, SHAPES, locations, weights)
    deformable_attention(value, SHAPES, locations, weights)
    with torch.no_grad():
        deformable_attention(value.bfloat16(), SHAPES, locations, weights)
        deformable_attention(value.to("meta"), SHAPES, locations.to("meta"), weights.to("meta"))
        monkeypatch.setattr(ops, "MAX_ROWS", 2 * ops._table_layout(tuple(SHAPES)).num_cells)
        deformable_attention(value, SHAPES, locations, weights)
    assert called == ["embedding_attention"] * 2 + ["grid_sample_attention"] * 4


def test_what_a_prediction_made_serves_training_too() -> None:
    ops._level_constants.cache_clear()
    value, locations, weights = embedding_inputs()
    with torch.inference_mode():
        deformable_attention(value, SHAPES, locations, weights)
    assert not any(
        tensor.is_inference() for tensor in ops._level_constants(tuple(SHAPES), 2, 2, torch.float64)
    )


def test_softmax_of_few_numbers_is_the_softmax() -> None:
    x = random("x", 3, 5, 2, 12).double().requires_grad_()
    direction = random("direction", 3, 5, 2, 12).double()
    found, expected = softmax_of_few(x), x.softmax(-1)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((y * direction).sum(), x)[0] for y in (found, expected)]
    torch.testing.assert_close(*gradients)


def _arguments(
    tensors: tuple[Tensor, Tensor, Tensor],
) -> tuple[Tensor, list[tuple[int, int]], Tensor, Tensor]:
    return tensors[0], SHAPES, tensors[1], tensors[2]
