# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What summed losses are divided by. It follows from the targets alone, so it is known before the forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from cmpf.types import Targets


@dataclass(frozen=True)
class Normalizers:
    """Divisors of the losses, each the mean over all processes.

    Dividing by means makes the average of the processes' losses, and with it the average of their gradients, that
    of one process with the whole batch. Likewise the losses of the parts of a batch, all divided by the normalizers
    of the whole batch, add up to its losses.

    targets: (), number of targets, at least 1: divides the mask losses.
    class_weight: (), sum of the class weights of one head's queries: divides the classification loss.
    """

    targets: Tensor
    class_weight: Tensor


def normalizers(
    targets: Sequence[Targets], *, queries: int, no_object_weight: float, device: torch.device
) -> Normalizers:
    """Normalizers of a batch. With several processes all of them must call it.

    Args:
        targets: one an image of this process.
        queries: Q, of each image; as many targets at most are matched.
        no_object_weight: class weight of a query that no target is matched with; 1 for the others.
        device: where the sums are needed; nothing waits for it.
    """
    counts = [len(target["labels"]) for target in targets]
    matched = sum(min(count, queries) for count in counts)
    class_weight = matched + no_object_weight * (len(counts) * queries - matched)
    sums = torch.tensor([sum(counts), class_weight], dtype=torch.float32, device=device)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(sums)
        sums = sums / dist.get_world_size()
    number, weight = sums.unbind()
    return Normalizers(targets=number.clamp(min=1.0), class_weight=weight.clamp(min=1e-8))
