# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Frozen CLIP: its towers' maps, embeddings of masks and of texts."""

from __future__ import annotations

import copy
import threading
from typing import Any

import open_clip
import pytest
import torch
from helpers.encoders import CONVNEXT, RESNET, fill, open_clip_model, random_images, small_clip
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.encoders import clip as clip_module
from cmpf.encoders.clip import CLIP, encode_tokens, end_positions
from cmpf.encoders.clip_backbones import ConvNeXtBackbone, ResNetBackbone
from cmpf.errors import ModelNameError

PROMPTS = [
    "cat",
    "a photo of a very small red double-decker bus in the rain",
    "There is a dog in the scene",
    "",
]


@pytest.fixture(scope="module")
def convnext() -> CLIP:
    return small_clip()


@pytest.fixture(scope="module")
def resnet() -> CLIP:
    return small_clip(vision=RESNET)


def test_sizes_come_from_the_built_tower(convnext: CLIP, resnet: CLIP) -> None:
    # timm's test_convnext: dims 24, 32, 48, 64. ModifiedResNet of width 8: 4 * 8 * (1, 2, 4, 8).
    assert convnext.channels == {"res2": 24, "res3": 32, "res4": 48, "res5": 64}
    assert resnet.channels == {"res2": 32, "res3": 64, "res4": 128, "res5": 256}
    assert (convnext.dense_channels, resnet.dense_channels) == (64, 256)
    assert (convnext.embed_dim, resnet.embed_dim) == (24, 24)
    assert convnext.name == "clip/small"


@pytest.mark.parametrize("vision", [CONVNEXT, RESNET], ids=["convnext", "resnet"])
def test_maps_have_the_promised_strides_and_channels(vision: dict[str, object]) -> None:
    clip = small_clip(vision=vision)
    features = clip(random_images(2, 3, 64, 96))
    for level, stride in {"res2": 4, "res3": 8, "res4": 16, "res5": 32}.items():
        assert features.levels[level].shape == (2, clip.channels[level], 64 // stride, 96 // stride)
    assert features.dense.shape == (2, clip.dense_channels, 2, 3)


@pytest.mark.parametrize("vision", [CONVNEXT, RESNET], ids=["convnext", "resnet"])
def test_a_batch_of_two_equals_two_batches_of_one(vision: dict[str, object]) -> None:
    clip = small_clip(vision=vision)
    images, masks = random_images(2, 3, 64, 96), random_images(2, 5, 16, 24, name="masks")
    both = clip(images)
    embeddings, valid = clip.embed_masks(both.dense, masks)
    for index in range(2):
        one = clip(images[index : index + 1])
        torch.testing.assert_close(one.levels["res4"][0], both.levels["res4"][index], atol=1e-5, rtol=1e-4)
        alone, _ = clip.embed_masks(one.dense, masks[index : index + 1])
        torch.testing.assert_close(alone[0], embeddings[index], atol=1e-5, rtol=1e-4)
    assert valid.all()


def test_a_training_step_of_a_parent_leaves_batch_norm_statistics_alone(resnet: CLIP) -> None:
    before = copy.deepcopy(resnet.state_dict())
    resnet.train()
    resnet(random_images(1, 3, 64, 64))
    assert all(torch.equal(before[name], value) for name, value in resnet.state_dict().items())


def test_the_hash_and_names_of_weights_are_those_of_open_clip(convnext: CLIP) -> None:
    assert set(convnext.weights()) == set(open_clip_model(vision=CONVNEXT).state_dict())
    assert convnext.weights_hash == small_clip().weights_hash
    assert convnext.weights_hash != small_clip(vision={**CONVNEXT, "timm_proj": "linear"}).weights_hash


def test_the_logit_scale_is_the_exponential_of_clips_own_and_at_most_100() -> None:
    model = open_clip_model(vision=CONVNEXT)
    clip = CLIP(name="small", model=model, tokenizer=open_clip.tokenize)
    assert float(clip.logit_scale) == pytest.approx(1 / 0.07)
    model.logit_scale.data.fill_(5.0)  # exp(5) = 148.4
    assert float(clip.logit_scale) == 100.0
    model.logit_scale.data = torch.tensor([2.0])  # some models store it with one dimension
    assert clip.logit_scale.shape == ()


def test_a_mask_is_valid_when_it_has_a_positive_cell_on_the_map(convnext: CLIP) -> None:
    masks = torch.full((1, 3, 8, 8), -1.0)
    masks[0, 1, :4, :4] = 5.0
    masks[0, 2, 0, 0] = (
        0.5  # lost when 4 x 4 pixels become one cell: the bilinear resize reads the middle four
    )
    embeddings, valid = convnext.embed_masks(random_images(1, 64, 2, 2), masks)
    assert valid.tolist() == [[False, True, False]]
    assert torch.isfinite(embeddings).all()


def test_mask_embeddings_are_float32_and_the_same_under_autocast(convnext: CLIP) -> None:
    dense, masks = random_images(1, 64, 2, 3), random_images(1, 4, 8, 12, name="masks")
    expected, _ = convnext.embed_masks(dense, masks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = convnext.embed_masks(dense, masks)
        assert convnext(random_images(1, 3, 64, 64)).dense.isfinite().all()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_no_masks_give_no_embeddings(convnext: CLIP, resnet: CLIP) -> None:
    for clip in (convnext, resnet):
        dense = random_images(2, clip.dense_channels, 2, 3)
        embeddings, valid = clip.embed_masks(dense, torch.zeros(2, 0, 8, 12))
        assert embeddings.shape == (2, 0, 24)
        assert valid.shape == (2, 0)


@pytest.mark.parametrize("custom_text", [False, True])
def test_texts_equal_those_of_the_full_context_length(custom_text: bool) -> None:
    clip = small_clip(custom_text=custom_text)
    full = clip.model.encode_text(open_clip.tokenize(PROMPTS))
    torch.testing.assert_close(clip.encode_text(PROMPTS), full, atol=1e-5, rtol=1e-5)


def test_the_text_tower_runs_at_the_length_of_the_longest_prompt_of_a_batch(
    monkeypatch: pytest.MonkeyPatch, convnext: CLIP
) -> None:
    seen: list[tuple[int, ...]] = []
    original = clip_module.encode_tokens

    def recorded(model: object, tokens: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(tokens.shape))
        return original(model, tokens)

    monkeypatch.setattr(clip_module, "encode_tokens", recorded)
    monkeypatch.setattr(clip_module, "TEXT_BATCH", 2)
    prompts = ["a b c d e", "cat", "a b c", "dog"]
    found = convnext.encode_text(prompts)
    assert seen == [(2, 3), (2, 7)]  # start and end token around 1 word, and around 5
    full = convnext.model.encode_text(open_clip.tokenize(prompts))
    torch.testing.assert_close(found, full, atol=1e-5, rtol=1e-5)


def test_a_prompt_beyond_the_context_length_is_cut_and_no_prompt_is_no_row(convnext: CLIP) -> None:
    long = "word " * 200
    full = convnext.model.encode_text(open_clip.tokenize([long]))
    torch.testing.assert_close(convnext.encode_text([long]), full, atol=1e-5, rtol=1e-5)
    assert convnext.encode_text([]).shape == (0, 24)


def test_texts_are_the_same_from_several_threads_and_leave_the_tower_unchanged(convnext: CLIP) -> None:
    before = convnext.weights_hash, convnext.model.attn_mask.clone()
    expected = [convnext.encode_text(PROMPTS[:count]) for count in range(1, 5)]
    found: dict[int, torch.Tensor] = {}

    def work(index: int) -> None:
        found[index] = convnext.encode_text(PROMPTS[: 1 + index % 4])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(8):
        assert torch.equal(found[index], expected[index % 4])
    assert small_clip().weights_hash == before[0]
    assert torch.equal(convnext.model.attn_mask, before[1])


def test_texts_are_float32_under_autocast(convnext: CLIP) -> None:
    expected = convnext.encode_text(PROMPTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(convnext.encode_text(PROMPTS), expected)


def test_a_vit_tower_is_refused() -> None:
    vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
    with pytest.raises(
        ModelNameError, match="'small' has a VisionTransformer image tower; CMPF needs a ConvNeXt"
    ):
        small_clip(vision=vision)


def test_a_copy_of_clip_reads_its_own_tower(convnext: CLIP) -> None:
    images = random_images(1, 3, 64, 64)
    other = copy.deepcopy(convnext)
    for parameter in other.parameters():
        parameter.data.mul_(0.5)
    assert not torch.allclose(convnext(images).dense, other(images).dense)


@pytest.fixture(scope="module", params=["mlp", "linear"])
def convnext_tower(request: pytest.FixtureRequest) -> Any:
    return open_clip_model(vision={**CONVNEXT, "timm_proj": request.param}).visual.requires_grad_(False)


def pooled_one_by_one(convnext_tower: Any, dense: Tensor, masks: Tensor) -> Tensor:
    """Each mask alone: pool its cells, then timm's head and OpenCLIP's projection."""
    rows = []
    for random_image, queries in zip(dense, masks, strict=True):
        for query in queries:
            logits = F.interpolate(
                query[None, None], size=random_image.shape[-2:], mode="bilinear", align_corners=False
            )
            inside = logits[0, 0] > 0
            pooled = random_image[:, inside].mean(dim=1) if inside.any() else torch.zeros(len(random_image))
            rows.append(convnext_tower.head(convnext_tower.trunk.head(pooled[None, :, None, None]))[0])
    return torch.stack(rows).view(*masks.shape[:2], -1)


def test_maps_are_those_of_the_trunk(convnext_tower: Any) -> None:
    images = random_images(1, 3, 64, 96)
    features = ConvNeXtBackbone(convnext_tower).features(images)
    final, intermediates = convnext_tower.trunk.forward_intermediates(images)
    for level, expected in zip(("res2", "res3", "res4", "res5"), intermediates, strict=True):
        torch.testing.assert_close(features.levels[level], expected)
    torch.testing.assert_close(features.dense, final)


def test_the_dense_map_is_normalized_where_the_trunk_normalizes_before_pooling() -> None:
    from timm.models.convnext import ConvNeXt

    convnext_tower = open_clip_model(vision=CONVNEXT).visual
    convnext_tower.trunk = fill(
        ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), head_norm_first=True, num_classes=0)
    ).eval()
    features = ConvNeXtBackbone(convnext_tower).features(random_images(1, 3, 64, 64))
    assert not torch.allclose(features.dense, features.levels["res5"])
    torch.testing.assert_close(features.dense, convnext_tower.trunk.norm_pre(features.levels["res5"]))


def test_a_mask_of_everything_is_clips_own_image_embedding(convnext_tower: Any) -> None:
    images = random_images(2, 3, 64, 64)
    backbone = ConvNeXtBackbone(convnext_tower)
    embeddings, _ = backbone.embed_masks(backbone.features(images).dense, torch.ones(2, 1, 16, 16))
    torch.testing.assert_close(embeddings[:, 0], convnext_tower(images), atol=1e-5, rtol=1e-4)


def test_convnext_masks_of_a_batch_agree_with_a_loop_over_masks(convnext_tower: Any) -> None:
    dense, masks = random_images(2, 64, 3, 4), random_images(2, 5, 24, 32, name="masks")
    masks[1, 2] = -1.0
    embeddings, valid = ConvNeXtBackbone(convnext_tower).embed_masks(dense, masks)
    torch.testing.assert_close(
        embeddings, pooled_one_by_one(convnext_tower, dense, masks), atol=1e-5, rtol=1e-4
    )
    assert valid.tolist() == [[True] * 5, [True, True, False, True, True]]


@pytest.fixture(scope="module")
def resnet_tower() -> Any:
    return open_clip_model(vision=RESNET).visual.requires_grad_(False)


def attended_one_by_one(pool: Any, image_Chw: Tensor, inside_hw: Tensor) -> Tensor:
    """One mask of one image through torch's own attention, with only the positions inside the mask."""
    side = int((len(pool.positional_embedding) - 1) ** 0.5)
    table = pool.positional_embedding[1:].view(side, side, -1).permute(2, 0, 1)[None]
    table = F.interpolate(table, size=image_Chw.shape[-2:], mode="bilinear", align_corners=False)[0]
    query = image_Chw.mean(dim=(1, 2)) + pool.positional_embedding[0]
    keys = (image_Chw + table)[:, inside_hw].T
    output, _ = F.multi_head_attention_forward(
        query=query[None, None],
        key=keys[:, None],
        value=keys[:, None],
        embed_dim_to_check=len(query),
        num_heads=pool.num_heads,
        in_proj_weight=None,
        in_proj_bias=torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=pool.c_proj.weight,
        out_proj_bias=pool.c_proj.bias,
        use_separate_proj_weight=True,
        q_proj_weight=pool.q_proj.weight,
        k_proj_weight=pool.k_proj.weight,
        v_proj_weight=pool.v_proj.weight,
        training=False,
        need_weights=False,
    )
    return output[0, 0]


def test_maps_are_those_of_the_tower(resnet_tower: Any) -> None:
    images = random_images(1, 3, 64, 96)
    features = ResNetBackbone(resnet_tower).features(images)
    expected = resnet_tower.forward_intermediates(images, intermediates_only=True)["image_intermediates"]
    for level, values in zip(("res2", "res3", "res4", "res5"), expected[1:], strict=True):
        torch.testing.assert_close(features.levels[level], values)
    assert torch.equal(features.dense, features.levels["res5"])


@pytest.mark.parametrize("size", [(2, 2), (3, 5)], ids=["the table's own size", "another size"])
def test_masks_of_a_batch_agree_with_torchs_attention_mask_by_mask(
    resnet_tower: Any, size: tuple[int, int]
) -> None:
    dense, masks = random_images(2, 256, *size), random_images(2, 6, *size, name="masks")
    embeddings, valid = ResNetBackbone(resnet_tower).embed_masks(dense, masks)
    assert embeddings.shape == (2, 6, 24)
    for b in range(2):
        for q in range(6):
            inside = masks[b, q] > 0
            assert bool(valid[b, q]) == bool(inside.any())
            if inside.any():
                expected = attended_one_by_one(resnet_tower.attnpool, dense[b], inside)
                torch.testing.assert_close(embeddings[b, q], expected, atol=1e-5, rtol=1e-4)


def test_masks_of_another_size_are_resized_to_the_map(resnet_tower: Any) -> None:
    dense, masks = random_images(1, 256, 3, 4), random_images(1, 5, 24, 32, name="masks")
    resized = F.interpolate(masks, size=(3, 4), mode="bilinear", align_corners=False)
    backbone = ResNetBackbone(resnet_tower)
    torch.testing.assert_close(backbone.embed_masks(dense, masks)[0], backbone.embed_masks(dense, resized)[0])


def test_an_empty_mask_gives_zeros_and_no_nan_and_is_not_valid(resnet_tower: Any) -> None:
    dense, masks = random_images(1, 256, 2, 3), torch.full((1, 3, 2, 3), -1.0)
    masks[0, 1, 0, 0] = 1.0
    masks[0, 2] = 0.0  # zero is outside
    embeddings, valid = ResNetBackbone(resnet_tower).embed_masks(dense, masks)
    assert valid.tolist() == [[False, True, False]]
    assert embeddings[0, [0, 2]].eq(0).all()
    assert embeddings[0, 1].abs().sum() > 0
    assert torch.isfinite(embeddings).all()


def test_cells_outside_the_mask_matter_only_through_the_query(resnet_tower: Any) -> None:
    dense = random_images(1, 256, 2, 2)
    masks = torch.tensor([[[[1.0, -1.0], [-1.0, -1.0]]]])
    swapped = dense.clone()
    swapped[0, :, 1, 0], swapped[0, :, 1, 1] = dense[0, :, 1, 1], dense[0, :, 1, 0]  # the same mean
    backbone = ResNetBackbone(resnet_tower)
    torch.testing.assert_close(backbone.embed_masks(dense, masks)[0], backbone.embed_masks(swapped, masks)[0])


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
