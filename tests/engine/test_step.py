# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers import distributed_training as helper
from helpers.tiny_model import tiny_model, training_sample
from helpers.toy_training import PlainForward
from torch import Tensor, nn

from cmpf.engine.forward import CMPFForward, TrainedPart
from cmpf.engine.step import MixedPrecision, TrainStep, split
from cmpf.errors import TrainingError
from cmpf.model import CMPF


class Weights(nn.Module):
    """Two weights in two tensors: a norm of each differs from that of both. Loss = (3 a + 4 b) * batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(1))
        self.b = nn.Parameter(torch.zeros(1))

    def forward(self, batch: Any) -> dict[str, Tensor]:
        return {
            "loss_a": 3 * self.a.sum() * torch.as_tensor(batch).mean(),
            "loss_b": 4 * self.b.sum() * torch.as_tensor(batch).mean(),
        }


def make(clip_norm: float) -> tuple[Weights, TrainStep]:
    model = Weights()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    return model, TrainStep(forward=PlainForward(model), optimizer=optimizer, amp=False, clip_norm=clip_norm)


def test_gradients_are_clipped_by_their_common_norm() -> None:
    model, step = make(clip_norm=0.5)
    result = step(1.0)
    # gradient (3, 4) has norm 5; clipped to 0.5 it is (0.3, 0.4), and the rate is 1
    assert result.grad_norm == pytest.approx(5.0)
    assert [model.a.item(), model.b.item()] == pytest.approx([-0.3, -0.4])
    assert result.issue == ""


def test_gradients_below_the_limit_stay() -> None:
    model, step = make(clip_norm=6.0)
    step(1.0)
    assert [model.a.item(), model.b.item()] == [-3.0, -4.0]


def test_an_infinite_limit_clips_nothing() -> None:
    model, step = make(clip_norm=math.inf)
    step(1000.0)
    assert [model.a.item(), model.b.item()] == [-3000.0, -4000.0]


def test_losses_come_back_as_numbers_by_name() -> None:
    _, step = make(clip_norm=math.inf)
    step(1.0)
    assert step(1.0).losses == {"loss_a": -9.0, "loss_b": -16.0}  # 3 * -3, 4 * -4


def test_gradients_do_not_add_up_over_steps() -> None:
    model, step = make(clip_norm=math.inf)
    step(1.0)
    step(1.0)
    assert model.a.item() == -6.0


def test_a_loss_that_is_not_finite_moves_nothing_and_is_named() -> None:
    model, step = make(clip_norm=1.0)
    result = step(float("inf"))  # 0 * inf = nan
    assert result.issue == "loss_a = nan, loss_b = nan"
    assert math.isnan(result.grad_norm)
    assert [model.a.item(), model.b.item()] == [0.0, 0.0]


def test_a_long_list_of_issues_is_cut() -> None:
    class Many(Weights):
        def forward(self, batch: Any) -> dict[str, Tensor]:
            return {f"loss_{i}": self.a.sum() + math.inf for i in range(5)}

    model = Many()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    result = TrainStep(forward=PlainForward(model), optimizer=optimizer, amp=False, clip_norm=1.0)(None)
    assert result.issue == "loss_0 = inf, loss_1 = inf, loss_2 = inf and 2 more"


def test_an_overflow_of_a_scaled_gradient_is_left_out_without_being_an_issue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cmpf.engine.step.lowest_precision", lambda device: torch.float16)
    model = Weights()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    step = TrainStep(forward=PlainForward(model), optimizer=optimizer, amp=True, clip_norm=math.inf)
    result = step(3e38)  # the losses are 0, their slopes overflow once multiplied by the scale
    assert result.issue == ""
    assert math.isinf(result.grad_norm)
    assert [model.a.item(), model.b.item()] == [0.0, 0.0]
    assert step(1.0).grad_norm == pytest.approx(5.0)
    assert [model.a.item(), model.b.item()] == [-3.0, -4.0]


def test_a_gradient_that_is_not_finite_moves_nothing_and_is_named() -> None:
    class Root(Weights):
        def forward(self, batch: Any) -> dict[str, Tensor]:
            return {"loss": self.a.sum().sqrt() + self.b.sum()}  # the root's slope at 0 is infinite

    model = Root()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    result = TrainStep(forward=PlainForward(model), optimizer=optimizer, amp=False, clip_norm=1.0)(None)
    assert result.losses == {"loss": 0.0}
    assert result.issue == "gradient norm = inf"
    assert [model.a.item(), model.b.item()] == [0.0, 0.0]


class Mean(nn.Module):
    """Loss = weight * mean of the numbers of a batch; finite or not."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, batch: list[float]) -> dict[str, Tensor]:
        return {"loss": self.weight.sum() * sum(batch) / len(batch)}


def in_parts(numbers: list[float], parts: int) -> tuple[float, dict[str, float], str]:
    model = Mean()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    step = TrainStep(
        forward=PlainForward(model),
        optimizer=optimizer,
        amp=False,
        clip_norm=math.inf,
        accumulation_steps=parts,
    )
    result = step(numbers)
    return model.weight.item(), result.losses, result.issue


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_a_batch_in_parts_makes_the_step_of_the_whole_batch(parts: int) -> None:
    # The mean of 1, 2, 3 and 10 is 4; rate 1 takes the weight from 1 to -3.
    weight, losses, issue = in_parts([1.0, 2.0, 3.0, 10.0], parts)
    assert weight == pytest.approx(-3.0)
    assert losses == {"loss": pytest.approx(4.0)}
    assert issue == ""


@pytest.mark.parametrize("bad", [0, 3])
def test_a_part_that_is_not_finite_leaves_the_whole_step_out(bad: int) -> None:
    numbers = [1.0] * 4
    numbers[bad] = math.nan
    weight, _, issue = in_parts(numbers, 2)
    assert weight == 1.0
    assert issue == "loss = nan"


def test_parts_are_of_equal_length_or_one_longer() -> None:
    assert split([1, 2, 3, 4, 5], 3) == [[1, 2], [3, 4], [5]]
    assert split("anything", 1) == ["anything"]


def test_more_parts_than_images_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"ACCUMULATION_STEPS 3: each process has 2 images"):
        split([1, 2], 3)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_trains_in_parts_too(dtype: str) -> None:
    model = nn.Linear(4, 1, bias=False)
    nn.init.ones_(model.weight)
    types = []

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = model

        def forward(self, batch: list[Tensor]) -> dict[str, Tensor]:
            output = self.layer(torch.stack(batch))
            types.append(output.dtype)
            return {"loss": output.float().mean()}

    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    step = TrainStep(
        forward=PlainForward(Model()),
        optimizer=optimizer,
        amp=True,
        amp_dtype=dtype,
        clip_norm=math.inf,
        accumulation_steps=2,
    )
    result = step([torch.ones(4), torch.zeros(4)])
    assert types == [step.precision.dtype] * 2
    assert result.losses == {"loss": 2.0}  # (4 + 0) / 2
    assert result.grad_norm == pytest.approx(1.0)  # four slopes of 1 / 2
    assert torch.allclose(model.weight, torch.full((1, 4), 0.5))


@pytest.mark.parametrize("enabled", [False, True])
def test_the_cpu_computes_in_float32_with_or_without_mixed_precision(enabled: bool) -> None:
    precision = MixedPrecision(enabled=enabled, device=torch.device("cpu"))
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    with precision.autocast():
        output = layer(torch.ones(1, 2))
    assert precision.dtype is output.dtype is torch.float32
    assert not precision.expects_overflow
    before = layer.bias.detach().clone()
    precision.backward(output.sum())
    precision.unscale(optimizer)
    precision.step(optimizer)
    assert torch.equal(layer.bias, before - 1)  # gradient 1, rate 1
    assert precision.state_dict() == {}
    precision.load_state_dict({})


@pytest.mark.gpu
def test_a_gpu_with_bfloat16_uses_it_without_a_scaler() -> None:
    precision = MixedPrecision(enabled=True, device=torch.device("cuda"))
    layer = nn.Linear(2, 2).cuda()
    with precision.autocast():
        output = layer(torch.ones(1, 2, device="cuda"))
    assert output.dtype is precision.dtype
    assert (precision.state_dict() == {}) == (precision.dtype is torch.bfloat16)
    assert precision.expects_overflow == (precision.dtype is torch.float16)


def test_float16_scales_losses_and_leaves_out_steps_that_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmpf.engine.step.lowest_precision", lambda device: torch.float16)
    precision = MixedPrecision(enabled=True, device=torch.device("cpu"))
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    with precision.autocast():
        assert nn.functional.linear(torch.ones(1, 1), torch.ones(1, 1)).dtype is torch.float16
    precision.backward(3 * weight.sum())
    precision.unscale(optimizer)
    assert weight.grad is not None
    assert weight.grad.item() == 3.0  # unscaled, so that clipping sees the true gradient
    scale = precision.state_dict()["scale"]
    optimizer.zero_grad()
    precision.step(optimizer)
    precision.backward(weight.sum() * float("inf"))
    precision.unscale(optimizer)
    assert precision.expects_overflow
    precision.step(optimizer)
    assert weight.item() == 1.0
    assert precision.state_dict()["scale"] == scale / 2


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_a_type_that_is_asked_for_is_used_on_a_cpu_too(name: str, dtype: torch.dtype) -> None:
    precision = MixedPrecision(enabled=True, device=torch.device("cpu"), dtype=name)
    with precision.autocast():
        assert nn.functional.linear(torch.ones(1, 1), torch.ones(1, 1)).dtype is dtype
    assert (precision.state_dict() != {}) == (name == "fp16")  # only float16 needs a scaler
    assert MixedPrecision(enabled=False, device=torch.device("cpu"), dtype=name).dtype is torch.float32


def test_bfloat16_on_a_gpu_without_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    with pytest.raises(TrainingError, match=r"AMP\.DTYPE bf16: Old GPU has no bfloat16; use auto or fp16"):
        MixedPrecision(enabled=True, device=torch.device("cuda"), dtype="bf16")


def test_gradients_of_several_passes_add_up_before_the_scale_is_taken_out() -> None:
    precision = MixedPrecision(enabled=True, device=torch.device("cpu"), dtype="fp16")
    weight = nn.Parameter(torch.ones(1))
    precision.backward(weight.sum())
    precision.backward(2 * weight.sum())
    precision.unscale(torch.optim.SGD([weight], lr=1.0))
    assert weight.grad is not None
    assert weight.grad.item() == 3.0


def test_the_scale_survives_saving_and_a_scale_of_one_expects_no_overflow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cmpf.engine.step.lowest_precision", lambda device: torch.float16)
    one, two = (MixedPrecision(enabled=True, device=torch.device("cpu")) for _ in range(2))
    state = one.state_dict() | {"scale": 1.0}
    two.load_state_dict(state)
    weight = nn.Parameter(torch.ones(1))
    two.backward(weight.sum())
    two.unscale(torch.optim.SGD([weight], lr=1.0))
    assert two.state_dict()["scale"] == 1.0
    assert not two.expects_overflow


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
