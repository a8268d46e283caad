# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The whole model on a GPU does what it does on the CPU: `pytest -m gpu tests/test_cuda.py`.

CMPF_TEST_DEVICE=cpu runs the same tests without a GPU, which shows that they can be passed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from helpers.tiny_model import training_sample

from benchmarks.cases.training import fixed_random_points
from cmpf.cli import main
from cmpf.config import get_cfg
from cmpf.engine.forward import CMPFForward
from cmpf.engine.step import TrainStep
from cmpf.factory import build_model
from cmpf.model import CMPF
from cmpf.shapeworld.__main__ import main as write_shapeworld
from cmpf.types import ModelResult, Sample
from cmpf.weights.hub import find_model

pytestmark = pytest.mark.gpu

DEVICE = os.environ.get("CMPF_TEST_DEVICE", "cuda")
IMAGES = 4


def shipped_model(device: str, *overrides: object) -> CMPF:
    """The trained tiny model."""
    config, settings, weights = find_model("cmpf_tiny", need_weights=True)
    own = ["MODEL.WEIGHTS", str(weights), "MODEL.DEVICE", device, *overrides]
    return build_model(get_cfg(config, [*settings, *own])).eval()


@pytest.fixture(scope="module")
def cpu() -> CMPF:
    return shipped_model("cpu")


@pytest.fixture(scope="module")
def exact() -> Iterator[CMPF]:
    """On the GPU, with float32 products that are not shortened to TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield shipped_model(DEVICE, "MODEL.CMPF.PRECISION", "fp32")
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ShapeWorld of a few images."""
    folder = tmp_path_factory.mktemp("datasets")
    arguments = ["--out", str(folder / "shapeworld"), "--train", "2", "--val", str(IMAGES), "--jobs", "1"]
    assert write_shapeworld(arguments) == 0
    return folder


@pytest.fixture(scope="module")
def batch(world: Path) -> list[Sample]:
    with patch.dict(os.environ, {"DETECTRON2_DATASETS": str(world)}):
        from cmpf.data import get_dataset
        from cmpf.factory import build_test_loader

        dataset = get_dataset("shapes_val")
        cfg = get_cfg("cmpf_tiny", ["DATALOADER.NUM_WORKERS", 0, "TEST.IMS_PER_BATCH", IMAGES])
        (samples,) = build_test_loader(cfg, dataset)
    return samples


def results(model: CMPF, batch: list[Sample]) -> list[ModelResult]:
    with torch.inference_mode():
        found = model(batch)
    assert isinstance(found, list)
    return found


def same_labels(ours: list[ModelResult], expected: list[ModelResult]) -> float:
    """Share of pixels with the same class."""
    pairs = zip(ours, expected, strict=True)
    return float(torch.stack([(a["sem_seg"].cpu() == b["sem_seg"]).float().mean() for a, b in pairs]).mean())


def test_frozen_features_and_predictions_agree_with_the_cpu(
    cpu: CMPF, exact: CMPF, batch: list[Sample]
) -> None:
    found = []
    for model in (exact, cpu):
        with torch.no_grad():
            features, _, _ = model.encoders(batch, with_sam=True)
            outputs = model.decode(features, model.class_embeddings(model.train_vocabulary))
        found.append(
            [features.clip.dense, *features.clip.levels.values(), features.sam, outputs["pred_masks"]]
        )
    for ours, expected in zip(*found, strict=True):
        difference = (ours.cpu() - expected).abs()
        # Some masks steer attention by their sign, so single cells may differ by more than rounding.
        assert float(difference.mean() / expected.abs().mean()) < 1e-3


def test_results_of_all_tasks_agree_with_the_cpu(cpu: CMPF, exact: CMPF, batch: list[Sample]) -> None:
    ours, expected = results(exact, batch), results(cpu, batch)
    assert same_labels(ours, expected) > 0.995
    for a, b in zip(ours, expected, strict=True):
        (segments, infos), (wanted, wanted_infos) = a["panoptic_seg"], b["panoptic_seg"]
        assert [info["category_id"] for info in infos] == [info["category_id"] for info in wanted_infos]
        assert float((segments.cpu() == wanted).float().mean()) > 0.995
        torch.testing.assert_close(a["instances"].scores.cpu(), b["instances"].scores, atol=1e-2, rtol=0)


def test_mixed_precision_changes_few_pixels(cpu: CMPF, batch: list[Sample]) -> None:
    model = shipped_model(DEVICE, "MODEL.CMPF.PRECISION", "bf16")
    assert same_labels(results(model, batch), results(cpu, batch)) > 0.97


def test_a_batch_gives_what_its_images_give_alone(exact: CMPF, batch: list[Sample]) -> None:
    alone = [{"sem_seg": found["sem_seg"].cpu()} for sample in batch for found in results(exact, [sample])]
    assert same_labels(results(exact, batch), alone) > 0.995  # type: ignore[arg-type]


def test_losses_and_gradients_agree_with_the_cpu(cpu: CMPF, exact: CMPF) -> None:
    samples = [training_sample(128, 128, seed=seed) for seed in range(2)]
    found = []
    for model in (exact, cpu):
        model.zero_grad()
        with fixed_random_points():  # instead of random ones, which devices draw differently
            losses = model.losses(samples)
        sum(losses.values()).backward()  # type: ignore[union-attr]
        gradient = torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])
        found.append(({name: float(loss.detach()) for name, loss in losses.items()}, gradient))
        model.zero_grad()
    (ours, gradient), (expected, wanted) = found
    assert ours == pytest.approx(expected, rel=1e-3)
    assert float(torch.nn.functional.cosine_similarity(gradient, wanted, dim=0)) > 0.999


def test_training_in_mixed_precision_learns_its_images() -> None:
    config = ["MODEL.DEVICE", DEVICE, "MODEL.CMPF.GRADIENT_CHECKPOINTING", True]
    torch.manual_seed(0)
    model = build_model(get_cfg("cmpf_tiny", config)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-4)
    step = TrainStep(forward=CMPFForward(model), optimizer=optimizer, amp=True, clip_norm=1.0)
    samples = [training_sample(128, 128, seed=seed) for seed in range(2)]
    taken = [step(samples) for _ in range(30)]
    assert [result.issue for result in taken] == [""] * 30
    totals = [sum(result.losses.values()) for result in taken]
    assert sum(totals[-5:]) < 0.7 * sum(totals[:5])


def test_an_evaluation_on_the_gpu_has_the_numbers_of_one_on_the_cpu(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world))
    found = {}
    for device in ("cpu", DEVICE):
        output = tmp_path / device
        arguments = ["eval", "--model", "cmpf_tiny", "--engine", "native", "--output", str(output)]
        settings = ["MODEL.DEVICE", device, "MODEL.CMPF.PRECISION", "fp32", "DATALOADER.NUM_WORKERS", "1"]
        assert main([*arguments, *settings]) == 0
        found[device] = json.loads((output / "results.json").read_text())["shapes_val"]
    for task, metric in (("panoptic", "PQ"), ("sem_seg", "mIoU"), ("segm", "AP")):
        assert found[DEVICE][task][metric] == pytest.approx(found["cpu"][task][metric], abs=1.0)
