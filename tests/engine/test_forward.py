# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""From batches to losses; what happens in two processes stands in test_launch.py."""

from __future__ import annotations

import pytest
import torch
from helpers import distributed_training as helper
from helpers.tiny_model import tiny_model, training_sample

from cmpf.engine.forward import CMPFForward, TrainedPart
from cmpf.errors import TrainingError
from cmpf.model import CMPF


@pytest.fixture(scope="module")
def model() -> CMPF:
    return tiny_model("cmpf_tiny").train()


def test_the_trained_part_holds_every_trained_weight_and_no_frozen_one(model: CMPF) -> None:
    part = TrainedPart(model)
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for p in part.parameters()} == trained
    assert part.state_dict().keys() == model.trained_state_dict().keys()


def test_every_trained_weight_gets_a_gradient(model: CMPF) -> None:
    # DistributedDataParallel waits for all of them.
    batch = [training_sample(seed=0, targets=2), training_sample(seed=1, targets=0)]
    forward = CMPFForward(model)
    sum(forward(batch, forward.normalizers(batch)).values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    model.zero_grad()


def test_parts_of_a_batch_add_up_to_its_losses(model: CMPF, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper.matcher, "uniform_points", helper.fixed_points)
    monkeypatch.setattr(
        helper.criterion,
        "uncertain_points",
        lambda maps, *, num_points, **_: helper.fixed_points(len(maps), num_points, maps.device),
    )
    batch = [training_sample(seed=i, targets=n) for i, n in enumerate((1, 4, 0))]
    forward = CMPFForward(model)
    normalizers = forward.normalizers(batch)
    with torch.no_grad(), forward.no_sync():
        whole = forward(batch, normalizers)
        parts = [forward(batch[:1], normalizers), forward(batch[1:], normalizers)]
        own = model(batch)
    for name, loss in whole.items():
        assert sum(part[name].item() for part in parts) == pytest.approx(loss.item(), rel=1e-4)
        assert own[name].item() == loss.item()  # what the model says without a trainer


def test_a_model_without_losses_is_refused(model: CMPF, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "criterion", None)
    with pytest.raises(TrainingError, match="built without losses"):
        CMPFForward(model)
