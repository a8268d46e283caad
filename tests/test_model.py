# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
import torch
from helpers.tiny_model import mask_ensemble, random_image, tiny_config, tiny_model, training_sample
from PIL import Image

from cmpf.data import Vocabulary
from cmpf.encoders.sam import SAMEncoder
from cmpf.encoders.sam_proposals import SAMProposer
from cmpf.errors import TrainingError
from cmpf.factory.encoders import build_proposal_cache
from cmpf.inference.mask_proposals import at_size
from cmpf.model import CMPF
from cmpf.types import Sample, Targets

QUERIES = 30  # of the tiny configs
WORDS = Vocabulary.from_words(["red circle, scarlet disc", "unicorn", "sky"], stuff=["sky"])


@pytest.fixture(scope="module")
def model() -> CMPF:
    return tiny_model()


@pytest.fixture
def fresh_model() -> CMPF:
    """For tests that change it."""
    return tiny_model()


def train_one_step(model: CMPF) -> dict[str, torch.Tensor]:
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    losses = model([training_sample(seed=1), training_sample(seed=2)])
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()
    return {name: loss.detach() for name, loss in losses.items()}


def test_a_training_step_leaves_frozen_parts_bit_identical_and_reaches_every_trained_parameter(
    fresh_model: CMPF,
) -> None:
    model = fresh_model
    before = {k: v.clone() for k, v in model.state_dict().items()}
    buffers = {k: v.clone() for k, v in model.encoders.named_buffers()}
    # Sampling offsets start with zero weights, which hides what lies before them; the second step sees all.
    train_one_step(model)
    model.zero_grad()
    losses = train_one_step(model)
    assert all(torch.isfinite(loss) for loss in losses.values())
    # 7 heads (one before the first of 6 layers) with 3 losses each
    assert len(losses) == 21
    after = model.state_dict()
    for name in before:
        if name.startswith("encoders."):
            assert torch.equal(before[name], after[name]), name
    for name, buffer in model.encoders.named_buffers():
        assert torch.equal(buffers[name], buffer), name
    assert not any(module.training for module in model.encoders.clip.modules())
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.startswith("encoders."), name
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
    changed = [name for name in model.trained_state_dict() if not torch.equal(before[name], after[name])]
    assert len(changed) > 0.9 * len(model.trained_state_dict())


def test_the_trained_state_holds_no_frozen_weight(model: CMPF) -> None:
    names = set(model.trained_state_dict())
    assert not any(name.startswith("encoders.") for name in names)
    assert {name for name, p in model.named_parameters() if p.requires_grad} <= names
    assert "void_embedding.weight" in names


def test_results_have_the_size_that_the_sample_asks_for(model: CMPF) -> None:
    samples = [
        {"image": random_image(64, 96), "height": 50, "width": 77},
        {"image": random_image(96, 64, seed=1)},  # its own size
    ]
    first, second = model(samples, WORDS)
    assert first["sem_seg"].shape == (50, 77)
    assert first["panoptic_seg"][0].shape == (50, 77)
    assert first["panoptic_seg"][0].dtype == torch.int32
    assert first["instances"].pred_masks.shape[1:] == (50, 77)
    assert second["sem_seg"].shape == (96, 64)
    assert int(first["sem_seg"].max()) < 3


def test_a_batch_of_two_equals_two_batches_of_one(model: CMPF) -> None:
    settings = replace(model.settings, semantic_output="scores", mask_ensemble=None)
    samples = [{"image": random_image(64, 96, seed=seed)} for seed in (3, 4)]
    together = model.infer(samples, WORDS, settings)
    for sample, result in zip(samples, together, strict=True):
        (alone,) = model.infer([sample], WORDS, settings)
        torch.testing.assert_close(result["sem_seg"], alone["sem_seg"], rtol=1e-4, atol=1e-4)


def test_the_vocabulary_is_an_input_that_leaves_no_trace(model: CMPF) -> None:
    sample = [{"image": random_image()}]
    first = model.infer(sample, WORDS)[0]["sem_seg"]
    model.infer(sample, Vocabulary.from_words(["something", "else"]))
    assert torch.equal(model.infer(sample, WORDS)[0]["sem_seg"], first)


def test_a_deep_copy_gives_the_same_results_and_shares_no_weights(model: CMPF) -> None:
    """torch.optim.swa_utils.AveragedModel and others copy the models that they are given."""
    sample = [{"image": random_image()}]
    expected = model.infer(sample, WORDS)[0]["sem_seg"]
    twin = copy.deepcopy(model)
    assert torch.equal(twin.infer(sample, WORDS)[0]["sem_seg"], expected)
    assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in model.parameters()}
    assert isinstance(pickle.loads(pickle.dumps(model)), CMPF)  # as starting a process does


def test_without_a_vocabulary_the_training_classes_are_looked_for(model: CMPF) -> None:
    sample = [{"image": random_image()}]
    expected = model.infer(sample, model.train_vocabulary)[0]["sem_seg"]
    assert torch.equal(model(sample)[0]["sem_seg"], expected)


def test_alpha_and_beta_zero_leave_the_decoder_scores(model: CMPF) -> None:
    sample = [{"image": random_image()}]
    settings = replace(model.settings, alpha=0.0, beta=0.0)
    request = model._request(WORDS, settings)
    features, _, _ = model.encoders(sample, with_sam=True)
    with torch.no_grad():
        outputs = model.decode(features, request.classes)
        log_distribution = model.classify(outputs, features, request)
    logits = outputs["pred_logits"]
    void = logits.softmax(-1)[..., -1:]
    expected = torch.cat([logits[..., :-1].softmax(-1) * (1 - void), void], dim=-1)
    torch.testing.assert_close(log_distribution.exp(), expected, rtol=1e-4, atol=1e-5)


def test_seen_means_that_a_synonym_is_a_training_word(model: CMPF) -> None:
    # "red circle" and "sky" are training classes, "unicorn" is not
    assert model._request(WORDS, model.settings).seen.tolist() == [True, False, True]
    other = WORDS.seen_against(Vocabulary(classes=[["unicorn"]]))
    assert model._request(other, model.settings).seen.tolist() == [False, True, False]


def test_masks_in_the_sample_replace_the_proposer(model: CMPF, monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble = mask_ensemble(alpha=0.5, score_threshold=0.0)
    settings = replace(model.settings, mask_ensemble=ensemble, proposals=True, semantic_output="scores")
    monkeypatch.setattr(
        model.encoders.mask_source.proposer, "forward", lambda *_, **__: pytest.fail("proposer was called")
    )
    masks = torch.full((2, 64, 96), -5.0)
    masks[0, :, :48] = 5.0
    masks[1, :, 48:] = 5.0
    (result,) = model.infer([{"image": random_image(), "sam_masks": masks}], WORDS, settings)
    (plain,) = model.infer([{"image": random_image()}], WORDS, replace(settings, mask_ensemble=None))

    assert result["proposals"].shape[0] == QUERIES + 2
    assert torch.equal(result["proposals"][QUERIES:], masks > 0)
    torch.testing.assert_close(result["sem_seg"][[0, 2]], plain["sem_seg"][[0, 2]])  # seen classes
    assert not torch.allclose(result["sem_seg"][1], plain["sem_seg"][1])


def test_published_pooling_looks_at_another_place(model: CMPF) -> None:
    ensemble = mask_ensemble(alpha=0.5, score_threshold=0.0)
    settings = replace(model.settings, mask_ensemble=ensemble, semantic_output="scores")
    masks = torch.full((1, 64, 96), -5.0)
    masks[0, 32:, 64:] = 5.0
    sample = [{"image": random_image(), "sam_masks": masks}]
    aligned = model.infer(sample, WORDS, settings)[0]["sem_seg"]
    published = replace(settings, mask_ensemble=replace(ensemble, published_pooling=True))
    assert not torch.allclose(aligned, model.infer(sample, WORDS, published)[0]["sem_seg"])


@pytest.mark.parametrize(
    "name", ["fcclip_tiny", "query_injector_only", "feature_injector_only", "no_ensemble"]
)
def test_every_ablation_trains_and_predicts(name: str) -> None:
    model = tiny_model(name)
    losses = train_one_step(model)
    assert all(torch.isfinite(loss) for loss in losses.values())
    (result,) = model.eval()([{"image": random_image()}], WORDS)
    assert result["sem_seg"].shape == (64, 96)


def test_a_model_without_sam_never_looks_for_it() -> None:
    model = tiny_model("fcclip_tiny")
    assert model.encoders.sam is None
    assert list(model.encoder_hashes()) == [model.encoders.clip.name]


def test_a_proposer_with_a_sam_of_its_own_serves_a_model_without_one() -> None:
    model = tiny_model("fcclip_tiny", ["TEST.ENSEMBLE.ENABLED", True, "TEST.ENSEMBLE.PRED_IOU_THRESH", 0.0,
                                       "TEST.ENSEMBLE.STABILITY_THRESH", 0.0])  # fmt: skip
    settings = replace(model.settings, proposals=True)
    (result,) = model.infer([{"image": random_image(50, 90)}], WORDS, settings)
    assert result["proposals"].shape[0] > QUERIES


def test_a_model_without_losses_says_so(model: CMPF) -> None:
    criterion, model.criterion = model.criterion, None
    try:
        with pytest.raises(TrainingError, match="built without losses"):
            model.losses([training_sample()])
    finally:
        model.criterion = criterion


def test_an_image_without_targets_trains_void_only(fresh_model: CMPF) -> None:
    fresh_model.train()
    losses = fresh_model([training_sample(targets=0)])
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert float(losses["loss_mask"].detach()) == 0.0


def test_a_vocabulary_in_memory_does_not_wait_while_another_thread_encodes_a_new_one(
    fresh_model: CMPF, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh_model.text_cache = None
    known = fresh_model.class_embeddings(WORDS)
    working, finish, encode = Event(), Event(), fresh_model.encoders.clip.encode_text

    def slow(prompts: list[str]) -> torch.Tensor:
        working.set()
        assert finish.wait(timeout=60)
        return encode(prompts)

    monkeypatch.setattr(fresh_model.encoders.clip, "encode_text", slow)
    with ThreadPoolExecutor(2) as pool:
        new = pool.submit(fresh_model.class_embeddings, Vocabulary.from_words(["a new word"]))
        assert working.wait(timeout=60)
        try:
            assert pool.submit(fresh_model.class_embeddings, WORDS).result(timeout=10) is known
        finally:
            finish.set()
        assert new.result(timeout=60).num_classes == 1


def test_results_in_evaluation_mode_carry_no_gradient(model: CMPF) -> None:
    assert torch.is_grad_enabled()
    settings = replace(model.settings, semantic_output="scores")
    (result,) = model([{"image": random_image()}], WORDS, settings)
    assert not result["sem_seg"].requires_grad
    assert not result["instances"].scores.requires_grad


NO_INJECTORS = ("MODEL.CMPF.QUERY_INJECTOR.ENABLED", False, "MODEL.CMPF.FEATURE_INJECTOR.ENABLED", False)


def test_without_injectors_sam_does_not_run_for_masks_that_are_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[int] = []
    forward = SAMEncoder.forward
    monkeypatch.setattr(SAMEncoder, "forward", lambda *a: calls.append(1) or forward(*a))
    ensemble = [*NO_INJECTORS, "TEST.ENSEMBLE.PRED_IOU_THRESH", 0.0, "TEST.ENSEMBLE.STABILITY_THRESH", 0.0]
    online = tiny_model(overrides=ensemble)
    path = tmp_path / "image.png"
    Image.fromarray(random_image().permute(1, 2, 0).numpy()).save(path)
    sample = {"image": random_image(), "file_name": str(path)}
    (expected,) = online.infer([sample], WORDS)
    assert calls == [1]

    (masks,) = online.encoders.masks([sample], online.encoders([sample], with_sam=False)[0])
    cached_config = [*ensemble, "TEST.ENSEMBLE.SOURCE", "cache", "TEST.ENSEMBLE.CACHE_DIR", str(tmp_path)]
    sam, source = online.encoders.sam, online.encoders.mask_source
    cache = build_proposal_cache(tiny_config(overrides=ensemble), str(tmp_path), sam_hash=sam.weights_hash)
    cache.store(path, source.masks(sample, shared=lambda _: None, device=online.device))
    calls.clear()
    (given,) = online.infer([{**sample, "sam_masks": at_size(masks, random_image().shape[1:])}], WORDS)
    (cached,) = tiny_model(overrides=cached_config).infer([sample], WORDS)
    assert calls == []
    for result in (given, cached):
        assert torch.equal(result["proposals"], expected["proposals"])
        assert torch.equal(result["sem_seg"], expected["sem_seg"])
    assert len(expected["proposals"]) > QUERIES


def test_sam_runs_once_for_an_image_with_injectors_and_ensemble(
    model: CMPF, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    forward = SAMEncoder.forward
    monkeypatch.setattr(SAMEncoder, "forward", lambda *a: calls.append(1) or forward(*a))
    model.infer([{"image": random_image()}], WORDS)
    assert calls == [1]


GENEROUS = ("TEST.ENSEMBLE.PRED_IOU_THRESH", 0.0, "TEST.ENSEMBLE.STABILITY_THRESH", 0.0)


@pytest.fixture(scope="module")
def started() -> CMPF:
    """A model with 30 learned queries and 30 that start at SAM's masks."""
    return tiny_model("proposal_queries", GENEROUS)


def test_queries_start_at_the_largest_masks_of_sam(started: CMPF) -> None:
    batch = [{"image": random_image(64, 96, seed)} for seed in (1, 2)]
    everything = [result["proposals"] for result in started.infer(batch, WORDS)]
    assert [masks.shape for masks in everything] == [(2 * QUERIES, 64, 96)] * 2
    for sample, masks in zip(batch, everything, strict=True):  # whatever else is in the batch
        (alone,) = started.infer([sample], WORDS)
        assert (alone["proposals"] == masks).float().mean() > 0.999


def test_a_training_step_changes_all_that_queries_at_masks_of_sam_bring() -> None:
    model = tiny_model("proposal_queries", GENEROUS)
    own = model.decoder.proposal_queries
    before = {name: value.detach().clone() for name, value in own.named_parameters()}
    train_one_step(model)
    assert [name for name, value in own.named_parameters() if torch.equal(value, before[name])] == []


def test_an_image_without_a_mask_of_sam_has_the_learned_queries_alone_and_any_masks_can_be_given(
    started: CMPF,
) -> None:
    image = random_image(64, 96)
    nothing: Sample = {"image": image, "sam_masks": torch.zeros(0, 64, 96)}
    corner = torch.full((1, 64, 96), -9.0)
    corner[:, :32, :32] = 9.0
    one: Sample = {"image": image, "sam_masks": corner}
    (without,), (given,) = (started.infer([sample], WORDS) for sample in (nothing, one))
    assert without["proposals"].shape == given["proposals"].shape
    # The one query with a proposal finds about this mask: it is added to what the query makes itself.
    found = given["proposals"][QUERIES]
    assert (found & (corner[0] > 0)).sum() / (found | (corner[0] > 0)).sum() > 0.7
    assert not torch.equal(without["proposals"][QUERIES], found)


def test_masks_of_sam_are_made_once_for_queries_and_ensemble(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("proposal_queries_candidates", GENEROUS)
    calls: list[int] = []
    make = SAMProposer.forward
    monkeypatch.setattr(SAMProposer, "forward", lambda *a, **b: calls.append(1) or make(*a, **b))
    (result,) = model.infer([{"image": random_image()}], WORDS)
    assert calls == [1]
    assert len(result["proposals"]) > 2 * QUERIES


class Recorder(torch.nn.Module):
    """Stands in for the criterion and keeps the targets."""

    def forward(self, outputs: object, targets: list[Targets], normalizers: None) -> dict[str, torch.Tensor]:
        self.targets = targets
        return {}


def test_targets_of_images_of_different_sizes_are_padded_like_the_images(fresh_model: CMPF) -> None:
    fresh_model.criterion = recorder = Recorder()  # type: ignore[assignment]
    samples: list[Sample] = [
        {
            "image": torch.zeros(3, *size, dtype=torch.uint8),
            "targets": {"labels": torch.tensor([0]), "masks": torch.ones(1, *size, dtype=torch.bool)},
        }
        for size in ((64, 96), (90, 70))
    ]
    fresh_model.losses(samples)
    # 90 rows and 96 columns are the largest; 96 is the next multiple of 32 of both
    assert [tuple(t["masks"].shape) for t in recorder.targets] == [(1, 96, 96), (1, 96, 96)]
    for target, (height, width) in zip(recorder.targets, ((64, 96), (90, 70)), strict=True):
        assert target["masks"].sum() == height * width
        assert bool(target["masks"][0, :height, :width].all())
