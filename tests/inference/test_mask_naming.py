# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""How CLIP names masks: pooling maps and transferred text against references that are written out plainly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.encoders import RESNET, fill, small_clip
from helpers.tiny_model import random_image, tiny_model
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.data import Vocabulary
from cmpf.encoders.clip import CLIP
from cmpf.errors import ConfigError
from cmpf.inference.mask_naming import MaskNaming
from cmpf.modeling import mask_adapter as adapter_module
from cmpf.modeling.mask_adapter import MaskAdapter, pooling_weights
from cmpf.modeling.text_transfer import TextTransfer
from cmpf.types import ClassEmbeddings

E, Q, H, W = 24, 5, 3, 4


@pytest.fixture(scope="module")
def clip() -> CLIP:
    return small_clip()


@pytest.fixture
def dense(clip: CLIP) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, clip.dense_channels, H, W)


@pytest.fixture
def masks() -> Tensor:
    torch.manual_seed(1)
    return 4 * torch.randn(2, Q, 8 * H, 8 * W)


@pytest.fixture(scope="module")
def classes() -> ClassEmbeddings:
    torch.manual_seed(2)
    rows = torch.tensor([0, 0, 1, 2])
    return ClassEmbeddings(F.normalize(torch.randn(4, E), dim=-1), rows, num_classes=3)


def adapter(threshold: float = 0.5) -> MaskAdapter:
    return fill(MaskAdapter(embed_dim=E, dim=16, maps=3, mask_threshold=threshold)).eval()


def head(clip: CLIP, vector: Tensor) -> Tensor:
    """CLIP's own heads on one pooled vector (C,)."""
    visual = clip.model.visual
    return visual.head(visual.trunk.head(vector[None, :, None, None]))[0]


def naive_maps(a: MaskAdapter, projected: Tensor, mask: Tensor) -> Tensor:
    """Pooling maps (maps, h, w) of one mask over one projected map, layer by layer."""

    def norm(x: Tensor, layer: nn.LayerNorm, eps: float) -> Tensor:
        mean, var = x.mean(dim=0), x.var(dim=0, unbiased=False)
        return (x - mean) / (var + eps).sqrt() * layer.weight[:, None, None] + layer.bias[:, None, None]

    x = (mask.sigmoid() > a.mask_threshold).float()[None, None]
    x = F.interpolate(x, (4 * H, 4 * W), mode="bilinear")[0]
    e = a.mask_encoder
    x = F.gelu(norm(F.conv2d(x[None], e[0].weight, e[0].bias, stride=2, padding=1)[0], e[1], 1e-6))
    x = F.gelu(norm(F.conv2d(x[None], e[3].weight, e[3].bias, stride=2, padding=1)[0], e[4], 1e-6))
    x = projected + F.conv2d(x[None], e[6].weight, e[6].bias)[0]
    x = F.conv2d(x[None], a.fuse.weight, a.fuse.bias)[0]
    for block in a.blocks:
        y = F.conv2d(x[None], block.depthwise.weight, block.depthwise.bias, padding=3, groups=16)[0]
        y = norm(y, block.norm, 1e-6)
        for row in range(H):
            for column in range(W):
                hidden = F.gelu(block.expand.weight @ y[:, row, column] + block.expand.bias)
                change = block.contract.weight @ hidden + block.contract.bias
                y[:, row, column] = block.gamma * change
        x = x + y
    return F.conv2d(norm(x, a.norm, 1e-5)[None], a.to_maps.weight, a.to_maps.bias)[0]


@torch.no_grad()
@pytest.mark.parametrize("threshold", [0.5, 0.4])
def test_adapted_names_agree_with_a_naive_reference(
    clip: CLIP, dense: Tensor, masks: Tensor, classes: ClassEmbeddings, threshold: float
) -> None:
    a = adapter(threshold)
    logits, valid = MaskNaming(mask_adapter=a)(clip, dense, masks, classes)
    for image in range(2):
        cells = dense[image].flatten(1).T
        projected = torch.stack([head(clip, cell) for cell in cells]).T.view(E, H, W)
        for query in range(Q):
            maps = naive_maps(a, projected, masks[image, query])
            weights = maps.sigmoid() / maps.sigmoid().sum(dim=(1, 2), keepdim=True)
            z = torch.stack([head(clip, (dense[image] * w).sum(dim=(1, 2))) for w in weights]).mean(dim=0)
            similar = clip.logit_scale * classes.matrix @ (z / z.norm())
            expected = torch.stack([similar[:2].max(), similar[2], similar[3]])
            torch.testing.assert_close(logits[image, query], expected, rtol=1e-3, atol=1e-3)
    assert valid.all()


@torch.no_grad()
@pytest.mark.parametrize("adapted", [True, False])
def test_a_mask_without_pixels_is_told_from_those_of_its_image(
    clip: CLIP, dense: Tensor, masks: Tensor, classes: ClassEmbeddings, adapted: bool
) -> None:
    masks[1, 3] = -1.0
    _, valid = MaskNaming(mask_adapter=adapter() if adapted else None)(clip, dense, masks, classes)
    assert valid.tolist() == [[True] * 5, [True, True, True, False, True]]


@torch.no_grad()
def test_masks_that_are_worked_off_in_chunks_have_the_same_maps(
    dense: Tensor, masks: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, projected = adapter(), torch.randn(2, E, H, W)
    whole = a(projected, a.inside(masks))
    monkeypatch.setattr(
        adapter_module, "FLOATS", 2 * 4 * 16 * H * W * 2
    )  # two masks of both images at a time
    torch.testing.assert_close(a(projected, a.inside(masks)), whole)


def test_weights_of_a_map_sum_to_one_where_the_sigmoid_underflows() -> None:
    weights = pooling_weights(torch.full((1, 1, 1, 2, 2), -200.0))
    torch.testing.assert_close(weights, torch.full_like(weights, 0.25))


@torch.no_grad()
@pytest.mark.parametrize("post_norm", [False, True])
@pytest.mark.parametrize("size", [(3, 4), (5, 1)])
def test_transferred_text_agrees_with_torchs_own_attention(post_norm: bool, size: tuple[int, int]) -> None:
    torch.manual_seed(3)
    transfer = fill(TextTransfer(embed_dim=E, heads=4, post_norm=post_norm))
    text, projected = torch.randn(6, E), torch.randn(2, E, *size)
    attention = nn.MultiheadAttention(E, 4, batch_first=True)
    attention.load_state_dict(transfer.attention.state_dict())
    positions = torch.zeros(E, *size)
    for y in range(size[0]):
        for x in range(size[1]):
            for axis, place in enumerate(((y + 1) / (size[0] + 1e-6), (x + 1) / (size[1] + 1e-6))):
                for i in range(E // 4):
                    angle = torch.tensor(place * 2 * torch.pi / 10000 ** (2 * i / (E // 2)))
                    positions[axis * E // 2 + 2 * i, y, x] = angle.sin()
                    positions[axis * E // 2 + 2 * i + 1, y, x] = angle.cos()
    keys = (projected + positions).flatten(2).transpose(1, 2)
    values = projected.flatten(2).transpose(1, 2)
    change = transfer.mlp(attention(text.expand(2, -1, -1), keys, values)[0])
    norm = transfer.norm
    expected = norm(text + change) if post_norm else text + norm(change)
    torch.testing.assert_close(transfer(text, projected), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_new_transfer_leaves_the_text_as_it_is() -> None:
    transfer = TextTransfer(embed_dim=E, heads=4, post_norm=False)
    text = torch.randn(6, E)
    assert torch.equal(transfer(text, torch.randn(2, E, H, W)), text.expand(2, -1, -1))


@torch.no_grad()
def test_each_image_has_a_text_of_its_own(
    clip: CLIP, dense: Tensor, masks: Tensor, classes: ClassEmbeddings
) -> None:
    transfer = fill(TextTransfer(embed_dim=E, heads=4, post_norm=False))
    naming = MaskNaming(text_transfer=transfer, published_layout=True)
    logits, _ = naming(clip, dense, masks, classes)
    for image in range(2):
        one = slice(image, image + 1)
        alone, _ = naming(clip, dense[one], masks[one], classes)
        torch.testing.assert_close(logits[one], alone, rtol=1e-4, atol=1e-4)
        text = transfer(classes.matrix, clip.project_map(dense[one], published_layout=True))[0]
        z = clip.embed_masks(dense[one], masks[one])[0][0]
        similar = (
            clip.logit_scale * (z / z.norm(dim=-1, keepdim=True)) @ text.T
        )  # the text is not normalized again
        expected = torch.stack([similar[:, :2].amax(dim=1), similar[:, 2], similar[:, 3]], dim=1)
        torch.testing.assert_close(alone[0], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_published_layout_reads_memory_and_the_other_places(clip: CLIP, dense: Tensor) -> None:
    C = clip.dense_channels
    places = clip.project_map(dense)
    memory = clip.project_map(dense, published_layout=True)
    for image in range(2):
        for cell in range(H * W):
            row, column = divmod(cell, W)
            expected = head(clip, dense[image, :, row, column])
            torch.testing.assert_close(places[image, :, row, column], expected, rtol=1e-4, atol=1e-4)
            expected = head(clip, dense[image].flatten()[cell * C : (cell + 1) * C])
            torch.testing.assert_close(memory[image, :, row, column], expected, rtol=1e-4, atol=1e-4)


def test_a_clip_that_pools_by_attention_has_no_map_of_cells() -> None:
    resnet = small_clip(vision=RESNET)
    with pytest.raises(ConfigError, match=r"cannot project the cells.*mask_adapter.*content_dependent"):
        resnet.project_map(torch.randn(1, resnet.dense_channels, H, W))


WORDS = Vocabulary.from_words(["red circle, ruby ball", "sky"])


def test_tasks_do_not_change_the_transfer() -> None:
    model = tiny_model("maftp_tiny")
    fill(model.naming)
    settings = replace(model.settings, semantic_output="scores", resize_before=True)
    [whole] = model.infer([{"image": random_image(70, 101)}], WORDS, settings)
    [alone] = model.infer(
        [{"image": random_image(70, 101)}], WORDS, replace(settings, panoptic=False, instance=False)
    )
    assert torch.equal(whole["sem_seg"], alone["sem_seg"])


def test_without_the_decoders_classes_clip_alone_names_masks() -> None:
    model = tiny_model("maftp_tiny", ["MODEL.CMPF.ENSEMBLE_ON_VALID_MASK", False])
    found = {}

    def keep(decoder: Tensor, clip: Tensor, *arguments: Tensor, **options: object) -> Tensor:
        found["decoder"], found["clip"] = decoder, clip
        found["log"] = ensemble(decoder, clip, *arguments, **options)
        return found["log"]

    ensemble, model.class_ensemble = model.class_ensemble, keep
    model.infer([{"image": random_image()}], WORDS)
    void = found["decoder"].softmax(dim=-1)[..., -1:]
    expected = torch.cat([(1 - void) * found["clip"].softmax(dim=-1), void], dim=-1)
    torch.testing.assert_close(found["log"].exp(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["mask_adapter_tiny", "maftp_tiny"])
def test_an_image_of_a_batch_is_named_as_if_it_were_alone(name: str) -> None:
    model = tiny_model(name)
    fill(model.naming)
    batch = [{"image": random_image(60, 90, seed)} for seed in (1, 2)]
    settings = replace(model.settings, semantic_output="scores")
    together = model.infer(batch, WORDS, settings)
    for sample, result in zip(batch, together, strict=True):
        [alone] = model.infer([sample], WORDS, settings)
        torch.testing.assert_close(result["sem_seg"], alone["sem_seg"], rtol=1e-3, atol=1e-3)
