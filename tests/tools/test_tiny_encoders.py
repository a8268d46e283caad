# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Training of the tiny encoders: scenes, words, prompts, losses, and what the shipped ones can do."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.encoders.tiny import (
    build_tiny_clip_model,
    build_tiny_sam,
    load_tiny_clip,
    load_tiny_sam,
    tiny_tokenizer,
)
from cmpf.shapeworld import CATEGORIES, generate_scene
from cmpf.weights.download import ASSETS, checked_asset
from cmpf.weights.reading import load_checked_weights
from tiny_encoders.clip_training import (
    IGNORE_INDEX,
    ClipObjective,
    PromptSampler,
    augment_masks,
    dense_features,
    embed_texts,
    mask_logits,
    material_words,
    phrases,
    pool_cells,
    project,
    shape_words,
    text_to_regions,
    train_clip,
)
from tiny_encoders.evaluation import (
    RegionLabels,
    accuracy_table,
    best_overlap,
    classify_regions,
    evaluate_sam,
)
from tiny_encoders.sam_training import (
    all_prompts,
    boundary,
    decode_points,
    draw_prompts,
    encode_images,
    mask_iou,
    mask_losses,
    soft_targets,
    train_sam,
)
from tiny_encoders.scenes import (
    CLIP_MEAN,
    CLIP_STD,
    VALIDATION_SEEDS,
    BatchSampler,
    SceneBatch,
    category_flags,
    make_batch,
    make_pool,
    network_input,
)
from tiny_encoders.training import (
    Plan,
    build_adamw,
    learning_rate,
    save_merges,
    save_weights,
    train,
)

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
        assert torch.allclose(embed_texts(model, tokenizer, texts), expected, atol=1e-5)


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
    cells = augment_masks(masks, 8, torch.Generator().manual_seed(0))
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
    assert material.tolist() == [IGNORE_INDEX, 1]  # red, yellow, ...
    assert shape.tolist() == [IGNORE_INDEX, 3]  # circle, bar, ring, triangle, ...


def test_every_part_of_the_model_that_inference_uses_gets_a_gradient() -> None:
    torch.manual_seed(0)
    model = build_tiny_clip_model().train()
    losses, _ = ClipObjective(model, seed=0)(model, BatchSampler(POOL, batch_size=2, seed=0).draw())
    torch.stack(list(losses.values())).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(loss.isfinite() for loss in losses.values())


def test_two_runs_of_one_seed_give_the_same_weights_and_snapshots_come_when_asked() -> None:
    snapshots: list[int] = []

    def trained() -> nn.Module:
        plan = Plan(2, 2, 1e-3, seed=3, every=1, on_snapshot=lambda step, model: snapshots.append(step))
        return train_clip(POOL, plan)

    first, second = trained().state_dict(), trained().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    # The last step's model is returned, no snapshot.
    assert snapshots == [1, 1]


FIVE_SCENES = make_pool(5, first_seed=40, label="test")


def test_a_pool_holds_the_scenes_of_its_seeds() -> None:
    scene = generate_scene(42, seen_only=False)
    assert np.array_equal(FIVE_SCENES.images[2], scene.image)
    assert np.array_equal(FIVE_SCENES.ids[2], scene.ids)
    assert [c for c in FIVE_SCENES.category_ids[2] if c >= 0] == [
        segment.category_id for segment in scene.segments
    ]
    assert FIVE_SCENES.captions[2] == scene.caption
    assert len(FIVE_SCENES.first(2)) == 2


def test_masks_of_a_batch_cover_each_pixel_once_and_missing_segments_are_empty() -> None:
    batch = make_batch(FIVE_SCENES, np.array([0, 4]), np.array([False, False]))
    assert (batch.masks.sum(dim=1) == 1).all()
    assert not batch.masks[~batch.present].any()
    assert batch.images.shape == (2, 3, 128, 128)


def test_a_mirrored_scene_has_image_and_masks_mirrored_and_the_pool_stays() -> None:
    before = FIVE_SCENES.images.copy()
    plain, mirrored = (make_batch(FIVE_SCENES, np.array([1]), np.array([flip])) for flip in (False, True))
    assert torch.equal(mirrored.images, plain.images.flip(-1))
    assert torch.equal(mirrored.masks, plain.masks.flip(-1))
    assert np.array_equal(FIVE_SCENES.images, before)


def test_every_scene_comes_once_an_epoch() -> None:
    sampler = BatchSampler(FIVE_SCENES, batch_size=2, seed=0)
    captions = [caption for _ in range(5) for caption in sampler.draw().captions]
    assert sorted(captions) == sorted(FIVE_SCENES.captions * 2)


def test_the_networks_see_256_pixels_with_a_gray_of_the_mean_as_zero() -> None:
    gray = torch.tensor(CLIP_MEAN)[None, :, None, None].expand(1, 3, 128, 128)
    x = network_input(gray + torch.tensor(CLIP_STD)[:, None, None], mean=CLIP_MEAN, std=CLIP_STD)
    assert x.shape == (1, 3, 256, 256)
    # (mean + std - mean) / std = 1
    assert torch.allclose(x, torch.ones(()), atol=1e-5)


def test_flags_follow_the_categories() -> None:
    assert category_flags("isthing").tolist() == [category.isthing for category in CATEGORIES]


NAMES = [category.name for category in CATEGORIES]


def test_the_table_counts_by_kind_and_a_vanished_mask_is_wrong() -> None:
    truth = torch.tensor([NAMES.index(n) for n in ("red circle", "red circle", "striped ring", "sky")])
    named = torch.tensor([NAMES.index("red circle"), NAMES.index("red bar"), -1, NAMES.index("sky")])
    rows = accuracy_table(RegionLabels(truth, named))
    assert rows["regions"] == 50  # the first circle and the sky, of four
    assert rows["things"] == pytest.approx(100 / 3)
    assert rows["unseen"] == 0  # the ring
    assert rows["stuff"] == 100
    assert rows["material of things"] == pytest.approx(200 / 3)  # "red bar" has the right one
    assert rows["shape of things"] == pytest.approx(100 / 3)
    assert rows["vanished masks"] == 25


def test_the_shipped_clip_names_most_regions_of_unseen_images() -> None:
    labels = classify_regions(
        load_tiny_clip(), make_pool(12, first_seed=VALIDATION_SEEDS + 500_000, label="test")
    )
    # 12 scenes are about 75 regions; the card gives the figures on 1,000 scenes.
    assert float((labels.predicted == labels.true).float().mean()) > 0.7


def test_the_best_proposal_counts() -> None:
    true = torch.zeros(1, 4, 4, dtype=torch.bool)
    true[0, :2] = True
    proposals = torch.zeros(2, 4, 4, dtype=torch.bool)
    proposals[0, 0], proposals[1, :3] = True, True
    # 4 of 8 pixels, 8 of 12 pixels.
    assert best_overlap(true, proposals) == pytest.approx([8 / 12])
    assert np.array_equal(best_overlap(true, proposals[:0]), [0])


def test_the_shipped_sam_finds_most_things_of_unseen_images() -> None:
    rows = evaluate_sam(
        load_tiny_sam(), make_pool(8, first_seed=VALIDATION_SEEDS + 500_000, label="test"), seed=0
    )
    # 8 scenes are about 50 segments; the card gives the figures on 1,000 scenes.
    assert rows["IoU best of 3, all"] > 60
    assert rows["found by proposals, things"] > 60


def test_weights_come_back_rounded_to_half_precision_and_readable_by_all(tmp_path: Path) -> None:
    layer = nn.Linear(4, 3)
    save_weights(layer, tmp_path, "layer.safetensors")
    loaded = load_checked_weights("layer.safetensors", folder=tmp_path)
    assert torch.equal(loaded["weight"], layer.weight.detach().half().float())
    assert (tmp_path / "layer.safetensors").stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hashes.json", "layer.safetensors"]


def test_saving_again_renews_one_hash_and_keeps_the_others(tmp_path: Path) -> None:
    save_weights(nn.Linear(1, 1), tmp_path, "a.safetensors")
    save_weights(nn.Linear(1, 1), tmp_path, "b.safetensors")
    before = json.loads((tmp_path / "hashes.json").read_text())
    save_weights(nn.Linear(1, 1), tmp_path, "b.safetensors")
    after = json.loads((tmp_path / "hashes.json").read_text())
    assert before["a.safetensors"] == after["a.safetensors"]
    assert before["b.safetensors"] != after["b.safetensors"]
    checked_asset("b.safetensors", folder=tmp_path)


def test_the_shipped_merges_are_what_the_tool_writes(tmp_path: Path) -> None:
    save_merges(tmp_path, "merges.gz")
    text = gzip.decompress((tmp_path / "merges.gz").read_bytes())
    assert text == gzip.decompress((ASSETS / "bpe_2000_merges.txt.gz").read_bytes())
    # A head line, then the merges.
    assert len(text.decode().split("\n")) == 2001


def test_the_rate_climbs_in_a_line_then_falls_along_a_cosine_to_a_hundredth() -> None:
    rates = [learning_rate(step, steps=104, peak=1.0, warmup=4) for step in range(104)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    # Half-way down: 0.01 + 0.99 / 2
    assert rates[54] == pytest.approx(0.505)
    # The last of 100 steps after warm-up: 0.01 + 0.99 * (1 + cos(0.99 pi)) / 2
    assert rates[-1] == pytest.approx(0.01 + 0.99 * 0.5 * (1 + math.cos(0.99 * math.pi)))


def test_only_matrices_decay() -> None:
    decayed, others = build_adamw([nn.Linear(3, 2)], lr=1.0, weight_decay=0.1).param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(2, 3)]
    assert decayed["weight_decay"] == 0.1
    assert [tuple(p.shape) for p in others["params"]] == [(2,)]
    assert others["weight_decay"] == 0


class Brightness(nn.Module):
    """How far a layer's answer to the mean color of each scene is from 1."""

    def forward(self, layer: nn.Module, batch: SceneBatch) -> tuple[dict[str, Tensor], dict[str, float]]:
        return {"loss": (layer(batch.images.mean(dim=(2, 3)) / 255) - 1).square().mean()}, {}


def test_a_training_lowers_its_loss_and_returns_an_average_without_gradient_that_lags_behind() -> None:
    torch.manual_seed(0)
    layer, objective, snapshots = nn.Linear(3, 1), Brightness(), []
    first = objective(layer, BATCH)[0]["loss"].item()
    plan = Plan(30, 2, 0.1, seed=0, every=10, on_snapshot=lambda step, model: snapshots.append(step))
    averaged = train(layer, objective, POOL, plan, title="test")
    assert objective(layer, BATCH)[0]["loss"].item() < 0.1 * first
    assert not torch.equal(averaged.weight, layer.weight)
    assert not averaged.weight.requires_grad
    assert not averaged.training
    assert snapshots == [10, 20]


BATCH = make_batch(make_pool(2, first_seed=7, label="test"), np.arange(2), np.zeros(2, np.bool_))


def test_every_point_lies_in_its_mask() -> None:
    prompts = draw_prompts(BATCH, per_image=9, generator=torch.Generator().manual_seed(0))
    # x, y of the 256-pixel input: pixel i of 128 has its middle at 2 i + 1, less half a pixel that SAM adds.
    x, y = ((prompts.points + 0.5 - 1) / 2).round().long().unbind(dim=1)
    assert prompts.masks[torch.arange(18), y, x].all()
    assert prompts.image_index.tolist() == [0] * 9 + [1] * 9


def test_each_segment_is_asked_before_any_is_asked_again() -> None:
    prompts = draw_prompts(BATCH, per_image=9, generator=torch.Generator().manual_seed(1))
    first = prompts.masks[:9].flatten(1).float().unique(dim=0)
    assert len(first) == int(BATCH.present[0].sum())


def test_all_segments_get_one_point_each() -> None:
    prompts = all_prompts(BATCH, generator=torch.Generator().manual_seed(0))
    assert len(prompts.points) == int(BATCH.present.sum())
    assert torch.equal(prompts.category_ids, BATCH.category_ids[BATCH.present])


def test_a_batch_of_prompts_equals_segment_anythings_decoder_image_by_image() -> None:
    torch.manual_seed(0)
    sam = build_tiny_sam()
    points, index = torch.tensor([[10.0, 20.0], [200.0, 30.0], [99.0, 180.0]]), torch.tensor([0, 1, 1])
    with torch.no_grad():
        embeddings = encode_images(sam, BATCH.images)
        masks, iou = decode_points(sam, embeddings, points, index)
        for n in range(3):
            prompt = points[n][None, None], torch.ones(1, 1)
            sparse, dense = sam.prompt_encoder(points=prompt, boxes=None, masks=None)
            expected = sam.mask_decoder.predict_masks(
                image_embeddings=embeddings[index[n]][None],
                image_pe=sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
            )
            assert torch.allclose(masks[n], expected[0][0], atol=1e-4)
            assert torch.allclose(iou[n], expected[1][0], atol=1e-4)


def test_targets_are_shares_of_low_resolution_pixels() -> None:
    mask = torch.zeros(1, 128, 128, dtype=torch.bool)
    mask[0, 0, 0] = True
    # One of the 2 x 2 pixels under the first low-resolution pixel.
    assert soft_targets(mask)[0, 0, :2].tolist() == [0.25, 0.0]


def half(columns: int) -> torch.Tensor:
    """A mask of the leftmost columns, (1, 64, 64)."""
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :columns] = 1
    return mask


def test_the_boundary_is_two_pixels_wide_on_both_sides() -> None:
    found = boundary(half(32))[0, 10]
    assert found.nonzero()[:, 0].tolist() == [30, 31, 32, 33]


def test_a_right_mask_costs_nothing_and_a_wrong_one_more_than_an_undecided_one() -> None:
    right = (half(32) * 2 - 1) * 20
    logits = torch.stack([right, -right, torch.zeros_like(right)], dim=1)
    good, bad, undecided = mask_losses(logits, half(32))[0].tolist()
    assert good == pytest.approx(0, abs=1e-3)
    assert bad > undecided > good


def test_iou_of_shifted_halves() -> None:
    logits = torch.stack([half(48), half(16)], dim=1) - 0.5
    # 32 of 48 columns, 16 of 32 columns.
    assert mask_iou(logits, half(32))[0].tolist() == pytest.approx([32 / 48, 16 / 32])


def test_two_runs_of_one_seed_give_the_same_weights() -> None:
    def trained() -> nn.Module:
        return train_sam(POOL, Plan(steps=2, batch_size=2, lr=1e-3, seed=3))

    first, second = trained().state_dict(), trained().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
