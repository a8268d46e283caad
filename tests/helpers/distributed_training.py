# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What the tests of training in several processes run in each of them; spawned processes import it by name."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from helpers.tiny_model import tiny_model, training_sample
from helpers.toy_training import ToyModel, toy_trainer
from torch import Tensor

from cmpf.common import distributed
from cmpf.engine.forward import CMPFForward
from cmpf.engine.seeding import seed_rank
from cmpf.engine.step import Record, TrainStep
from cmpf.engine.writers import Writer
from cmpf.errors import TrainingError
from cmpf.losses import criterion, matcher

TARGETS = (1, 4, 0, 2)  # of the four images of a batch: unequal halves


def fixed_points(count: int, num_points: int, device: torch.device) -> Tensor:
    """The same places for every image and pair, so that it does not matter who draws them."""
    generator = torch.Generator().manual_seed(3)
    return torch.rand(1, num_points, 2, generator=generator).expand(count, -1, -1).to(device)


def fix_points() -> None:
    """For the rest of this process."""
    matcher.uniform_points = fixed_points
    criterion.uncertain_points = lambda maps, *, num_points, **_: fixed_points(
        len(maps), num_points, maps.device
    )


def cmpf_steps(*, accumulation_steps: int = 1) -> dict[str, Any]:
    """Two optimizer steps of the tiny model on this process's share of a batch of four; losses and final weights."""
    model = tiny_model("cmpf_tiny", ["SOLVER.IMS_PER_BATCH", 4]).train()
    if not distributed.is_main():  # what DistributedDataParallel must put right, and what it must leave alone
        with torch.no_grad():
            model.decoder.query_content.weight.zero_()
            model.encoders.pixel_mean.add_(1e-3)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    step = TrainStep(
        forward=CMPFForward(model),
        optimizer=optimizer,
        amp=False,
        clip_norm=0.1,
        accumulation_steps=accumulation_steps,
    )
    batch = [training_sample(64, 64, seed=i, targets=n) for i, n in enumerate(TARGETS)]
    share = len(batch) // distributed.world_size()
    own = batch[distributed.rank() * share :][:share]
    results = [step(own) for _ in range(2)]
    return {
        "losses": [result.losses for result in results],
        "grad_norms": [result.grad_norm for result in results],
        "weights": {k: v.double().sum().item() for k, v in model.trained_state_dict().items()},
        "pixel_mean": model.encoders.pixel_mean[0].item(),
    }


class StopAt(Writer):
    """Sends this process SIGTERM in a chosen iteration."""

    def __init__(self, iteration: int) -> None:
        self._iteration = iteration

    def iteration(self, record: Record) -> None:
        if record.iteration == self._iteration:
            os.kill(os.getpid(), signal.SIGTERM)


def toy_run(folder: Path, *, stop_at: int = 0, resume: bool = False) -> dict[str, Any]:
    """A toy training of six iterations; the second process alone is told to stop."""
    writers = [StopAt(stop_at)] if stop_at and not distributed.is_main() else []
    trainer = toy_trainer(folder, writers=writers)
    seed_rank(7)
    resumed = trainer.resume() if resume else False
    outcome = trainer.train()
    weights = {name: p.tolist() for name, p in trainer.model.named_parameters()}
    return {
        "weights": weights,
        "iteration": outcome.iteration,
        "stopped_by": outcome.stopped_by,
        "resumed": resumed,
        "draw": torch.rand(1).item(),
    }


def unused_parameter(folder: Path) -> str:
    """The error of a training whose model has a parameter that no loss depends on."""
    model = ToyModel()
    model.gate = torch.nn.Parameter(torch.zeros(1))
    try:
        toy_trainer(folder, model=model).train()
    except TrainingError as error:
        return str(error)
    return ""


def agreements() -> dict[str, Any]:
    """What the processes agree on."""
    rank = distributed.rank()
    try:
        distributed.raise_together(TrainingError("bad mask") if rank == 1 else None)
        together = ""
    except TrainingError as error:
        together = str(error)
    weights = torch.full((2,), float(rank))
    distributed.broadcast_tensors([weights])
    order = []
    os.environ["LOCAL_RANK"] = str(rank)
    with distributed.main_first():
        if rank == 0:
            time.sleep(0.2)
        order.append(time.time())
    try:
        distributed.on_main(lambda: _refuse())
        refused = ""
    except TrainingError as error:
        refused = str(error)
    return {
        "size": distributed.world_size(),
        "any": [distributed.any_process(rank == 1), distributed.any_process(False)],
        "mean": distributed.all_reduce_mean(torch.tensor([1.0, 4.0 * rank])).tolist(),
        "gathered": distributed.gather({"rank": rank}),
        "from_main": distributed.from_main(f"of {rank}"),
        "on_main": distributed.on_main(lambda: rank),
        "together": together,
        "refused": refused,
        "broadcast": weights.tolist(),
        "entered": order,
    }


def _refuse() -> int:
    raise TrainingError("not here")


def whole_story(folder: Path) -> int:
    """Everything, in one start of processes; what each found lies in FOLDER/RANK.json."""
    torch.set_num_threads(1)
    fix_points()
    found = {
        "agreements": agreements(),
        "cmpf": cmpf_steps(),
        "accumulated": cmpf_steps(accumulation_steps=2),
        "whole": toy_run(folder / "whole"),
        "stopped": toy_run(folder / "parts", stop_at=3),
        "resumed": toy_run(folder / "parts", resume=True),
        "unused": unused_parameter(folder / "unused"),
    }
    (folder / f"{distributed.rank()}.json").write_text(json.dumps(found))
    return 0
