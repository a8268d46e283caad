# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The training of both tiny encoders, and their assets: weights in float16, the tokenizer's merges, hashes."""

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
from cmpf.encoders.tiny_training.scenes import BatchSampler, ScenePool
from cmpf.weights.download import HASHES

MERGES = 2000  # of CLIP's byte-pair vocabulary, which are kept
WARMUP, DECAY, WEIGHT_DECAY = 200, 0.998, 0.05  # steps; of the average of the weights; of AdamW


@dataclass(frozen=True)
class Plan:
    """A training.

    steps, batch_size: number and size of batches. lr: of AdamW with warm-up and cosine.
    seed: of weights, batches, and all that is drawn.
    every: steps between calls of `on_snapshot` with their number and the averaged model; 0 = never.
    """

    steps: int
    batch_size: int
    lr: float
    seed: int
    every: int = 0
    on_snapshot: Callable[[int, nn.Module], None] = lambda step, model: None


def train(model: nn.Module, objective: nn.Module, pool: ScenePool, plan: Plan, *, title: str) -> nn.Module:
    """Trains a model whose weights were drawn.

    Args:
        objective: (model, SceneBatch) -> loss terms, and figures to show beside them; its own weights are trained, too.
        pool: training scenes.
        title: of the progress bar.
    Returns:
        The averaged model, in evaluation mode.
    """
    optimizer = build_adamw([model, objective], lr=plan.lr, weight_decay=WEIGHT_DECAY)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    averaged = copy.deepcopy(model).eval().requires_grad_(False)
    sampler = BatchSampler(pool, batch_size=plan.batch_size, seed=plan.seed)
    warmup = min(WARMUP, max(1, plan.steps // 4))
    bar = trange(plan.steps, desc=title, mininterval=10)
    for step in bar:
        losses, figures = objective(model, sampler.draw())
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps=plan.steps, peak=plan.lr, warmup=warmup)
        optimizer.zero_grad()
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        move_average([*averaged.parameters()], [*model.parameters()], step=step + 1, decay=DECAY)
        if step % 20 == 0:
            figures |= {name: loss.item() for name, loss in losses.items()}
            bar.set_postfix({name: f"{value:.3f}" for name, value in figures.items()}, refresh=False)
        if plan.every and (step + 1) % plan.every == 0 and step + 1 < plan.steps:
            plan.on_snapshot(step + 1, averaged)
    return averaged


def build_adamw(modules: Iterable[nn.Module], *, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW; only matrices and kernels decay."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim >= 2]
    others = [p for p in parameters if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), foreach=True)


def learning_rate(step: int, *, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up to the peak, then half a cosine down to a hundredth of it at the last step."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def record_hash(folder: Path, name: str) -> None:
    """Writes the SHA-256 of a file of the folder into its `hashes.json`, keeping the other entries."""
    path = folder / HASHES
    hashes = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    hashes[name] = file_sha256(folder / name)
    write_text(path, json.dumps(dict(sorted(hashes.items())), indent=2) + "\n")


def save_weights(model: nn.Module, folder: Path, name: str) -> None:
    """Stores all weights and buffers as float16 safetensors, and their hash."""
    from safetensors.torch import save_file

    tensors = {key: value.to(torch.float16).contiguous() for key, value in model.state_dict().items()}
    with replacing(folder / name) as temporary:
        save_file(tensors, temporary)
        # safetensors makes files that only their owner can read.
        temporary.chmod(0o644)
    record_hash(folder, name)


def save_merges(folder: Path, name: str) -> None:
    """Stores the head line and the first 2,000 merges of CLIP's byte-pair vocabulary, and the file's hash."""
    from open_clip.tokenizer import default_bpe

    lines = gzip.decompress(Path(default_bpe()).read_bytes()).decode("utf-8").split("\n")
    content = "\n".join(lines[: MERGES + 1]).encode("utf-8")
    with replacing(folder / name) as temporary:
        temporary.write_bytes(gzip.compress(content, 9, mtime=0))
    record_hash(folder, name)
