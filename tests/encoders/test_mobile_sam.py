# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""MobileSAM: the names of its published file, and its blocks written out."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.encoders import fill, random_images
from timm.models.tiny_vit import TinyVit
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.encoders import sam as sam_module
from cmpf.encoders.mobile_sam import MobileSAMImageEncoder, build_mobile_sam, build_sam_model
from cmpf.encoders.sam import SAMEncoder, build_sam
from cmpf.errors import WeightsError
from cmpf.weights.saving import hash_weights

DIMS, DEPTHS, HEADS, WINDOWS = (64, 128, 160, 320), (2, 2, 6, 2), (2, 4, 5, 10), (7, 7, 14, 7)
SMALL = {"embed_dims": (8, 16, 16, 24), "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 3)}
SIDE, CHANNELS = 128, 32  # of the small one: stages of 32, 16, 8 and 8 cells


def convolution(name: str, inside: int, out: int, size: int, groups: int = 1) -> dict[str, tuple[int, ...]]:
    """A convolution with BatchNorm: name -> shape."""
    norm = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (out,))
    return {
        f"{name}.c.weight": (out, inside // groups, size, size),
        **{f"{name}.bn.{key}": shape for key, shape in norm.items()},
        f"{name}.bn.num_batches_tracked": (),
    }


def linear(name: str, inside: int, out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, inside), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def published_encoder() -> dict[str, tuple[int, ...]]:
    """Names and shapes of MobileSAM's image encoder as its file holds them, without the classifier."""
    names = {**convolution("patch_embed.seq.0", 3, 32, 3), **convolution("patch_embed.seq.2", 32, 64, 3)}
    for layer, (dim, depth, heads, window) in enumerate(zip(DIMS, DEPTHS, HEADS, WINDOWS, strict=True)):
        for index in range(depth):
            block = f"layers.{layer}.blocks.{index}"
            if layer == 0:
                names |= convolution(f"{block}.conv1", dim, 4 * dim, 1)
                names |= convolution(f"{block}.conv2", 4 * dim, 4 * dim, 3, groups=4 * dim)
                names |= convolution(f"{block}.conv3", 4 * dim, dim, 1)
                continue
            # |dy| and |dx| below the window: as many distances as cells.
            names[f"{block}.attn.attention_biases"] = (heads, window**2)
            names |= norm(f"{block}.attn.norm", dim)
            names |= linear(f"{block}.attn.qkv", dim, 3 * dim)
            names |= linear(f"{block}.attn.proj", dim, dim)
            names |= norm(f"{block}.mlp.norm", dim)
            names |= linear(f"{block}.mlp.fc1", dim, 4 * dim)
            names |= linear(f"{block}.mlp.fc2", 4 * dim, dim)
            names |= convolution(f"{block}.local_conv", dim, dim, 3, groups=dim)
        if layer < 3:
            out = DIMS[layer + 1]
            names |= convolution(f"layers.{layer}.downsample.conv1", dim, out, 1)
            names |= convolution(f"layers.{layer}.downsample.conv2", out, out, 3, groups=out)
            names |= convolution(f"layers.{layer}.downsample.conv3", out, out, 1)
    names |= {"neck.0.weight": (256, 320, 1, 1), **norm("neck.1", 256)}
    return names | {"neck.2.weight": (256, 256, 3, 3), **norm("neck.3", 256)}


UNUSED = {
    "norm_head.weight": (320,),
    "norm_head.bias": (320,),
    "head.weight": (1000, 320),
    "head.bias": (1000,),
}


def small_encoder() -> MobileSAMImageEncoder:
    torch.manual_seed(0)
    trunk = TinyVit(**SMALL, num_classes=0, window_sizes=(7, 7, 5, 3), drop_path_rate=0.0)
    return fill(MobileSAMImageEncoder(trunk=trunk, img_size=SIDE, out_channels=CHANNELS)).eval()


def small_mobile_sam() -> nn.Module:
    return fill(build_sam_model(small_encoder(), embed_channels=CHANNELS))


@pytest.fixture(scope="module")
def full() -> nn.Module:
    """The published size without memory for its weights."""
    with torch.device("meta"):
        return build_mobile_sam()


def test_names_and_shapes_are_those_of_the_published_file(full: nn.Module) -> None:
    found = {name: tuple(value.shape) for name, value in full.image_encoder.state_dict().items()}
    assert found == published_encoder()
    # 5.74 M here and 0.32 M in the unused classifier; with the 4.06 M of prompts and masks 10.13 M, the 40.5 MB
    # of the published file.
    counted = sum(value.numel() for value in full.parameters())
    classifier = sum(torch.Size(shape).numel() for shape in UNUSED.values())
    assert (counted + classifier) * 4 / 1e6 == pytest.approx(40.5, abs=0.1)


def test_prompts_and_masks_have_segment_anythings_names_and_shapes(full: nn.Module) -> None:
    from segment_anything import sam_model_registry

    def rest(sam: nn.Module) -> dict[str, tuple[int, ...]]:
        state = sam.state_dict()
        return {k: tuple(v.shape) for k, v in state.items() if not k.startswith("image_encoder.")}

    with torch.device("meta"):
        assert rest(full) == rest(sam_model_registry["vit_b"]())


def test_the_embedding_has_a_stride_of_16_and_prompts_agree(full: nn.Module) -> None:
    encoder = full.image_encoder
    assert encoder.img_size == 1024
    strides = [layer.downsample.conv2.c.stride for layer in encoder.layers[:3]]
    assert strides == [(2, 2), (2, 2), (1, 1)]
    assert encoder(torch.empty(1, 3, 1024, 1024, device="meta")).shape == (1, 256, 64, 64)
    assert full.prompt_encoder.image_embedding_size == (64, 64)
    assert full.prompt_encoder.embed_dim == 256


@pytest.mark.parametrize("stage", [1, 2, 3])
@torch.no_grad()
def test_window_attention_blocks_equal_the_written_out_ones_also_with_padding(stage: int) -> None:
    # Windows of 7 on 16 x 16, padded to 21 x 21; of 5 on 8 x 9, to 10 x 10; of 3 on 5 x 9, to 6 x 9.
    window, heads = (7, 7, 5, 3)[stage], SMALL["num_heads"][stage]
    block = small_encoder().layers[stage].blocks[0]
    x = random_images(2, SMALL["embed_dims"][stage], 16 // max(1, stage), 16 if stage == 1 else 9)
    found = block(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    expected = torch.stack([naive_block(block, random_image, window, heads) for random_image in x])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_map_of_exactly_one_window_equals_the_written_out_one() -> None:
    block, x = small_encoder().layers[2].blocks[0], random_images(1, 16, 5, 5)
    found = block(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(found[0], naive_block(block, x[0], 5, 2), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_whole_encoder_is_its_parts_in_the_published_order() -> None:
    encoder, images = small_encoder(), random_images(1, 3, SIDE, SIDE)
    x = conv_bn(encoder.patch_embed.seq[2], F.gelu(conv_bn(encoder.patch_embed.seq[0], images)))
    for stage, layer in enumerate(encoder.layers):
        for block in layer.blocks:
            if stage == 0:
                x = naive_inverted_residual(block, x)
            else:
                window, heads = (7, 7, 5, 3)[stage], SMALL["num_heads"][stage]
                x = naive_block(block, x[0], window, heads)[None]
        x = naive_merging(layer.downsample, x) if stage < 3 else x
    for index in (0, 2):
        x = F.conv2d(x, encoder.neck[index].weight, padding=index // 2)
        centered = x - x.mean(1, keepdim=True)
        x = centered / (centered.square().mean(1, keepdim=True) + 1e-6).sqrt()
        x = x * encoder.neck[index + 1].weight[:, None, None] + encoder.neck[index + 1].bias[:, None, None]
    assert x.shape == (1, CHANNELS, 8, 8)
    torch.testing.assert_close(encoder(images), x, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_a_published_file_loads_and_its_classifier_and_derived_tables_are_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        sam_module, "build_mobile_sam", lambda: build_sam_model(small_encoder(), embed_channels=CHANNELS)
    )
    source = small_mobile_sam()
    for name, value in source.named_parameters():
        value.add_(random_images(*value.shape, name=f"other {name}"), alpha=0.1)
    state = dict(source.state_dict())
    expected_hash = hash_weights(state)
    for name, shape in UNUSED.items():
        state[f"image_encoder.{name}"] = torch.ones(shape)
    biases = [name for name in state if name.endswith("attention_biases")]
    assert len(biases) == 4  # depths 1, 2 and 1 of the stages with attention
    for name in biases:
        state[name.replace("attention_biases", "attention_bias_idxs")] = torch.zeros(1, dtype=torch.int64)
    torch.save(state, tmp_path / "mobile_sam.pt")
    encoder = build_sam(name="vit_t", checkpoint=str(tmp_path / "mobile_sam.pt"))
    assert encoder.name == "sam/vit_t"
    assert set(encoder.weights()) == set(source.state_dict())
    assert encoder.weights_hash == expected_hash
    images = random_images(1, 3, SIDE, SIDE)
    torch.testing.assert_close(encoder(images), source.image_encoder(images))


def test_weights_that_lack_a_part_or_are_of_sam_are_an_error_with_published_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sam_module, "build_mobile_sam", small_mobile_sam)
    state = dict(small_mobile_sam().state_dict())
    del state["image_encoder.layers.0.downsample.conv1.c.weight"]
    torch.save(state, tmp_path / "lacking.pt")
    with pytest.raises(
        WeightsError, match=r"lacking\.pt: does not fit.*layers\.0\.downsample\.conv1\.c\.weight"
    ):
        build_sam(name="vit_t", checkpoint=str(tmp_path / "lacking.pt"))


@torch.no_grad()
def test_new_weights_and_a_copy_do_not_use_position_biases_of_old_ones() -> None:
    encoder, images = small_encoder(), random_images(1, 3, SIDE, SIDE)
    before = encoder(images)
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    for name in state:
        if name.endswith("attention_biases"):
            state[name] += 3 * random_images(*state[name].shape, name=name)
    fresh = small_encoder()
    fresh.load_state_dict(state)
    expected = fresh(images)
    assert not torch.allclose(before, expected, atol=1e-3)
    other = copy.deepcopy(encoder)
    for loaded in (other, encoder):
        loaded.load_state_dict(state)
        torch.testing.assert_close(loaded(images), expected)


def test_a_training_step_of_a_parent_leaves_batch_norm_statistics_alone() -> None:
    encoder = SAMEncoder(name="small", sam=small_mobile_sam())
    before = copy.deepcopy(encoder.state_dict())
    parent = nn.Sequential(encoder, nn.Conv2d(CHANNELS, 1, 1)).train()
    parent(random_images(2, 3, SIDE, SIDE)).sum().backward()
    assert not any(module.training for module in encoder.modules())
    after = encoder.state_dict()
    assert any(name.endswith("num_batches_tracked") for name in before)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_batch_of_two_equals_two_batches_of_one_and_bfloat16_is_near() -> None:
    encoder = SAMEncoder(name="small", sam=small_mobile_sam())
    images = random_images(2, 3, 96, 160)
    both = encoder(images)
    assert both.shape == (2, CHANNELS, 8, 8)
    for index in range(2):
        torch.testing.assert_close(encoder(images[index : index + 1])[0], both[index], atol=1e-4, rtol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = encoder(images)
    assert float((low.float() - both).abs().mean() / both.abs().mean()) < 0.05


@pytest.mark.slow
def test_the_full_size_runs_at_1024_pixels_with_random_weights() -> None:
    encoder = build_sam(name="vit_t", checkpoint="random")
    assert (encoder.input_size, encoder.embed_channels) == (1024, 256)
    embedding = encoder(random_images(1, 3, 800, 1024))
    assert embedding.shape == (1, 256, 64, 64)
    assert embedding.isfinite().all()


def conv_bn(module: Any, x: Tensor) -> Tensor:
    """A convolution without bias, then BatchNorm by its running statistics."""
    x = F.conv2d(x, module.c.weight, None, module.c.stride, module.c.padding, 1, module.c.groups)
    mean, deviation = module.bn.running_mean, (module.bn.running_var + 1e-5).sqrt()
    scaled = (x - mean[:, None, None]) / deviation[:, None, None]
    return scaled * module.bn.weight[:, None, None] + module.bn.bias[:, None, None]


def layer_norm(module: Any, x: Tensor) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    return centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt() * module.weight + module.bias


def window_attention(module: Any, x_hwc: Tensor, window: int, heads: int) -> Tensor:
    """Attention inside windows that start at the top left, query by query; cells beyond the edge are zeros."""
    height, width, channels = x_hwc.shape
    offsets: dict[tuple[int, int], int] = {}  # |dy|, |dx| -> column of the biases, in the order of appearance
    for dy in range(window):
        for dx in range(window):
            offsets[dy, dx] = len(offsets)
    result, depth = torch.zeros_like(x_hwc), channels // heads
    for top in range(0, height, window):
        for left in range(0, width, window):
            cells = [(top + y, left + x) for y in range(window) for x in range(window)]
            rows = [x_hwc[y, x] if y < height and x < width else torch.zeros(channels) for y, x in cells]
            qkv = F.linear(layer_norm(module.norm, torch.stack(rows)), module.qkv.weight, module.qkv.bias)
            # Each head's query, key and value stand together.
            q, k, v = qkv.view(len(cells), heads, 3, depth).unbind(2)
            for i, (y, x) in enumerate(cells):
                if y >= height or x >= width:
                    continue
                mixed = []
                for head in range(heads):
                    bias = torch.stack(
                        [module.attention_biases[head, offsets[abs(y - v_), abs(x - u)]] for v_, u in cells]
                    )
                    scores = (k[:, head] @ q[i, head]) / depth**0.5 + bias
                    mixed.append(scores.softmax(0) @ v[:, head])
                result[y, x] = F.linear(torch.cat(mixed), module.proj.weight, module.proj.bias)
    return result


def naive_block(block: Any, x_chw: Tensor, window: int, heads: int) -> Tensor:
    """A TinyViT block: window attention, depthwise convolution, MLP."""
    x = x_chw + window_attention(block.attn, x_chw.permute(1, 2, 0), window, heads).permute(2, 0, 1)
    x = conv_bn(block.local_conv, x[None])[0].permute(1, 2, 0)
    inner = F.linear(layer_norm(block.mlp.norm, x), block.mlp.fc1.weight, block.mlp.fc1.bias)
    return (x + F.linear(F.gelu(inner), block.mlp.fc2.weight, block.mlp.fc2.bias)).permute(2, 0, 1)


def naive_inverted_residual(block: Any, x: Tensor) -> Tensor:
    inner = F.gelu(conv_bn(block.conv2, F.gelu(conv_bn(block.conv1, x))))
    return F.gelu(x + conv_bn(block.conv3, inner))


def naive_merging(part: Any, x: Tensor) -> Tensor:
    return conv_bn(part.conv3, F.gelu(conv_bn(part.conv2, F.gelu(conv_bn(part.conv1, x)))))
