# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The forward pass that computes the losses of a batch, in one process or distributed over several."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cmpf.common import distributed
from cmpf.errors import TrainingError
from cmpf.losses.criterion import Normalizers
from cmpf.model import CMPF
from cmpf.types import Sample, Targets


class CMPFForward:
    """Computes the losses of a batch that may be split into parts for gradient accumulation.

    The losses of the parts add up to those of the batch, and their mean over processes equals the losses of a single
    process that has all batches: they are normalized by the numbers of targets of all of them.

    DistributedDataParallel does not see the frozen encoders: they are neither in its buckets nor broadcast at the
    start.

    Args:
        model: must be built with losses.
    Raises:
        TrainingError: the model was built without losses.
    """

    def __init__(self, model: CMPF) -> None:
        if model.criterion is None:
            raise TrainingError(
                "this model was built without losses; build it with cmpf.factory.build_model(cfg)"
            )
        self._criterion = model.criterion
        self._queries = model.decoder.num_queries
        self._device = model.device
        self._model = parallel(TrainedPart(model))

    def normalizers(self, batch: Sequence[Sample]) -> Normalizers:
        """The divisors of the losses of a batch's parts. All processes must call it; see SetCriterion.normalizers."""
        targets: list[Targets] = [sample["targets"] for sample in batch]
        return self._criterion.normalizers(targets, queries=self._queries, device=self._device)

    def __call__(self, part: Sequence[Sample], normalizers: Normalizers) -> dict[str, Tensor]:
        """Weighted losses of a part, divided by the normalizers of the whole batch."""
        losses: dict[str, Tensor] = self._model(part, normalizers)
        return losses

    def no_sync(self) -> AbstractContextManager[Any]:
        """A context in which backward passes accumulate gradients locally, see DistributedDataParallel.no_sync."""
        return no_sync(self._model)


class TrainedPart(nn.Module):
    """Wraps a model for DistributedDataParallel: holds its parameters and buffers, except those of frozen encoders.

    Args:
        model: the whole model, which computes the losses.
    """

    def __init__(self, model: CMPF) -> None:
        super().__init__()
        for name, part in model.named_children():
            if part is not model.encoders:
                self.add_module(name, part)
        clip = model.encoders.clip
        for index, part in enumerate(clip.trained):
            self.add_module(f"clip_trunk_{index}", part)
        if clip.model.logit_scale.requires_grad:
            self.clip_logit_scale = clip.model.logit_scale
        self._model = (model,)  # the tuple keeps nn.Module from registering the whole model

    def forward(self, batch: Sequence[Sample], normalizers: Normalizers) -> dict[str, Tensor]:
        """See CMPF.losses."""
        return self._model[0].losses(batch, normalizers)


def parallel(model: nn.Module) -> nn.Module:
    """Wraps the model in DistributedDataParallel if there are several processes."""
    if not distributed.is_parallel():
        return model
    device = next(model.parameters()).device
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        broadcast_buffers=False,  # no buffer of the trained part changes
        gradient_as_bucket_view=True,
    )


def no_sync(model: nn.Module) -> AbstractContextManager[Any]:
    """DistributedDataParallel.no_sync, or no context for a model that is not distributed."""
    if isinstance(model, DistributedDataParallel):
        context: AbstractContextManager[Any] = model.no_sync()
        return context
    return nullcontext()
