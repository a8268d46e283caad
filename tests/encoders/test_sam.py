# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Frozen SAM by name, and its fused attention."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.encoders import fill, random_images, small_sam
from segment_anything.modeling.image_encoder import Attention, Block, ImageEncoderViT
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.encoders import sam as sam_module
from cmpf.encoders import sam_attention, tiny
from cmpf.encoders.mobile_sam import build_sam_model
from cmpf.encoders.sam import SAMEncoder, build_sam
from cmpf.encoders.sam_attention import FusedAttention, fuse_attention
from cmpf.errors import ModelNameError, WeightsError
from cmpf.weights.remote import Remote
from cmpf.weights.saving import hash_weights


@pytest.fixture(scope="module")
def encoder() -> SAMEncoder:
    return small_sam()


@pytest.fixture
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny architectures under the published names."""
    monkeypatch.setattr(sam_module, "_architecture", lambda name: fill(tiny.build_tiny_sam()))


def test_sizes_come_from_the_built_model(encoder: SAMEncoder) -> None:
    assert (encoder.input_size, encoder.embed_channels, encoder.name) == (256, 64, "sam/small")


def test_images_of_any_size_are_squashed_to_the_square_input(encoder: SAMEncoder) -> None:
    images = random_images(2, 3, 96, 160)
    square = F.interpolate(images, size=(256, 256), mode="bilinear", align_corners=False)
    with torch.no_grad():
        expected = encoder.sam.image_encoder(square)
    found = encoder(images)
    assert found.shape == (2, 64, 16, 16)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("image", "seen"),
    [((96, 160), (160, 256)), ((300, 100), (256, 80)), ((64, 64), (256, 256)), ((3, 400), (16, 256))],
)
@torch.no_grad()
def test_with_its_aspect_kept_an_image_is_what_segment_anything_makes_of_it_with_resized_positions(
    encoder: SAMEncoder, image: tuple[int, int], seen: tuple[int, int]
) -> None:
    images = random_images(2, 3, *image)
    reference = fill(tiny.build_tiny_sam()).image_encoder
    positions = reference.pos_embed.permute(0, 3, 1, 2)
    cells = (seen[0] // 16, seen[1] // 16)
    resized = F.interpolate(positions, size=cells, mode="bilinear", align_corners=False)
    reference.pos_embed = torch.nn.Parameter(resized.permute(0, 2, 3, 1))
    expected = reference(F.interpolate(images, size=seen, mode="bilinear", align_corners=False))
    found = encoder(images, keep_aspect=True)
    assert found.shape == (2, 64, *cells)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_sam_of_other_patches_sees_its_own_square_and_whole_patches_of_an_aspect() -> None:
    sam = build_sam_model(
        fill(ImageEncoderViT(img_size=98, patch_size=14, embed_dim=32, depth=1, num_heads=2, out_chans=64)),
        embed_channels=64, mlp_dim=32, num_heads=2, iou_head_dim=32,
    )  # fmt: skip
    sam.prompt_encoder.image_embedding_size = (7, 7)
    images = random_images(1, 3, 60, 100)
    expected = sam.image_encoder(F.interpolate(images, size=(98, 98), mode="bilinear", align_corners=False))
    encoder = SAMEncoder(name="patches_of_14", sam=sam)
    torch.testing.assert_close(encoder(images), expected)
    assert encoder(images, keep_aspect=True).shape == (1, 64, 4, 7)  # 7 * 60 / 100 = 4.2


def test_the_embedding_is_that_of_segment_anything(encoder: SAMEncoder) -> None:
    from segment_anything import SamPredictor
    from segment_anything.modeling.image_encoder import Attention

    own = fill(tiny.build_tiny_sam())
    assert type(own.image_encoder.blocks[0].attn) is Attention  # not CMPF's
    image = (random_images(256, 256, 3).abs() * 60).clamp(max=255).to(torch.uint8)
    predictor = SamPredictor(own)
    predictor.set_image(image.numpy())
    normalized = (image.permute(2, 0, 1).float() - own.pixel_mean) / own.pixel_std
    found = encoder(normalized[None])
    torch.testing.assert_close(found, predictor.get_image_embedding(), atol=1e-4, rtol=1e-4)


def test_the_encoder_is_frozen_and_its_hash_is_that_of_segment_anythings_weights(encoder: SAMEncoder) -> None:
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.train().sam.training
    assert set(encoder.weights()) == set(tiny.build_tiny_sam().state_dict())
    assert encoder.weights_hash == hash_weights(fill(tiny.build_tiny_sam()).state_dict())


def test_an_unknown_name_gets_the_nearest_one_and_the_list() -> None:
    with pytest.raises(
        ModelNameError,
        match=r"SAM 'vit-b' is unknown, did you mean vit_b\? What works: vit_b, vit_l, vit_h, vit_t, cmpf_tiny",
    ):
        build_sam(name="vit-b", checkpoint="")


FILES = {
    "vit_b": "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
    "vit_l": "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_l_0b3195.pth",
    "vit_h": "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth",
    "vit_t": "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
}


@pytest.mark.parametrize("name", list(FILES))
def test_a_missing_published_file_says_where_to_get_and_to_put_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv("CMPF_CACHE", str(tmp_path))
    with pytest.raises(WeightsError) as caught:
        build_sam(name=name, checkpoint="")
    message = str(caught.value)
    assert message.startswith(
        f"SAM {name} is not on this machine and cannot be downloaded (HF_HUB_OFFLINE is set)"
    )
    assert f"save {FILES[name]} as {tmp_path / FILES[name].split('/')[-1]}, or set" in message
    assert "set MODEL.CMPF.SAM.CHECKPOINT (for mask proposals TEST.ENSEMBLE.SAM_CHECKPOINT)" in message
    assert 'to "random" for random weights' in message


@pytest.mark.parametrize(
    ("name", "digits"), [("vit_b", "01ec64"), ("vit_l", "0b3195"), ("vit_h", "4b8939"), ("vit_t", None)]
)
@pytest.mark.usefixtures("small_models")
def test_the_published_file_is_downloaded_and_checked_by_the_digits_in_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, digits: str | None
) -> None:
    monkeypatch.setenv("CMPF_CACHE", str(tmp_path))
    state = small_sam().sam.state_dict()
    state["mask_decoder.iou_token.weight"] += 1
    asked: list[tuple[str, Path, str | None]] = []

    def save(remote: Remote, target: Path) -> Path:
        asked.append((remote.url, target, remote.sha256))
        assert remote.title == f"SAM {name}"
        torch.save(state, target)
        return target

    monkeypatch.setattr(sam_module, "download", save)
    encoder = build_sam(name=name, checkpoint="")
    assert asked == [(FILES[name], tmp_path / FILES[name].split("/")[-1], digits)]
    assert torch.equal(encoder.sam.mask_decoder.iou_token.weight, state["mask_decoder.iou_token.weight"])


@pytest.mark.usefixtures("small_models")
def test_the_published_file_in_the_cache_folder_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CMPF_CACHE", str(tmp_path))
    state = small_sam().sam.state_dict()
    state["mask_decoder.iou_token.weight"] += 1
    torch.save(state, tmp_path / "sam_vit_b_01ec64.pth")
    encoder = build_sam(name="vit_b", checkpoint="")
    assert encoder.name == "sam/vit_b"
    assert torch.equal(encoder.sam.mask_decoder.iou_token.weight, state["mask_decoder.iou_token.weight"])


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h", "cmpf_tiny"])
def test_every_sam_with_segment_anythings_encoder_gets_the_fused_attention(name: str) -> None:
    with torch.device("meta"):
        blocks = build_sam(name=name, checkpoint="random").sam.image_encoder.blocks
    assert len(blocks) == {"vit_b": 12, "vit_l": 24, "vit_h": 32, "cmpf_tiny": 5}[name]
    assert all(type(block.attn) is FusedAttention for block in blocks)


@pytest.mark.usefixtures("small_models")
def test_random_weights_and_paths_need_no_published_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CMPF_CACHE", str(tmp_path / "empty"))
    assert build_sam(name="vit_h", checkpoint="random").name == "sam/vit_h"
    torch.save(small_sam().sam.state_dict(), tmp_path / "own.pth")
    assert build_sam(name="vit_l", checkpoint=str(tmp_path / "own.pth")).embed_channels == 64
    with pytest.raises(WeightsError, match=r"'/no/such\.pth': no such file; give a path, .* or \"random\""):
        build_sam(name="vit_b", checkpoint="/no/such.pth")


@pytest.mark.usefixtures("small_models")
def test_weights_of_another_size_name_the_file(tmp_path: Path) -> None:
    state = small_sam().sam.state_dict()
    del state["mask_decoder.iou_token.weight"]
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other\.pth: does not fit the model.*iou_token"):
        build_sam(name="vit_b", checkpoint=str(tmp_path / "other.pth"))


def test_the_tiny_sam_comes_from_cmpfs_own_file_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shipped = tiny.build_tiny_sam()
    monkeypatch.setattr(tiny, "load_tiny_sam", lambda: shipped)
    assert build_sam(name="cmpf_tiny", checkpoint="").sam is shipped
    assert build_sam(name="cmpf_tiny", checkpoint="random").sam is not shipped


DIM, HEADS, GRID = 24, 3, 8


def attention(**options: Any) -> Any:
    settings = {"dim": DIM, "num_heads": HEADS, "use_rel_pos": True, "input_size": (GRID, GRID), **options}
    return strong(Attention(**settings)).eval()


def strong(module: nn.Module) -> nn.Module:
    """Filled, with relative positions as important as the content."""
    fill(module)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if "rel_pos" in name:
                value.mul_(3)
    return module


def vit(*, window: int, size: int = GRID) -> Any:
    """A ViT of two blocks: the first global, the second with windows."""
    return strong(
        ImageEncoderViT(
            img_size=4 * size,
            patch_size=4,
            embed_dim=DIM,
            depth=2,
            num_heads=HEADS,
            mlp_ratio=2,
            out_chans=8,
            use_rel_pos=True,
            window_size=window,
            global_attn_indexes=(0,),
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )
    ).eval()


def naive(module: Any, x: Tensor) -> Tensor:
    """Attention of one image (H, W, C), query by query, with tables of the right size."""
    height, width, channels = x.shape
    tokens = x.reshape(-1, channels)
    place = [(y, column) for y in range(height) for column in range(width)]
    q, k, v = (tokens @ module.qkv.weight.T + module.qkv.bias).chunk(3, dim=1)
    depth, rows = channels // HEADS, []
    for i, (y, column) in enumerate(place):
        heads = []
        for head in range(HEADS):
            part = slice(head * depth, (head + 1) * depth)
            scores = []
            for j, (other_y, other_column) in enumerate(place):
                down = module.rel_pos_h[y - other_y + height - 1]
                right = module.rel_pos_w[column - other_column + width - 1]
                scores.append(q[i, part] @ k[j, part] / depth**0.5 + q[i, part] @ (down + right))
            heads.append(torch.stack(scores).softmax(0) @ v[:, part])
        rows.append(torch.cat(heads))
    mixed = torch.stack(rows) @ module.proj.weight.T + module.proj.bias
    return mixed.view(height, width, channels)


@torch.no_grad()
def test_the_bias_is_that_of_the_definition() -> None:
    reference = attention(input_size=(3, 4))
    x = random_images(2, 3, 4, DIM)
    expected = torch.stack([naive(reference, random_image) for random_image in x])
    torch.testing.assert_close(FusedAttention(reference)(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("numbers", [1, 2 * HEADS * 64 * GRID, HEADS * 64 * 64, 2 * HEADS * 64 * 64, 1 << 30])
@torch.no_grad()
def test_masks_of_any_size_give_segment_anythings_result(
    monkeypatch: pytest.MonkeyPatch, numbers: int
) -> None:
    # 64 tokens in 8 rows of 8: one row at a time, two, one image, two images, all five.
    monkeypatch.setitem(sam_attention.MAX_MASK_ELEMENTS, "cpu", numbers)
    reference, x = attention(), random_images(5, GRID, GRID, DIM)
    torch.testing.assert_close(FusedAttention(reference)(x), reference(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        (1, [(1, 8)] * 16),  # 2 images x 8 rows of 8 queries
        (3 * HEADS * 64 * GRID, [(1, 24), (1, 24), (1, 16)] * 2),
        (HEADS * 64 * 64, [(1, 64)] * 2),
        (1 << 30, [(2, 64)]),
    ],
)
@torch.no_grad()
def test_the_mask_never_has_more_numbers_than_allowed(
    monkeypatch: pytest.MonkeyPatch, numbers: int, expected: list[tuple[int, int]]
) -> None:
    seen: list[tuple[int, int]] = []
    original = F.scaled_dot_product_attention

    def recorded(q: Tensor, k: Tensor, v: Tensor, *, attn_mask: Tensor) -> Tensor:
        seen.append((attn_mask.shape[0], attn_mask.shape[2]))
        assert attn_mask.is_contiguous()
        return original(q, k, v, attn_mask=attn_mask)

    monkeypatch.setitem(sam_attention.MAX_MASK_ELEMENTS, "cpu", numbers)
    monkeypatch.setattr(F, "scaled_dot_product_attention", recorded)
    FusedAttention(attention())(random_images(2, GRID, GRID, DIM))
    assert seen == expected


@pytest.mark.parametrize("scores", [1, 2 * 64 * GRID, 3 * 64 * GRID, 64 * 64 - 1])
@torch.no_grad()
def test_plain_products_give_segment_anythings_result_whatever_is_at_work(
    monkeypatch: pytest.MonkeyPatch, scores: int
) -> None:
    # 64 tokens in 8 rows of 8: one row of queries at a time, two, three (and two in the end), seven and one.
    monkeypatch.setattr(sam_attention, "MAX_SCORES", scores)
    monkeypatch.setattr(F, "scaled_dot_product_attention", None)
    reference, x = attention(), random_images(3, GRID, GRID, DIM)
    torch.testing.assert_close(FusedAttention(reference)(x), reference(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scores", [64 * 64, 4 * 64 * 64, 1 << 30])
@torch.no_grad()
def test_plain_products_in_bfloat16_are_as_near_to_float32_as_segment_anythings(
    monkeypatch: pytest.MonkeyPatch, scores: int
) -> None:
    # One of 3 images x 2 heads at a time, four, all.
    monkeypatch.setattr(sam_attention, "MAX_SCORES", scores)
    monkeypatch.setattr(sam_attention, "has_amx", lambda: False)
    reference, x = attention(), random_images(3, GRID, GRID, DIM)
    expected = reference(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        own = reference(x)
        monkeypatch.setattr(F, "scaled_dot_product_attention", None)
        found = FusedAttention(reference)(x)
    assert found.dtype == torch.bfloat16
    assert (found - expected).abs().max() < 1.5 * (own - expected).abs().max()


@pytest.mark.parametrize("size", [(8, 8), (5, 11), (13, 13)])
@torch.no_grad()
def test_positions_as_features_of_queries_and_keys_are_as_near_to_float32_as_segment_anythings(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    monkeypatch.setattr(sam_attention, "has_amx", lambda: True)
    monkeypatch.setattr(sam_attention, "_attend_with_matmuls", None)
    reference, x = attention(), random_images(3, *size, DIM)
    expected = reference(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        own, found = reference(x), FusedAttention(reference)(x)
    assert found.dtype == torch.bfloat16
    assert (found - expected).abs().max() < 1.5 * (own - expected).abs().max()


@pytest.mark.parametrize("size", [(8, 8), (5, 11), (1, 3), (13, 13)])
@torch.no_grad()
def test_other_sizes_than_the_tables_resize_them_as_segment_anything_does(size: tuple[int, int]) -> None:
    reference, x = attention(), random_images(2, *size, DIM)
    torch.testing.assert_close(FusedAttention(reference)(x), reference(x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_attention_without_relative_positions_or_bias_is_the_same_too() -> None:
    reference, x = attention(use_rel_pos=False, qkv_bias=False), random_images(2, GRID, GRID, DIM)
    fused = FusedAttention(reference)
    torch.testing.assert_close(fused(x), reference(x), atol=1e-5, rtol=1e-5)
    assert set(fused.state_dict()) == set(reference.state_dict())


@pytest.mark.parametrize(
    "window", [0, 4, 3, 5]
)  # 0: global; 8 tokens are two windows of 4, and padded for 3 and 5
@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
@torch.no_grad()
def test_a_block_of_either_kind_equals_segment_anythings(window: int, size: tuple[int, int]) -> None:
    block = strong(
        Block(dim=DIM, num_heads=HEADS, use_rel_pos=True, window_size=window, input_size=(GRID, GRID))
    ).eval()
    fused = copy.deepcopy(block)
    fuse_attention(fused)
    assert type(fused.attn) is FusedAttention
    x = random_images(3, *size, DIM)
    torch.testing.assert_close(fused(x), block(x), atol=1e-4, rtol=1e-4)


def test_every_attention_is_replaced_and_names_weights_and_hash_stay() -> None:
    reference = vit(window=3)
    fused = copy.deepcopy(reference)
    fuse_attention(fused)
    kinds = [type(block.attn) for block in fused.blocks]
    assert kinds == [FusedAttention, FusedAttention]
    assert not any(isinstance(module, Attention) for module in fused.modules())
    assert list(fused.state_dict()) == list(reference.state_dict())
    assert hash_weights(fused.state_dict()) == hash_weights(reference.state_dict())
    assert not fused.training
    assert not fused.blocks[0].attn.training


def test_published_weights_load_into_the_replaced_encoder_and_take_effect() -> None:
    fused = vit(window=3)
    fuse_attention(fused)
    images = random_images(1, 3, 32, 32)
    with torch.no_grad():
        before = fused(images)
        other = vit(window=3)
        for value in other.parameters():
            value.mul_(0.5)
        fused.load_state_dict(other.state_dict())
        found = fused(images)
        torch.testing.assert_close(found, other(images), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, before, atol=1e-2)


def test_replacing_twice_changes_nothing() -> None:
    fused = vit(window=3)
    fuse_attention(fused)
    first = fused.blocks[0].attn
    fuse_attention(fused)
    assert fused.blocks[0].attn is first


@torch.no_grad()
def test_bfloat16_autocast_is_as_near_to_float32_as_segment_anythings() -> None:
    reference = vit(window=3)
    fused = copy.deepcopy(reference)
    fuse_attention(fused)
    images = random_images(2, 3, 32, 32)
    expected = reference(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        own, found = reference(images), fused(images)
    assert found.dtype == own.dtype
    error = float((found.float() - expected).abs().max())
    assert error < 2 * float((own.float() - expected).abs().max())


def test_gradients_of_content_and_tables_equal_segment_anythings() -> None:
    gradients = []
    with torch.inference_mode():
        FusedAttention(attention())(
            random_images(1, GRID, GRID, DIM)
        )  # what this keeps must not stop a training
    make: list[Callable[[Any], nn.Module]] = [lambda module: module, FusedAttention]
    for kind in make:
        module = kind(attention())
        module(random_images(2, GRID, GRID, DIM)).square().sum().backward()
        gradients.append({name: value.grad for name, value in module.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        assert expected is not None
        torch.testing.assert_close(gradients[1][name], expected, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_threads_share_one_module() -> None:
    module = FusedAttention(attention())
    inputs = [random_images(1, GRID + index, GRID, DIM) for index in range(6)]
    expected = [module(x) for x in inputs]
    found: dict[int, Tensor] = {}
    sam_attention._distance_index.cache_clear()

    def work(index: int) -> None:
        with torch.no_grad():
            found[index] = module(inputs[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[index], expected[index]) for index in range(6))
