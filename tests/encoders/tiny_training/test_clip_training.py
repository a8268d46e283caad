# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Training of tiny CLIP: words, features of regions, losses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.encoders.tiny import build_tiny_clip_model, tiny_tokenizer
from cmpf.encoders.tiny_training.clip_training import (
    NOT_A_THING,
    ClipObjective,
    PromptSampler,
    dense_features,
    imperfect_masks,
    mask_logits,
    material_words,
    phrases,
    pool_cells,
    project,
    read,
    shape_words,
    text_to_regions,
    train_clip,
)
from cmpf.encoders.tiny_training.scenes import BatchSampler, make_pool
from cmpf.shapeworld import CATEGORIES

RED_CIRCLE = next(category for category in CATEGORIES if category.name == "red circle")
SKY = next(category for category in CATEGORIES if category.name == "sky")


def test_a_things_words_are_taken_apart_and_put_together_in_every_way() -> None:
    assert material_words(RED_CIRCLE) == ["red", "scarlet"]
    assert shape_words(RED_CIRCLE) == ["circle", "disc"]
    assert phrases(RED_CIRCLE) == ["red circle", "red disc", "scarlet circle", "scarlet disc"]


def test_stuff_keeps_its_words() -> None:
    assert phrases(SKY) == ["sky", "cloudy sky", "heaven"]


def test_every_word_of_the_vocabulary_is_taught() -> None:
    assert all(set(category.words) <= set(phrases(category)) for category in CATEGORIES)


def test_no_phrase_means_two_categories() -> None:
    taught = [phrase for category in CATEGORIES for phrase in phrases(category)]
    assert len(taught) == len(set(taught))


def test_one_prompt_is_drawn_for_each_of_54_categories_8_materials_and_6_shapes_and_the_seed_decides() -> (
    None
):
    prompts = PromptSampler(seed=1).draw()
    assert len(prompts) == 54 + 8 + 6
    assert any(phrase in prompts[RED_CIRCLE.id] for phrase in phrases(RED_CIRCLE))
    assert any(word in prompts[54] for word in ("red", "scarlet"))
    assert prompts == PromptSampler(seed=1).draw()
    assert prompts != PromptSampler(seed=2).draw()


def test_reading_equals_open_clips_encode_text_at_full_length() -> None:
    torch.manual_seed(0)
    model, tokenizer = build_tiny_clip_model(), tiny_tokenizer()
    texts = ["sky", "There is a large chessboard triangle in the scene.", "wow!!!"]
    with torch.no_grad():
        expected = F.normalize(model.encode_text(tokenizer(texts)), dim=-1)
        assert torch.allclose(read(model, tokenizer, texts), expected, atol=1e-5)


def test_the_dense_map_is_what_open_clip_pools_for_a_whole_image() -> None:
    torch.manual_seed(0)
    model = build_tiny_clip_model()
    images = torch.rand(1, 3, 256, 256) * 255
    with torch.no_grad():
        stage3, dense = dense_features(model, images)
        mean = torch.tensor((122.7709383, 116.7460125, 104.09373615))[:, None, None]
        std = torch.tensor((68.5005327, 66.6321579, 70.32316305))[:, None, None]
        expected = model.encode_image((images - mean) / std, normalize=True)
        assert torch.allclose(project(model, dense.mean(dim=(2, 3))), expected, atol=1e-5)
    assert stage3.shape == (1, 128, 16, 16)
    assert dense.shape == (1, 192, 8, 8)


def test_masks_become_logits_of_one() -> None:
    assert mask_logits(torch.tensor([True, False])).tolist() == [1.0, -1.0]


def test_imperfect_masks_lie_where_the_mask_lies_and_none_is_lost() -> None:
    masks = torch.zeros(1, 40, 128, 128, dtype=torch.bool)
    masks[:, :, 16:64, 32:80] = True  # cells 1..3 by 2..4 of an 8 x 8 map, whole cells of 16 pixels
    cells = imperfect_masks(masks, 8, torch.Generator().manual_seed(0))
    outside = cells.clone()
    outside[:, :, 1:4, 2:5] = 0
    assert outside.sum() == 0
    areas = cells.sum(dim=(2, 3))
    assert (areas > 0).all()
    # Half of them are cut as in inference and whole; of the others every second one has lost cells.
    assert (areas == 9).float().mean() > 0.5
    assert (areas < 9).any()


def test_pooling_means_the_chosen_cells() -> None:
    features = torch.tensor([[[[1.0, 3.0], [5.0, 100.0]]]])
    cells = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]]])
    # (1 + 3) / 2 and (1 + 5) / 2
    assert torch.allclose(pool_cells(features, cells), torch.tensor([[[2.0], [3.0]]]))


POOL = make_pool(4, first_seed=0, label="test")


def naive_text_to_regions(logits: Tensor, labels: Tensor) -> float:
    losses = []
    for text in range(logits.shape[1]):
        right = [n for n, label in enumerate(labels.tolist()) if label == text]
        if right:
            shares = F.log_softmax(logits[:, text], dim=0)
            losses.append(-sum(float(shares[n]) for n in right) / len(right))
    return sum(losses) / len(losses)


def test_all_regions_of_a_class_are_right_for_its_text() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 2, 2, 2, 3])  # no region of class 1
    assert float(text_to_regions(logits, labels)) == pytest.approx(
        naive_text_to_regions(logits, labels), rel=1e-5
    )


def test_stuff_has_neither_material_nor_shape() -> None:
    objective = ClipObjective(build_tiny_clip_model(), seed=0)
    names = [category.name for category in CATEGORIES]
    categories = torch.tensor([names.index("sky"), names.index("yellow triangle")])
    own, material, shape = objective.labels(categories)
    assert own.tolist() == categories.tolist()
    assert material.tolist() == [NOT_A_THING, 1]  # red, yellow, ...
    assert shape.tolist() == [NOT_A_THING, 3]  # circle, bar, ring, triangle, ...


def test_every_part_of_the_model_that_inference_uses_gets_a_gradient() -> None:
    torch.manual_seed(0)
    model = build_tiny_clip_model().train()
    losses = ClipObjective(model, seed=0)(model, BatchSampler(POOL, batch_size=2, seed=0).draw())
    torch.stack(list(losses.values())).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(loss.isfinite() for loss in losses.values())


def test_two_runs_of_one_seed_give_the_same_weights_and_snapshots_come_when_asked() -> None:
    snapshots: list[int] = []

    def train() -> nn.Module:
        return train_clip(
            POOL,
            steps=2,
            batch_size=2,
            lr=1e-3,
            seed=3,
            every=1,
            on_snapshot=lambda step, model: snapshots.append(step),
        )

    first, second = train().state_dict(), train().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    # The last step's model is returned, no snapshot.
    assert snapshots == [1, 1]
