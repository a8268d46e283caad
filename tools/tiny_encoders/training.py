# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Training loop of the tiny encoders, and writing of their assets: float16 weights, tokenizer merges, hashes."""

from __future__ import annotations

import copy
import gzip
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm import trange

from cmpf.common.files import file_sha256, replacing, write_text
from cmpf.common.tensors import move_average
from cmpf.weights.download import HASHES
from cmpf.weights.saving import write_safetensors
from tiny_encoders.scenes import BatchSampler, ScenePool

MERGES = 2000  # number of CLIP's byte-pair merges that the tiny tokenizer uses
WARMUP_STEPS, EMA_DECAY, WEIGHT_DECAY = 200, 0.998, 0.05


@dataclass(frozen=True)
class Plan:
    """Settings of a training.

    steps, batch_size: number and size of batches.
    lr: peak learning rate of AdamW.
    seed: seed of the initial weights and of all sampling.
    every: interval in steps of calls of `on_snapshot(step, averaged_model)`; 0 = never.
    """

    steps: int
    batch_size: int
    lr: float
    seed: int
    every: int = 0
    on_snapshot: Callable[[int, nn.Module], None] = lambda step, model: None


def train(model: nn.Module, objective: nn.Module, pool: ScenePool, plan: Plan, *, title: str) -> nn.Module:
    """Trains a model and keeps an exponential moving average of its weights.

    Args:
        model: model with initialized weights.
        objective: (model, SceneBatch) -> (losses, additional metrics for the progress bar); its own weights are
            trained, too.
        pool: training scenes.
        title: title of the progress bar.
    Returns:
        The averaged model, in evaluation mode.
    """
    optimizer = build_adamw([model, objective], lr=plan.lr, weight_decay=WEIGHT_DECAY)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    averaged = copy.deepcopy(model).eval().requires_grad_(False)
    sampler = BatchSampler(pool, batch_size=plan.batch_size, seed=plan.seed)
    warmup = min(WARMUP_STEPS, max(1, plan.steps // 4))
    bar = trange(plan.steps, desc=title, mininterval=10)
    for step in bar:
        losses, metrics = objective(model, sampler.draw())
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps=plan.steps, peak=plan.lr, warmup=warmup)
        optimizer.zero_grad()
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        move_average([*averaged.parameters()], [*model.parameters()], step=step + 1, decay=EMA_DECAY)
        if step % 20 == 0:
            metrics |= {name: loss.item() for name, loss in losses.items()}
            bar.set_postfix({name: f"{value:.3f}" for name, value in metrics.items()}, refresh=False)
        if plan.every and (step + 1) % plan.every == 0 and step + 1 < plan.steps:
            plan.on_snapshot(step + 1, averaged)
    return averaged


def build_adamw(modules: Iterable[nn.Module], *, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW with weight decay for parameters of two or more dimensions only."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), foreach=True)


def learning_rate(step: int, *, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up to the peak, then cosine decay to 1 percent of it."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def record_hash(folder: Path, name: str) -> None:
    """Adds the SHA-256 of a file in the folder to the folder's `hashes.json`."""
    path = folder / HASHES
    hashes = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    hashes[name] = file_sha256(folder / name)
    write_text(path, json.dumps(dict(sorted(hashes.items())), indent=2) + "\n")


def save_weights(model: nn.Module, folder: Path, name: str) -> None:
    """Saves the state dict as float16 safetensors and records its hash."""
    tensors = {key: value.to(torch.float16) for key, value in model.state_dict().items()}
    write_safetensors(tensors, folder / name)
    record_hash(folder, name)


def save_merges(folder: Path, name: str) -> None:
    """Saves the header line and the first 2,000 merges of CLIP's byte-pair vocabulary and records the file's hash."""
    from open_clip.tokenizer import default_bpe

    lines = gzip.decompress(Path(default_bpe()).read_bytes()).decode("utf-8").split("\n")
    content = "\n".join(lines[: MERGES + 1]).encode("utf-8")
    with replacing(folder / name) as temporary:
        temporary.write_bytes(gzip.compress(content, 9, mtime=0))
    record_hash(folder, name)
