# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Tests of the transformer decoder against a plain reading of the method, one image at a time."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.modeling import (
    class_embeddings,
    clip_levels,
    random,
    tiny_decoder,
    tiny_pixel_decoder,
    tiny_sam_branch,
)
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.common.tensors import mask_pooling
from cmpf.errors import ConfigError
from cmpf.modeling.heads import class_logits
from cmpf.modeling.injectors import FeatureInjector, QueryInjector
from cmpf.modeling.layers import MultiheadAttention, sine_position_encoding
from cmpf.modeling.pixel_decoder import PixelDecoder
from cmpf.modeling.sam_branch import SAMBranch
from cmpf.modeling.transformer_decoder import TransformerDecoder, attention_mask
from cmpf.types import ClassEmbeddings, DecoderOutput

CLASSES = class_embeddings(2, 1, 3, 1)
SIZES = [(2, 3), (4, 6), (8, 12)]


def decoder_inputs(batch: int = 2) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Multi-scale maps of a 64 x 96 image, mask features, SAM's embedding and features."""
    maps = [random(f"map{index}", batch, 16, *size) for index, size in enumerate(SIZES)]
    return (
        maps,
        random("mask", batch, 16, 16, 24),
        random("sam", batch, 10, 6, 6),
        random("f", batch, 16, 3, 3),
    )


def run(decoder: TransformerDecoder, inputs: tuple[list[Tensor], Tensor, Tensor, Tensor]) -> DecoderOutput:
    maps, mask_features, sam, features = inputs
    output: DecoderOutput = decoder(
        maps, mask_features, CLASSES, sam_embedding=sam, sam_features=features, aux=True
    )
    return output


def attend(
    own: MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, blocked: Tensor | None
) -> Tensor:
    """torch's own multi-head attention with our weights; (L, D) tensors."""
    reference = nn.MultiheadAttention(query.shape[-1], own.heads)
    reference.load_state_dict(own.state_dict())
    result: Tensor = reference(query, key, value, attn_mask=blocked, need_weights=False)[0]
    return result


def naive_decoder(
    decoder: TransformerDecoder,
    maps: list[Tensor],
    mask_features: Tensor,
    sam: Tensor | None,
    sam_features: Tensor | None,
    proposals: Tensor | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """(class logits, mask logits) of every head for one image, in the words of the paper; proposals (P, h, w)."""

    def positions(size: tuple[int, int]) -> Tensor:
        return sine_position_encoding(*size, 16, device="cpu", dtype=torch.float32)[0].flatten(1).T

    def predict(queries: Tensor) -> tuple[Tensor, Tensor]:
        normal = decoder.head.norm(queries)
        masks = torch.einsum("qc,chw->qhw", decoder.head.mask_mlp(normal), mask_features)
        if proposals is not None and decoder.proposal_queries is not None:
            prior = decoder.proposal_queries.scale * proposals.clamp(-4, 4)
            masks = torch.cat([masks[:5], masks[5:] + prior])  # after the five learned queries
        covered = decoder.head.pool_projection(mask_pooling(mask_features[None], masks[None]))[0]
        embedding = decoder.head.class_mlp(normal + covered)
        scale = decoder.head.logit_scale.exp().clamp(max=100)
        return class_logits(embedding[None], CLASSES, scale)[0], masks

    queries, query_positions = decoder.query_content.weight, decoder.query_position.weight
    if proposals is not None and decoder.proposal_queries is not None:
        places = positions((16, 24))
        for proposal in proposals:
            inside = proposal.flatten() > 0
            content, position = decoder.proposal_queries.without_proposal, torch.zeros(16)
            if inside.any():
                covered = mask_features.flatten(1)[:, inside].mean(dim=1)
                content, position = decoder.proposal_queries.projection(covered), places[inside].mean(dim=0)
            queries = torch.cat([queries, content[None]])
            query_positions = torch.cat([query_positions, position[None]])
    heads = [predict(queries)]
    for index, layer in enumerate(decoder.layers):
        level = index % 3
        size = SIZES[level]
        tokens = maps[level].flatten(1).T + decoder.level_embedding.weight[level]
        keys, values = tokens + positions(size), tokens
        if level == decoder.feature_injector_level and sam_features is not None:
            resized = F.interpolate(sam_features[None], size=size, mode="bilinear", align_corners=False)[0]
            sam_tokens = resized.flatten(1).T + decoder.level_embedding.weight[level]
            block = decoder.feature_injectors[str(index)].attention
            read = attend(block.attention, keys, sam_tokens + positions(size), sam_tokens, None)
            keys = values = block.norm(tokens + read)
        looks_at = heads[-1][1]
        if index == 0 and proposals is not None:
            looks_at = torch.cat([looks_at[:5], proposals])
        masks = F.interpolate(looks_at[None], size=size, mode="bilinear", align_corners=False)[0]
        blocked = masks.flatten(1).sigmoid() < 0.5
        blocked[blocked.all(dim=-1)] = False
        x = layer.cross_attention
        queries = x.norm(queries + attend(x.attention, queries + query_positions, keys, values, blocked))
        x = layer.self_attention
        keyed = queries + query_positions
        queries = layer.feed_forward(x.norm(queries + attend(x.attention, keyed, keyed, queries, None)))
        heads.append(predict(queries))
        if level == decoder.query_injector_level and sam is not None and decoder.query_injector is not None:
            projected = decoder.query_injector.input_projection(sam[None])
            pooled = mask_pooling(projected, heads[-1][1][None])[0]
            queries = queries + decoder.head.pool_projection(pooled)
    return heads


@pytest.mark.parametrize(
    ("query_injector", "feature_injector", "levels"),
    [
        (True, True, (2, 0)),
        (True, False, (2, 0)),
        (False, True, (2, 0)),
        (False, False, (2, 0)),
        (True, True, (0, 1)),
        (True, True, (1, 2)),
    ],
)
def test_agrees_with_the_method_written_plainly(
    query_injector: bool, feature_injector: bool, levels: tuple[int, int]
) -> None:
    decoder = tiny_decoder(
        query_injector=QueryInjector if query_injector else None,
        feature_injector=FeatureInjector if feature_injector else None,
        query_injector_level=levels[0],
        feature_injector_level=levels[1],
        layers=7,
    )
    maps, mask_features, sam, features = decoder_inputs()
    output = run(decoder, (maps, mask_features, sam, features))
    for image in range(2):
        heads = naive_decoder(
            decoder,
            [m[image] for m in maps],
            mask_features[image],
            sam[image] if query_injector else None,
            features[image] if feature_injector else None,
        )
        for got, (logits, masks) in zip([*output["aux_outputs"], output], heads, strict=True):
            torch.testing.assert_close(got["pred_masks"][image], masks, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(got["pred_logits"][image], logits, atol=1e-4, rtol=1e-4)


def proposals() -> Tensor:
    """Two images of three proposals (2, 3, 16, 24); the second image has one, the other two are zeros."""
    maps = 6 * random("proposals", 2, 3, 16, 24)
    maps[1, 1:] = 0
    return maps


def test_queries_that_start_at_masks_of_sam_agree_with_the_method_written_plainly() -> None:
    decoder = tiny_decoder(num_proposals=3, query_injector=None, feature_injector=None)
    maps, mask_features, _, _ = decoder_inputs()
    output = decoder(maps, mask_features, CLASSES, proposals=proposals(), aux=True)
    assert output["pred_masks"].shape == (2, 8, 16, 24)
    assert decoder.num_queries == 8
    for image in range(2):
        ours = [m[image] for m in maps]
        heads = naive_decoder(decoder, ours, mask_features[image], None, None, proposals()[image])
        for got, (logits, masks) in zip([*output["aux_outputs"], output], heads, strict=True):
            torch.testing.assert_close(got["pred_masks"][image], masks, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(got["pred_logits"][image], logits, atol=1e-4, rtol=1e-4)


def test_queries_that_start_at_masks_of_sam_need_them() -> None:
    decoder = tiny_decoder(num_proposals=3, query_injector=None, feature_injector=None)
    assert decoder.uses_sam
    maps, mask_features, _, _ = decoder_inputs()
    with pytest.raises(ConfigError, match=r"PROPOSAL_QUERIES.*proposals is None: pass them or switch it off"):
        decoder(maps, mask_features, CLASSES)


def test_all_that_proposals_bring_is_trained() -> None:
    decoder = tiny_decoder(num_proposals=3, query_injector=None, feature_injector=None).train()
    maps, mask_features, _, _ = decoder_inputs()
    output = decoder(maps, mask_features, CLASSES, proposals=proposals())
    (output["pred_logits"].log_softmax(-1)[..., 0].sum() + output["pred_masks"].sigmoid().sum()).backward()
    assert decoder.proposal_queries is not None
    for name, parameter in decoder.proposal_queries.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_attention_is_blocked_where_the_mask_is_negative() -> None:
    masks = torch.tensor([[[[0.3, -0.2], [-4.0, 0.0]], [[-1.0, -1.0], [-0.1, -9.0]]]])  # two queries, 2 x 2
    # Query 1: sigmoid 0.57, 0.45, 0.02, 0.50, reads places 1 and 4. Query 2: blocked everywhere, reads all.
    expected = torch.tensor([[[True, False, False, True], [True, True, True, True]]])
    assert torch.equal(attention_mask(masks), expected)


def test_a_batch_of_two_equals_two_batches_of_one() -> None:
    decoder, inputs = tiny_decoder(), decoder_inputs()
    both = run(decoder, inputs)
    maps, mask_features, sam, features = inputs
    for image in range(2):
        one = slice(image, image + 1)
        alone = run(decoder, ([m[one] for m in maps], mask_features[one], sam[one], features[one]))
        torch.testing.assert_close(both["pred_masks"][one], alone["pred_masks"], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(both["pred_logits"][one], alone["pred_logits"], atol=1e-4, rtol=1e-4)


def test_without_injectors_sam_is_neither_needed_nor_used() -> None:
    decoder = tiny_decoder(query_injector=None, feature_injector=None)
    maps, mask_features, sam, features = decoder_inputs()
    without = decoder(maps, mask_features, CLASSES)
    given = decoder(maps, mask_features, CLASSES, sam_embedding=sam, sam_features=features)
    assert not decoder.uses_sam
    assert torch.equal(without["pred_logits"], given["pred_logits"])
    assert tiny_decoder(feature_injector=None).uses_sam
    assert tiny_decoder(query_injector=None).uses_sam


def test_an_injector_without_its_input_is_an_error() -> None:
    maps, mask_features, sam, features = decoder_inputs()
    with pytest.raises(ConfigError, match="Query Injector is on but sam_embedding is None"):
        tiny_decoder()(maps, mask_features, CLASSES, sam_features=features)
    with pytest.raises(ConfigError, match="Feature Injector is on but sam_features is None"):
        tiny_decoder()(maps, mask_features, CLASSES, sam_embedding=sam)


def test_earlier_heads_predict_in_training_or_on_request_only() -> None:
    decoder, (maps, mask_features, sam, features) = tiny_decoder(), decoder_inputs()
    options = {"sam_embedding": sam, "sam_features": features}
    plain = decoder(maps, mask_features, CLASSES, **options)
    asked = decoder(maps, mask_features, CLASSES, **options, aux=True)
    assert plain["aux_outputs"] == []
    assert len(asked["aux_outputs"]) == 4
    torch.testing.assert_close(plain["pred_logits"], asked["pred_logits"], atol=1e-5, rtol=1e-5)
    trained = decoder.train()(maps, mask_features, CLASSES, **options)
    assert len(trained["aux_outputs"]) == 4
    torch.testing.assert_close(trained["pred_masks"], plain["pred_masks"], atol=1e-5, rtol=1e-5)


def test_query_injection_waits_for_the_layer_after_the_stride_eight_level() -> None:
    inputs = decoder_inputs()
    maps, mask_features, sam, features = inputs
    other = (maps, mask_features, sam + 3 * random("other", *sam.shape), features)
    three = tiny_decoder(layers=3, feature_injector=None)
    assert torch.equal(run(three, inputs)["pred_masks"], run(three, other)["pred_masks"])
    four = tiny_decoder(layers=4, feature_injector=None)
    before, after = run(four, inputs), run(four, other)
    torch.testing.assert_close(before["aux_outputs"][3], after["aux_outputs"][3])
    assert not torch.allclose(before["pred_masks"], after["pred_masks"])


def test_feature_injection_happens_at_every_third_layer() -> None:
    assert list(tiny_decoder(layers=9).feature_injectors) == ["0", "3", "6"]
    assert list(tiny_decoder(layers=3).feature_injectors) == ["0"]
    assert list(tiny_decoder(layers=9, feature_injector_level=1).feature_injectors) == ["1", "4", "7"]
    assert list(tiny_decoder(layers=9, feature_injector_level=2).feature_injectors) == ["2", "5", "8"]
    assert len(tiny_decoder(feature_injector=None).feature_injectors) == 0


def test_kept_positions_change_the_masks() -> None:
    inputs = decoder_inputs()
    dropped, kept = run(tiny_decoder(), inputs), run(tiny_decoder(keep_positions=True), inputs)
    torch.testing.assert_close(dropped["aux_outputs"][0], kept["aux_outputs"][0])
    assert not torch.allclose(dropped["pred_masks"], kept["pred_masks"])


def test_maps_of_another_width_are_projected() -> None:
    decoder, (maps, mask_features, sam, features) = tiny_decoder(in_channels=12), decoder_inputs()
    narrow = [m[:, :12] for m in maps]
    assert run(decoder, (narrow, mask_features, sam, features))["pred_masks"].shape == (2, 5, 16, 24)


def whole(
    batch: int, height: int, width: int, *, flat_levels: int = 0, train: bool = False
) -> tuple[nn.ModuleDict, DecoderOutput]:
    """All trained parts on random frozen features of images of height x width."""
    parts = nn.ModuleDict(
        {
            "pixel_decoder": tiny_pixel_decoder(),
            "sam_branch": tiny_sam_branch(flat_levels=flat_levels),
            "decoder": tiny_decoder(),
            "void": nn.Embedding(1, 6),
        }
    ).train(train)
    sam = random("embedding", batch, 10, 8, 8)
    pixels = parts["pixel_decoder"](clip_levels(batch, height, width))
    text: ClassEmbeddings = class_embeddings(2, 1, 3).with_void(F.normalize(parts["void"].weight, dim=-1))
    output: DecoderOutput = parts["decoder"](
        pixels.multi_scale,
        pixels.mask_features,
        text,
        sam_embedding=sam,
        sam_features=parts["sam_branch"](sam),
    )
    return parts, output


def test_sam_features_meet_maps_of_odd_sizes() -> None:
    _, output = whole(1, 320, 416)  # the stride-32 map is 10 x 13, SAM features are 4 x 4
    assert output["pred_masks"].shape == (1, 5, 80, 104)
    assert output["pred_logits"].shape == (1, 5, 4)
    assert output["pred_logits"].isfinite().all()


@pytest.mark.parametrize("flat_levels", [0, 3])
def test_every_trained_parameter_receives_a_gradient(flat_levels: int) -> None:
    parts, output = whole(2, 64, 96, flat_levels=flat_levels, train=True)
    total = torch.zeros(())
    for head in [*output["aux_outputs"], output]:
        total = total + head["pred_logits"].log_softmax(-1)[..., 0].sum() + head["pred_masks"].sigmoid().sum()
    total.backward()
    without = [name for name, p in parts.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_bfloat16_autocast_keeps_class_logits_in_float32() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = run(tiny_decoder(), decoder_inputs())
    assert output["pred_logits"].dtype == torch.float32
    assert output["pred_logits"].isfinite().all()
    assert output["pred_masks"].isfinite().all()


def test_a_copy_shares_nothing_with_the_original() -> None:
    original, inputs = tiny_decoder(), decoder_inputs()
    before = run(original, inputs)["pred_masks"]
    copied = copy.deepcopy(original)
    with torch.no_grad():
        copied.head.pool_projection[1].bias.add_(
            1.0
        )  # the Query Injector of the copy reads the copy's projection
    assert torch.equal(run(original, inputs)["pred_masks"], before)
    assert not torch.allclose(run(copied, inputs)["pred_masks"], before)


def full_size(flat_levels: int) -> nn.ModuleDict:
    """The published model's trained parts, ConvNeXt-L and SAM ViT-B, without memory behind them."""
    with torch.device("meta"):
        return nn.ModuleDict(
            {
                "pixel_decoder": PixelDecoder(
                    in_channels={"res2": 192, "res3": 384, "res4": 768, "res5": 1536},
                    dim=256,
                    mask_dim=256,
                    heads=8,
                    points=4,
                    layers=6,
                    dim_feedforward=1024,
                    norm_groups=32,
                ),
                "sam_branch": SAMBranch(
                    in_channels=256,
                    dim=256,
                    heads=8,
                    points=4,
                    layers=6,
                    dim_feedforward=1024,
                    norm_groups=32,
                    flat_levels=flat_levels,
                ),
                "decoder": TransformerDecoder(
                    in_channels=256,
                    dim=256,
                    mask_dim=256,
                    embed_dim=768,
                    queries=250,
                    heads=8,
                    layers=9,
                    dim_feedforward=2048,
                    sam_channels=256,
                    sam_feature_channels=256,
                    query_injector=QueryInjector,
                    feature_injector=FeatureInjector,
                    keep_positions=False,
                ),
                "void": nn.Embedding(1, 768),
            }
        )


def test_the_full_size_has_as_many_parameters_as_published() -> None:
    # The published state dict holds 26,497,287 trained values; 134 of them are the criterion's class weights.
    assert sum(p.numel() for p in full_size(3).parameters()) == 26_497_287 - 134
    # Single level: in 6 layers 8 heads x 2 levels x 4 points = 64 places fewer, each 2 offsets and 1 weight
    # of 256 + 1 values; and 2 level embeddings fewer.
    saved = 6 * (64 * 3) * (256 + 1) + 2 * 256
    assert sum(p.numel() for p in full_size(0).parameters()) == 26_497_287 - 134 - saved
