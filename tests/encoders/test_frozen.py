# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Modules that nothing trains."""

from __future__ import annotations

import copy

import torch
from helpers.encoders import random_images
from torch import Tensor, nn

from cmpf.encoders.frozen import FrozenModule


class Encoder(FrozenModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.freeze()

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.head(self.encoder(images))
        return output


def test_frozen_weights_and_buffers_are_bit_identical_after_a_training_step() -> None:
    model = Model().train()
    before = copy.deepcopy(model.encoder.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(random_images(2, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    after = model.encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert int(after["layers.1.num_batches_tracked"]) == 0


def test_training_mode_of_a_parent_leaves_a_frozen_part_and_its_layers_in_eval_mode() -> None:
    model = Model().train()
    assert model.head.training
    assert not any(module.training for module in model.encoder.modules())
    assert not model.encoder.train().layers[1].training


def test_only_the_trained_part_gets_gradients_and_the_output_has_no_history() -> None:
    model = Model().train()
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())
    images = random_images(1, 3, 4, 4).requires_grad_()
    assert not model.encoder(images).requires_grad
    assert model(images).requires_grad


def test_a_frozen_module_runs_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = Encoder()(random_images(1, 3, 4, 4))
    assert features.dtype == torch.bfloat16
    assert torch.isfinite(features).all()


def test_the_hash_depends_on_weights_and_buffers_and_on_nothing_else() -> None:
    one = Encoder()
    other = copy.deepcopy(one)
    assert one.weights_hash == other.weights_hash
    assert len(one.weights_hash) == 64
    state = copy.deepcopy(one.state_dict())
    state["layers.1.running_mean"][0] += 1
    assert other.load_state_dict(state)
    assert one.weights_hash != other.weights_hash


def test_the_hash_is_made_again_when_a_parent_loads_other_weights() -> None:
    model = Model()
    first = model.encoder.weights_hash
    state = model.state_dict()
    model.load_state_dict({**state, "encoder.layers.0.bias": state["encoder.layers.0.bias"] + 1})
    assert model.encoder.weights_hash != first
