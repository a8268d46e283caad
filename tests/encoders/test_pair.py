# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""CLIP and SAM over a batch, and SAM's masks named by CLIP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from helpers.tiny_model import random_image, tiny_model
from PIL import Image
from torch.nn import functional as F

from cmpf.data import Vocabulary
from cmpf.encoders import pair
from cmpf.encoders.pair import SAM_PIXEL_MEAN, SAM_PIXEL_STD, FrozenEncoders, run_on_side_stream, sam_input
from cmpf.encoders.sam import SAMEncoder
from cmpf.encoders.sam_proposals import Proposals
from cmpf.errors import EvaluationError
from cmpf.inference.mask_proposals import CachedMasks, OnlineMasks, sam_evidence
from cmpf.inference.proposal_cache import ProposalCache
from cmpf.inference.settings import ImageGeometry
from cmpf.model import CMPF


@pytest.fixture(scope="module")
def model() -> CMPF:
    return tiny_model()


@pytest.fixture(scope="module")
def encoders(model: CMPF) -> FrozenEncoders:
    return model.encoders


def test_a_batch_is_padded_to_multiples_of_32_and_features_follow(encoders: FrozenEncoders) -> None:
    batch = [{"image": random_image(50, 70)}, {"image": random_image(64, 40)}]
    features, padded, sizes = encoders(batch, with_sam=True)
    assert padded == (64, 96)  # 64 = 2 * 32; 70 -> 96 = 3 * 32
    assert sizes == [(50, 70), (64, 40)]
    strides = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
    for name, level in features.clip.levels.items():
        assert level.shape[-2:] == (64 // strides[name], 96 // strides[name])
    assert features.sam is not None
    assert features.sam.shape[0] == 2


def test_sam_runs_only_when_it_is_asked_for(encoders: FrozenEncoders) -> None:
    features, _, _ = encoders([{"image": random_image()}], with_sam=False)
    assert features.sam is None


def test_sam_sees_its_own_normalization_padded_after_it() -> None:
    image = random_image(50, 70)
    given = sam_input([image], divisor=32, device=torch.device("cpu"))
    mean, std = (torch.tensor(v)[:, None, None] for v in (SAM_PIXEL_MEAN, SAM_PIXEL_STD))
    torch.testing.assert_close(given[0, :, :50, :70], (image.float() - mean) / std)
    assert given.shape == (1, 3, 64, 96)
    assert given[0, :, 50:].abs().sum() == 0
    assert given[0, :, :, 70:].abs().sum() == 0


def test_no_gradient_reaches_or_leaves_the_encoders(encoders: FrozenEncoders) -> None:
    features, _, _ = encoders([{"image": random_image()}], with_sam=True)
    assert not features.clip.dense.requires_grad
    assert features.sam is not None
    assert not features.sam.requires_grad


def naive_probabilities(
    model: CMPF, features, masks: torch.Tensor, geometry: ImageGeometry, words: Vocabulary
):
    """Pads each mask to the padded image, picks the map's nearest cells, pools by loops, scores with CLIP."""
    clip, dense = model.encoders.clip, features.clip.dense
    height, width = dense.shape[-2:]
    rows = []
    for mask in masks:
        padded = F.pad(
            mask, (0, geometry.padded[1] - mask.shape[1], 0, geometry.padded[0] - mask.shape[0]), value=-1.0
        )
        total, count = torch.zeros(dense.shape[1]), 0
        for y in range(height):
            for x in range(width):
                if padded[y * geometry.padded[0] // height, x * geometry.padded[1] // width] > 0:
                    total, count = total + dense[0, :, y, x], count + 1
        pooled = (total / max(count, 1))[None, :, None, None]
        rows.append(clip.embed_masks(pooled, torch.ones(1, 1, 1, 1))[0][0, 0])
    embeddings = F.normalize(torch.stack(rows), dim=-1)
    classes = model._with_void(model.class_embeddings(words))
    similarity = clip.logit_scale * embeddings @ classes.matrix.T
    logits = torch.stack(
        [similarity[:, classes.class_of_row == k].amax(dim=1) for k in range(classes.num_classes)], dim=1
    )
    return logits.softmax(dim=-1)[:, :-1]


def test_sam_masks_are_named_by_the_features_that_lie_under_them(
    model: CMPF, encoders: FrozenEncoders
) -> None:
    words = Vocabulary.from_words(["red circle, scarlet disc", "sky", "unicorn"])
    features, padded, sizes = encoders([{"image": random_image(100, 150)}], with_sam=False)
    geometry = ImageGeometry(padded=padded, unpadded=sizes[0], output=(50, 75))
    masks = torch.full((3, 100, 150), -4.0)
    masks[0, :50, :60] = 4.0
    masks[1, 60:, 100:] = 4.0
    masks[2, 10:90, 40:140] = 4.0
    with torch.no_grad():
        evidence = sam_evidence(
            encoders.clip,
            Proposals(masks, (100, 150), (100, 150)),
            features.clip.dense,
            naming=model.naming,
            classes=model._with_void(model.class_embeddings(words)),
            geometry=geometry,
            published_pooling=False,
        )
        expected = naive_probabilities(model, features, masks, geometry, words)
    torch.testing.assert_close(evidence.class_probs[:, :-1], expected, rtol=1e-4, atol=1e-5)


def test_hashes_name_the_encoders_that_the_weights_belong_to(encoders: FrozenEncoders) -> None:
    assert list(encoders.hashes()) == ["clip/cmpf_tiny", "sam/cmpf_tiny"]
    assert all(len(value) == 64 for value in encoders.hashes().values())


ANY_MASK = ("TEST.ENSEMBLE.PRED_IOU_THRESH", 0.0, "TEST.ENSEMBLE.STABILITY_THRESH", 0.0)


@pytest.fixture(scope="module")
def finder() -> FrozenEncoders:
    """Encoders whose SAM, though random, finds masks everywhere."""
    return tiny_model(overrides=[*ANY_MASK]).encoders


@pytest.fixture
def sam_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of all that SAM encodes."""
    calls: list[tuple[int, ...]] = []
    forward = SAMEncoder.forward

    def counted(self: SAMEncoder, images: torch.Tensor, **options: bool) -> torch.Tensor:
        calls.append(tuple(images.shape))
        return forward(self, images, **options)

    monkeypatch.setattr(SAMEncoder, "forward", counted)
    return calls


def saved_image(folder: Path, seed: int) -> dict[str, object]:
    """A sample whose file is its own image."""
    image = random_image(60, 90, seed)
    path = folder / f"{seed}.png"
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return {"image": image, "file_name": str(path)}


def test_masks_of_an_image_do_not_depend_on_its_batch(finder: FrozenEncoders) -> None:
    small, large = {"image": random_image(60, 90, 1)}, {"image": random_image(128, 64, 2)}
    together, _, _ = finder([small, large], with_sam=True)
    for sample, found in zip((small, large), finder.masks([small, large], together), strict=True):
        alone, _, _ = finder([sample], with_sam=True)
        (expected,) = finder.masks([sample], alone)
        assert expected is not None
        assert len(expected) > 0
        assert expected.unpadded == sample["image"].shape[1:]
        assert found is not None
        assert torch.equal(found.logits, expected.logits)


def test_sam_runs_once_per_image_for_features_and_masks_of_a_batch_of_one_size(
    finder: FrozenEncoders, sam_calls: list[tuple[int, ...]]
) -> None:
    batch = [{"image": random_image(60, 90, seed)} for seed in (1, 2)]
    features, _, _ = finder(batch, with_sam=True, sam_alone=True)
    found = finder.masks(batch, features)
    assert sam_calls == [(1, 3, 64, 96)] * 2
    together, _, _ = finder(batch, with_sam=True)
    torch.testing.assert_close(features.sam, together.sam)
    for masks, expected in zip(found, finder.masks(batch, together), strict=True):
        assert masks is not None
        assert expected is not None
        assert len(masks) > 0
        assert torch.equal(masks.logits, expected.logits)
    batch[1] = {"image": random_image(64, 64, 2)}  # in a batch it is padded, alone it is not
    features, _, _ = finder(batch, with_sam=True, sam_alone=True)
    assert not features.sam_alone


def test_in_training_sam_runs_once_for_a_batch_of_one_size(
    finder: FrozenEncoders, sam_calls: list[tuple[int, ...]]
) -> None:
    batch = [{"image": random_image(64, 96, seed)} for seed in (1, 2)]
    features, _, _ = finder(batch, with_sam=True)
    exact = finder.masks(batch, features)
    assert sam_calls == [(2, 3, 64, 96), (1, 3, 64, 96), (1, 3, 64, 96)]
    sam_calls.clear()
    for found, expected in zip(finder.masks(batch, features, exact=False), exact, strict=True):
        assert found is not None
        assert expected is not None
        torch.testing.assert_close(found.logits, expected.logits, atol=1e-3, rtol=1e-3)
    assert sam_calls == []
    batch[1] = {
        "image": random_image(64, 64, 2)
    }  # in a batch it is padded, and SAM sees it squashed otherwise
    finder.masks(batch, features, exact=False)
    assert sam_calls == [(1, 3, 64, 96), (1, 3, 64, 64)]


def test_sam_runs_once_for_features_and_masks_of_an_image_alone(
    finder: FrozenEncoders, sam_calls: list[tuple[int, ...]]
) -> None:
    sample = {"image": random_image(60, 90)}
    features, _, _ = finder([sample], with_sam=True)
    (shared,) = finder.masks([sample], features)
    assert sam_calls == [(1, 3, 64, 96)]
    without, _, _ = finder([sample], with_sam=False)
    (own,) = finder.masks([sample], without)
    assert sam_calls == [(1, 3, 64, 96)] * 2
    assert shared is not None
    assert own is not None
    assert torch.equal(shared.logits, own.logits)


def test_masks_are_those_of_the_square_even_where_features_keep_the_aspect_of_images(
    finder: FrozenEncoders, sam_calls: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    oblong, square = {"image": random_image(60, 90)}, {"image": random_image(64, 64, 2)}
    expected = [finder.masks([sample], finder([sample], with_sam=True)[0])[0] for sample in (oblong, square)]
    monkeypatch.setattr(finder, "sam_keeps_aspect", True)
    sam_calls.clear()
    features, _, _ = finder([oblong], with_sam=True)
    assert features.sam is not None
    assert features.sam.shape[-2:] == (11, 16)  # 64 x 96 with its padding; 16 * 64 / 96 = 10.7
    (found,) = finder.masks([oblong], features)
    (alike,) = finder.masks([square], finder([square], with_sam=True)[0])
    assert sam_calls == [
        (1, 3, 64, 96),
        (1, 3, 64, 96),
        (1, 3, 64, 64),
    ]  # once more for the oblong one's masks
    for own, before in zip((found, alike), expected, strict=True):
        assert own is not None
        assert before is not None
        assert len(own) > 0
        assert torch.equal(own.logits, before.logits)


def test_cached_masks_are_the_online_ones_bit_for_bit_and_sam_stays_silent(
    finder: FrozenEncoders, sam_calls: list[tuple[int, ...]], tmp_path: Path
) -> None:
    cache = ProposalCache(folder=tmp_path / "masks", settings={}, command="make them")
    source = finder.mask_source
    assert isinstance(source, OnlineMasks)
    samples = [saved_image(tmp_path, seed) for seed in (1, 2)]
    features, _, _ = finder(samples, with_sam=False)
    for sample in samples:
        cache.store(sample["file_name"], source.masks(sample, shared=lambda _: None, device=finder.device))
    online = finder.masks(samples, features)
    sam_calls.clear()
    cached = CachedMasks(cache)
    for sample, expected in zip(samples, online, strict=True):
        found = cached.masks(sample, shared=lambda _: None, device=finder.device)
        assert expected is not None
        assert len(expected) > 0
        assert found.logits.numpy().tobytes() == expected.logits.numpy().tobytes()
        assert (found.padded, found.unpadded) == (expected.padded, expected.unpadded)
    assert sam_calls == []


def test_an_image_without_a_file_has_no_cached_masks(tmp_path: Path) -> None:
    cached = CachedMasks(ProposalCache(folder=tmp_path, settings={}, command="make them"))
    with pytest.raises(EvaluationError, match=r"no file_name; set TEST\.ENSEMBLE\.SOURCE online"):
        cached.masks({"image": random_image()}, shared=lambda _: None, device=torch.device("cpu"))


CUDA = torch.device("cuda")


def test_on_a_cpu_the_work_is_done_at_once() -> None:
    done: list[int] = []

    def work() -> torch.Tensor:
        done.append(1)
        return torch.ones(2)

    result = run_on_side_stream(work, torch.device("cpu"))
    assert done == [1]
    assert torch.equal(result(), torch.ones(2))
    assert done == [1]


class Stream:
    """Stands for a CUDA stream; tells what is asked of it."""

    def __init__(self, name: str, told: list[str]) -> None:
        self.name, self.told = name, told

    def wait_stream(self, other: Stream) -> None:
        self.told.append(f"{self.name} waits for {other.name}")


class Result:
    def __init__(self, told: list[str]) -> None:
        self.told = told

    def record_stream(self, stream: Stream) -> None:
        self.told.append(f"result is used by {stream.name}")


def test_streams_wait_for_each_other_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    caller, side = Stream("caller", told), Stream("side", told)

    @contextmanager
    def inside(stream: Stream) -> Iterator[None]:
        told.append(f"in {stream.name}")
        yield
        told.append(f"out of {stream.name}")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: caller)
    monkeypatch.setattr(torch.cuda, "stream", inside)
    monkeypatch.setattr(pair, "_side_stream", lambda _: side)
    result = run_on_side_stream(lambda: told.append("work") or Result(told), CUDA)
    assert told == ["side waits for caller", "in side", "work", "out of side"]
    result()
    assert told[4:] == ["caller waits for side", "result is used by caller"]


@pytest.mark.gpu
def test_work_beside_sees_what_came_before_and_is_seen_by_what_comes_after() -> None:
    x = torch.zeros(4096, 4096, device=CUDA)
    for step in range(20):
        x = x + 1  # on the caller's stream
        given = x
        result = run_on_side_stream(lambda given=given: given @ torch.eye(4096, device=CUDA), CUDA)
        busy = torch.rand(2048, 2048, device=CUDA) @ torch.rand(2048, 2048, device=CUDA)
        assert float((result() - (step + 1)).abs().max()) == 0
        del busy
