# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The whole model in the published arithmetic against a naive reference, at the tiny size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from helpers.encoders import RESNET, small_clip
from helpers.golden import distance
from helpers.published import center, seeded_model, tiny_published_config, weights_as_published
from helpers.tiny_model import random_image
from torch import Tensor

from benchmarks.published.naive.inference import words
from benchmarks.published.naive.layers import Sizes, Words
from benchmarks.published.naive.system import Answer, Frozen, Settings, View, answer, is_seen, look
from cmpf.data import Vocabulary
from cmpf.encoders.clip_factory import build_clip
from cmpf.inference import InferenceSettings, MaskEnsembleSettings
from cmpf.model import CMPF
from cmpf.types import DecoderOutput, ModelResult

TOLERANCE = 1e-5  # of each array's spread
SIZES = Sizes(encoder_heads=4, points=4, groups=8, decoder_heads=4)  # of configs/shapes
# Words that tiny CLIP can tell from one another; some classes are seen, by any synonym.
TRAINING = [["circle", "ruby ball"], ["blue sky"], ["tree", "wood"]]
CLASSES = [
    ["red circle", "ruby ball"],
    ["cat", "kitten"],
    ["tree"],
    ["clouds", "blue sky"],
    ["sand"],
    ["green star"],
]
THINGS = [True, True, False, False, False, False]
SEEN = [True, False, True, True, False, False]
# By how much mask logits are lowered for some masks to be empty on CLIP's map.
SMALLER = {"convnext": 6.0, "resnet": 3.0}
WORDS = Vocabulary(classes=CLASSES, things=[0, 1])
NO_SAM = (
    "MODEL.CMPF.SAM.NAME", "",
    "MODEL.CMPF.QUERY_INJECTOR.ENABLED", False,
    "MODEL.CMPF.FEATURE_INJECTOR.ENABLED", False,
    "MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS", 0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _double_precision(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The model computes in float64, also where it asks for float32.

    Masks are cut at 0, and in a tenth of all runs the rounding of float32 puts some cell on the other side, which
    shifts a query by about 4e-3 of the spread. What is compared here is the arithmetic, not its rounding.
    """
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@cache
def model_of(kind: str, queries: int = 10, sam: bool = True) -> CMPF:
    clip = (
        build_clip(name="cmpf_tiny", pretrained="cmpf_tiny")
        if kind == "convnext"
        else small_clip(vision=RESNET)
    )
    cfg = tiny_published_config("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", queries, *(() if sam else NO_SAM))
    model = seeded_model(cfg, clip)
    model.train_vocabulary = Vocabulary(classes=TRAINING)
    model.settings = replace(model.settings, ensemble_on_valid_mask=False, detections_per_image=20)
    return center(model.double(), {"image": random_image(70, 100)})


@cache
def frozen_of(model: CMPF) -> Frozen:
    clip, sam = model.encoders.clip, model.encoders.sam
    return Frozen(clip.model, clip.tokenizer, sam and sam.sam, weights_as_published(model), SIZES)


@cache
def words_of(model: CMPF) -> Words:
    with torch.no_grad():
        return words(model.encoders.clip.model, model.encoders.clip.tokenizer, CLASSES)


VIEWS: dict[
    Any, View
] = {}  # the naive network is slow; tests that differ in what follows it share its output


def reference(model: CMPF, one: dict[str, Any], padded: tuple[int, int], options: Settings) -> Answer:
    frozen, known = frozen_of(model), words_of(model)
    key = (model, padded, one["image"].shape, int(one["image"].sum()))
    if key not in VIEWS:
        VIEWS[key] = look(one["image"], padded, frozen, known)
    seen = is_seen(CLASSES, TRAINING)
    return answer(VIEWS[key], one, padded, frozen, known, seen, THINGS, options)


def run(
    model: CMPF, batch: list[dict[str, Any]], settings: InferenceSettings
) -> tuple[DecoderOutput, list[ModelResult]]:
    """All heads and the results."""
    outputs: list[DecoderOutput] = []
    decoder = model.decoder
    hooks = [
        decoder.register_forward_pre_hook(lambda _m, a, k: (a, {**k, "aux": True}), with_kwargs=True),
        decoder.register_forward_hook(lambda _m, _a, output: outputs.append(output)),
    ]
    with torch.inference_mode():
        results = model.infer(batch, WORDS, settings)
    for hook in hooks:
        hook.remove()
    return outputs[0], results


def sample(height: int, width: int, out: tuple[int, int], seed: int = 0) -> dict[str, Any]:
    return {"image": random_image(height, width, seed), "height": out[0], "width": out[1]}


def assert_same(found: Tensor, expected: Tensor, what: str) -> None:
    assert found.shape == expected.shape, what
    assert distance(found, expected.numpy()) < TOLERANCE, what


def assert_heads_agree(outputs: DecoderOutput, index: int, expected: Answer) -> None:
    found = [*outputs["aux_outputs"], outputs]
    assert len(found) == len(expected.heads) == 10  # nine layers and the head before the first
    for number, (ours, (logits, masks)) in enumerate(zip(found, expected.heads, strict=True)):
        assert_same(ours["pred_logits"][index], logits, f"class logits of head {number}")
        assert_same(ours["pred_masks"][index], masks, f"masks of head {number}")


def assert_results_agree(result: ModelResult, expected: Answer) -> None:
    assert_same(result["sem_seg"], expected.scores, "semantic scores")
    ids, segments = result["panoptic_seg"]
    expected_ids, expected_segments = expected.panoptic
    # A pixel on a border between equals may fall to either side.
    assert (ids != expected_ids).sum() <= 2
    assert [(s["id"], s["isthing"], s["category_id"]) for s in segments] == expected_segments
    instances = result["instances"]
    torch.testing.assert_close(instances.scores, expected.instance_scores, rtol=1e-3, atol=1e-5)


def check(
    model: CMPF,
    batch: list[dict[str, Any]],
    options: Settings,
    settings: InferenceSettings,
    padded: tuple[int, int],
) -> list[Answer]:
    """Our model on a batch, and the reference on each of its images."""
    outputs, results = run(model, batch, settings)
    answers = []
    for index, (one, result) in enumerate(zip(batch, results, strict=True)):
        expected = reference(model, one, padded, options)
        assert_heads_agree(outputs, index, expected)
        assert_results_agree(result, expected)
        answers.append(expected)
    return answers


@pytest.mark.parametrize("kind", ["convnext", "resnet"])
@pytest.mark.parametrize(
    ("size", "padded", "output"),
    [
        ((64, 96), (64, 96), (64, 96)),
        ((70, 101), (96, 128), (50, 77)),  # an odd size, made smaller
        ((33, 160), (64, 160), (61, 290)),  # made larger; two rows of cells at stride 32
    ],
)
def test_every_head_and_result_agrees(
    kind: str, size: tuple[int, int], padded: tuple[int, int], output: tuple[int, int]
) -> None:
    model = model_of(kind)
    [expected] = check(model, [sample(*size, output)], Settings(), model.settings, padded)
    # The comparison means something: several classes, segments and instances.
    assert len(expected.class_logs.argmax(dim=1).unique()) > 1
    assert len(expected.instance_scores)
    assert expected.panoptic[1]
    assert is_seen(CLASSES, TRAINING) == SEEN


@pytest.mark.parametrize("queries", [1, 23])
def test_other_query_counts_agree(queries: int) -> None:
    model = model_of("convnext", queries)
    check(model, [sample(50, 90, (50, 90))], Settings(), model.settings, (64, 96))


def test_a_model_without_sam_agrees() -> None:
    model = model_of("convnext", 10, False)
    check(model, [sample(70, 101, (50, 77))], Settings(), model.settings, (96, 128))


def test_other_weights_of_clip_agree() -> None:
    model = model_of("convnext")
    settings = replace(model.settings, alpha=0.0, beta=1.0)
    check(model, [sample(64, 96, (64, 96))], Settings(alpha=0.0, beta=1.0), settings, (64, 96))


def test_thresholds_of_panoptic_segments_agree() -> None:
    model = model_of("convnext")
    settings = replace(model.settings, object_mask_threshold=0.5, overlap_threshold=0.4)
    options = Settings(object_threshold=0.5, overlap_threshold=0.4)
    one = sample(70, 101, (50, 77))
    [expected] = check(model, [one], options, settings, (96, 128))
    [plain] = check(model, [one], Settings(), model.settings, (96, 128))
    assert 0 < len(expected.panoptic[1]) < len(plain.panoptic[1])


@pytest.mark.parametrize("kind", ["convnext", "resnet"])
@pytest.mark.parametrize("valid_only", [False, True])
def test_masks_that_are_empty_on_clips_map_agree(kind: str, valid_only: bool) -> None:
    model = smaller_model(kind)
    settings = replace(model.settings, ensemble_on_valid_mask=valid_only)
    one = sample(70, 101, (50, 77))
    [expected] = check(model, [one], Settings(valid_only=valid_only), settings, (96, 128))
    assert 0 < sum(expected.valid) < len(expected.valid)
    assert torch.isfinite(expected.class_logs).all()


@cache
def smaller_model(kind: str) -> CMPF:
    """Mask logits are lower by about a constant, so that some masks are empty."""
    model = model_of.__wrapped__(kind)
    with torch.no_grad():
        model.pixel_decoder.mask_projection.bias[0] += 3.0
        model.decoder.head.mask_mlp.layers[2].bias[0] -= SMALLER[kind] / 3.0
    return model


def test_images_of_a_batch_are_as_if_each_were_alone() -> None:
    model = model_of("convnext")
    # Both are padded to 64 x 96, alone and together.
    batch = [sample(50, 70, (50, 70), seed=1), sample(64, 90, (32, 45), seed=2)]
    outputs, together = run(model, batch, model.settings)
    for index, one in enumerate(batch):
        alone_outputs, [alone] = run(model, [one], model.settings)
        for name in ("pred_logits", "pred_masks"):
            assert_same(outputs[name][index], alone_outputs[name][0], name)  # type: ignore[literal-required]
        assert_same(together[index]["sem_seg"], alone["sem_seg"], "semantic scores")
        ids = [result["panoptic_seg"][0] for result in (together[index], alone)]
        assert (ids[0] != ids[1]).sum() <= 2  # as above


@pytest.mark.parametrize("kind", ["convnext", "resnet"])
def test_images_of_a_batch_that_are_padded_to_a_common_size_agree(kind: str) -> None:
    model = model_of(kind)
    batch = [sample(40, 100, (40, 100), seed=1), sample(70, 33, (35, 17), seed=2)]
    check(model, batch, Settings(), model.settings, (96, 128))


@pytest.mark.parametrize("before", [False, True])
def test_semantic_scores_agree_whether_masks_are_resized_before_the_sum_or_after(before: bool) -> None:
    model = model_of("convnext")
    settings = replace(model.settings, panoptic=False, instance=False, resize_before=before)
    one = sample(70, 101, (33, 190))
    _, [result] = run(model, [one], settings)
    found = [
        reference(model, one, (96, 128), Settings(resize_before=either)) for either in (before, not before)
    ]
    assert_same(result["sem_seg"], found[0].scores, "semantic scores")
    assert distance(result["sem_seg"], found[1].scores.numpy()) > TOLERANCE


def sam_masks(height: int, width: int) -> Tensor:
    """Logits of six masks, smooth, of both signs, and of one that is empty, at the size of the results."""
    coarse = 6 * torch.randn(1, 7, 3, 4, generator=torch.Generator().manual_seed(5))
    coarse[:, 6] = -0.5
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]


def semantic_ensemble(*, score_threshold: float, published_pooling: bool) -> MaskEnsembleSettings:
    """The ensemble of semantic results alone."""
    return MaskEnsembleSettings(
        tasks=frozenset({"semantic"}),
        alpha=0.3,
        score_threshold=score_threshold,
        decoder_share=0.0,
        max_overlap=1.0,
        overlap_threshold=0.5,
        published_pooling=published_pooling,
    )


@pytest.mark.parametrize("kind", ["convnext", "resnet"])
@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_the_mask_ensemble_agrees(kind: str, published: bool, before: bool) -> None:
    model = model_of(kind)
    # CLIP's map has 10 x 12 cells; of the 32 x 32 padded ones, the fifth column blends the 12th, 11.5 = 4.5 * 32 / 12
    # - 0.5, with the zeros beside it.
    one: dict[str, Any] = {**sample(300, 380, (150, 190)), "sam_masks": sam_masks(150, 190)}
    ensemble = semantic_ensemble(score_threshold=0.1, published_pooling=published)
    settings = replace(
        model.settings, panoptic=False, instance=False, resize_before=before, mask_ensemble=ensemble
    )
    _, [result] = run(model, [one], settings)
    options = Settings(resize_before=before, published_pooling=published, epsilon=0.3, score_threshold=0.1)
    expected = reference(model, one, (320, 384), options)
    assert_same(result["sem_seg"], expected.scores, "semantic scores")
    _, [plain] = run(model, [one], replace(settings, mask_ensemble=None))
    seen = torch.tensor(SEEN)
    assert_same(result["sem_seg"][seen], plain["sem_seg"][seen], "scores of seen classes")
    assert distance(result["sem_seg"][~seen], plain["sem_seg"][~seen].numpy()) > 10 * TOLERANCE


def test_unseen_classes_keep_the_factor_where_sam_found_masks_and_none_passes() -> None:
    model = model_of("convnext")
    one: dict[str, Any] = {**sample(64, 96, (64, 96)), "sam_masks": sam_masks(64, 96)}
    ensemble = semantic_ensemble(score_threshold=1.0, published_pooling=False)
    settings = replace(model.settings, mask_ensemble=ensemble)
    _, [result] = run(model, [one], settings)
    options = Settings(published_pooling=False, epsilon=0.3, score_threshold=1.0)
    assert_same(result["sem_seg"], reference(model, one, (64, 96), options).scores, "semantic scores")
    _, [plain] = run(model, [one], replace(settings, mask_ensemble=None))
    factor = torch.where(torch.tensor(SEEN), 1.0, 0.7)[:, None, None]
    assert_same(result["sem_seg"], plain["sem_seg"] * factor, "0.7 of the scores of unseen classes")
    _, [none] = run(model, [{**one, "sam_masks": one["sam_masks"][:0]}], settings)
    assert torch.equal(none["sem_seg"], plain["sem_seg"])
