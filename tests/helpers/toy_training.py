# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Models of a few numbers: one to train, with a loader and a trainer, and one to make checkpoints of."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cmpf import weights
from cmpf.engine.checkpoints import Checkpointer
from cmpf.engine.forward import no_sync, parallel
from cmpf.engine.optimizer import WeightAverage, build_optimizer
from cmpf.engine.schedule import build_schedule
from cmpf.engine.seeding import seed_everything
from cmpf.engine.trainer import Trainer
from cmpf.engine.writers import Writer


class ToyModel(nn.Module):
    """Two linear layers with noise from all three global generators, a BatchNorm buffer and a frozen part."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.second = nn.Linear(8, 1)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        x = torch.stack([sample["image"] for sample in batch])
        noise = torch.randn(x.shape) + random.random() + float(np.random.rand())
        hidden = self.norm(self.first(self.frozen(x + 0.1 * noise)))
        y = self.second(torch.nn.functional.dropout(hidden, 0.5, training=self.training))
        scale = torch.tensor([sample.get("scale", 1.0) for sample in batch])
        return {"loss_ce": (y.square().mean(1) * scale).mean(), "loss_ce_0": y.abs().mean()}

    def trained_state_dict(self) -> dict[str, Tensor]:
        return {k: v for k, v in self.state_dict().items() if not k.startswith("frozen")}

    def encoder_hashes(self) -> dict[str, str]:
        return {"toy encoder": "0123456789abcdef"}


class ToyLoader:
    """Batches of two samples computed from their position; `change` may spoil a batch."""

    def __init__(self, change: Callable[[int, list[dict[str, Any]]], None] | None = None) -> None:
        self.position = 0
        self._change = change

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        while True:
            generator = torch.Generator().manual_seed(self.position)
            batch: list[dict[str, Any]] = [
                {"file_name": f"{self.position}_{i}.jpg", "image": torch.randn(4, generator=generator)}
                for i in range(2)
            ]
            if self._change is not None:
                self._change(self.position, batch)
            self.position += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


class PlainForward:
    """Forward pass of any model whose losses are means over its samples.

    Args:
        model: `model(batch)` returns a dict of weighted losses.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = parallel(model)

    def normalizers(self, batch: Any) -> int:
        """The number of samples, the same in each process."""
        return len(batch) if isinstance(batch, Sequence) else 1

    def __call__(self, part: Any, normalizers: int) -> dict[str, Tensor]:
        """Losses of a part, scaled by its share of the batch."""
        share = self.normalizers(part) / normalizers
        losses: dict[str, Tensor] = self._model(part)
        return losses if share == 1 else {name: loss * share for name, loss in losses.items()}

    def no_sync(self) -> AbstractContextManager[Any]:
        """See CMPFForward."""
        return no_sync(self._model)


def toy_trainer(
    folder: Path,
    *,
    max_iter: int = 6,
    checkpoint_period: int = 1000,
    keep: int = 3,
    eval_period: int = 0,
    evaluate: Callable[[], Any] | None = None,
    best_metric: str = "",
    writers: Sequence[Writer] = (),
    model: ToyModel | None = None,
    loader: Any = None,
    clip_norm: float = 0.5,
    average_decay: float | None = None,
    draw: Callable[[Any], Any] | None = None,
) -> Trainer:
    """A freshly seeded trainer on the CPU that writes to a folder."""
    seed_everything(7)
    model = model or ToyModel()
    optimizer = build_optimizer(
        model, lr=0.01, weight_decay=0.05, weight_decay_norm=0.0, weight_decay_embed=0.0
    )
    schedule = build_schedule(
        "WarmupCosineLR",
        optimizer,
        max_iter=max_iter,
        steps=(),
        gamma=0.1,
        warmup_iters=2,
        warmup_factor=0.1,
    )
    return Trainer(
        model=model,
        forward=PlainForward(model),  # type: ignore[arg-type]
        loader=loader or ToyLoader(),
        optimizer=optimizer,
        schedule=schedule,
        max_iter=max_iter,
        checkpointer=Checkpointer(
            folder,
            save_weights=partial(weights.save, model, metadata={}),
            load_weights=partial(weights.load, model),
            keep=keep,
        ),
        checkpoint_period=checkpoint_period,
        writers=writers,
        log_period=2,
        evaluate=evaluate,
        eval_period=eval_period,
        best_metric=best_metric,
        amp=False,
        clip_norm=clip_norm,
        average=None if average_decay is None else WeightAverage(model, decay=average_decay),
        draw=draw,
    )


class WeightsToy(nn.Module):
    """A trained layer with a second name, a BatchNorm, and a frozen encoder."""

    def __init__(self, *, width: int = 3, hashes: dict[str, str] | None = None) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, 2).requires_grad_(False)
        self.layer = nn.Linear(2, width)
        self.norm = nn.BatchNorm1d(width)
        self.alias = self.layer
        self.hashes = {"CLIP RN50": "a" * 64, "SAM vit_b": "b" * 64} if hashes is None else hashes

    def trained_state_dict(self) -> dict[str, Tensor]:
        return {k: v for k, v in self.state_dict().items() if not k.startswith("encoder")}

    def encoder_hashes(self) -> dict[str, str]:
        return self.hashes
