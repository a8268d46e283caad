# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""AdamW with separate parameter groups for normalization layers and nn.Embedding, and weight averaging (EMA)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cmpf.common.tensors import move_average
from cmpf.errors import TrainingError, first_few

NORM_LAYERS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


def build_optimizer(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    weight_decay_norm: float,
    weight_decay_embed: float,
    scaled_prefix: str = "",
    lr_factor: float = 1.0,
) -> torch.optim.AdamW:
    """AdamW over the parameters that require a gradient, with PyTorch's default betas.

    Args:
        model: its frozen parameters (requires_grad False) are left out.
        lr: learning rate.
        weight_decay: for all parameters except those of the next two arguments.
        weight_decay_norm: for normalization layers.
        weight_decay_embed: for nn.Embedding only, as published: the level embeddings of the deformable encoders are
            bare parameters and use `weight_decay`.
        scaled_prefix: parameters whose name starts with it use lr * lr_factor; "" = all.
        lr_factor: see scaled_prefix.
    Raises:
        TrainingError: no parameter of the model requires a gradient.
    """
    scaled = {id(p) for name, p in model.named_parameters() if name.startswith(scaled_prefix)}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    decays = {"norm": weight_decay_norm, "embedding": weight_decay_embed, "other": weight_decay}
    for kind, parameter in _trained_parameters(model):
        factor = lr_factor if id(parameter) in scaled else 1.0
        groups.setdefault((factor, decays[kind]), []).append(parameter)
    if not groups:
        raise TrainingError("the model has no parameter that requires a gradient: there is nothing to train")
    # Groups with a scaled rate come last: logs show the rate of the first group.
    ordered = sorted(groups.items(), key=lambda group: group[0][0] != 1.0)
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": decay, "lr": lr * factor}
            for (factor, decay), parameters in ordered
        ],
        lr=lr,
    )


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads an optimizer's state from a checkpoint.

    Raises:
        TrainingError: the parameter groups have different sizes, because the model or the grouping has changed.
    """
    saved, own = (
        [len(g["params"]) for g in groups] for groups in (state["param_groups"], optimizer.param_groups)
    )
    if saved != own:
        raise TrainingError(
            f"the checkpoint's optimizer has groups of {saved} parameters, this model's has {own}: the model has "
            "changed, or an earlier version of CMPF wrote it, which gave the level embeddings of the deformable "
            "encoders no weight decay. Go on with that version, or train anew from its weights (MODEL.WEIGHTS)"
        )
    optimizer.load_state_dict(state)


def check_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Checks that the optimizer holds exactly the model's parameters that require a gradient.

    Raises:
        TrainingError: the optimizer holds a frozen or a foreign parameter, or a parameter is missing.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimized = [p for group in optimizer.param_groups for p in group["params"]]
    frozen = [names.get(id(p), "(not in the model)") for p in optimized if not p.requires_grad]
    if frozen:
        raise TrainingError(
            f"the optimizer holds frozen parameters: {first_few(frozen)}. Leave them out of it"
        )
    foreign = [tuple(p.shape) for p in optimized if id(p) not in names]
    if foreign:
        raise TrainingError(
            f"the optimizer holds parameters that are not the model's, of shapes {first_few(foreign)}. Build the "
            "optimizer after the model has its final form"
        )
    held = {id(p) for p in optimized}
    missing = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    if missing:
        raise TrainingError(
            f"the optimizer lacks parameters that require a gradient: {first_few(missing)}. Add or freeze them"
        )


def check_gradients(model: nn.Module) -> None:
    """Checks after a step of several processes that every trained parameter has a gradient.

    Without one, DistributedDataParallel would not exchange all gradients, and fail in the next step.

    Raises:
        TrainingError: the losses do not depend on a parameter.
    """
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if unused:
        raise TrainingError(
            f"no loss depends on {first_few(unused)}: with several processes, each trained parameter must be used in "
            "every iteration. Use or remove it, or freeze it with requires_grad_(False)"
        )


def _trained_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yields (kind, parameter) for each parameter that requires a gradient; shared parameters once."""
    seen: set[int] = set()
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if isinstance(module, NORM_LAYERS):
                yield "norm", parameter
            elif isinstance(module, nn.Embedding):
                yield "embedding", parameter
            else:
                yield "other", parameter


class WeightAverage:
    """Exponential moving average of the trained weights, see move_average.

    Args:
        model: its parameters that require a gradient are averaged.
        decay: in [0, 1); 0 = the weights themselves.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self._decay = decay
        self._weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._average = {name: p.detach().clone() for name, p in self._weights.items()}
        self._steps = 0

    def update(self) -> None:
        """Updates the average with the current weights; call it after each optimizer step."""
        self._steps += 1
        average, weights = list(self._average.values()), list(self._weights.values())
        move_average(average, weights, step=self._steps, decay=self._decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block, the model has the averaged weights; afterwards its own are restored exactly."""
        own = {name: p.detach().clone() for name, p in self._weights.items()}
        self._set(self._average)
        try:
            yield
        finally:
            self._set(own)

    def state_dict(self) -> dict[str, Any]:
        """The average by parameter name, and the number of steps."""
        return {"steps": self._steps, "average": dict(self._average)}

    @torch.no_grad()
    def resume(self, state: Mapping[str, Any] | None) -> None:
        """Restores `state_dict`; None (the checkpoint has no average) starts from the current weights."""
        self._steps = 0 if state is None else int(state["steps"])
        values = self._weights if state is None else state["average"]
        for name, average in self._average.items():
            average.copy_(values[name])

    @torch.no_grad()
    def _set(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._weights.items():
            parameter.copy_(values[name])
