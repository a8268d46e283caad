# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""From a batch to losses, in one process or in several that share a batch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cmpf.common import distributed
from cmpf.errors import TrainingError
from cmpf.losses.criterion import Normalizers
from cmpf.model import CMPF
from cmpf.types import Sample, Targets


class Forward(Protocol):
    """Losses of a batch that may come in parts.

    The losses of all parts add up to those of the batch, and the average of the processes' losses is that of one
    process which has all their batches.
    """

    def normalizers(self, batch: Any) -> Any:
        """What the losses of this batch's parts are divided by. All processes call it."""

    def __call__(self, part: Any, normalizers: Any) -> dict[str, Tensor]:
        """Weighted losses of a part."""

    def no_sync(self) -> AbstractContextManager[Any]:
        """Inside, a backward pass leaves its gradients in this process, for a later one to share."""


class PlainForward:
    """Any model whose losses are means over its samples.

    Args:
        model: `model(batch)` gives a dict of weighted losses.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = _parallel(model)

    def normalizers(self, batch: Any) -> int:
        """The number of samples, the same in each process."""
        return len(batch) if isinstance(batch, Sequence) else 1

    def __call__(self, part: Any, normalizers: int) -> dict[str, Tensor]:
        """Losses times the part's share of the batch."""
        share = self.normalizers(part) / normalizers
        losses: dict[str, Tensor] = self._model(part)
        return losses if share == 1 else {name: loss * share for name, loss in losses.items()}

    def no_sync(self) -> AbstractContextManager[Any]:
        """See Forward."""
        return _no_sync(self._model)


class CMPFForward:
    """CMPF, whose losses are divided by numbers of targets.

    Frozen encoders are kept from DistributedDataParallel: they are neither in its buckets nor broadcast at the start.

    Args:
        model: built with losses.
    Raises:
        TrainingError: the model was built without.
    """

    def __init__(self, model: CMPF) -> None:
        if model.criterion is None:
            raise TrainingError(
                "this model was built without losses; build it with cmpf.factory.build_model(cfg)"
            )
        self._criterion = model.criterion
        self._queries = model.decoder.num_queries
        self._device = model.device
        self._model = _parallel(TrainedPart(model))

    def normalizers(self, batch: Sequence[Sample]) -> Normalizers:
        """See SetCriterion.normalizers."""
        targets: list[Targets] = [sample["targets"] for sample in batch]
        return self._criterion.normalizers(targets, queries=self._queries, device=self._device)

    def __call__(self, part: Sequence[Sample], normalizers: Normalizers) -> dict[str, Tensor]:
        """Losses of a part, divided by the normalizers of the whole."""
        losses: dict[str, Tensor] = self._model(part, normalizers)
        return losses

    def no_sync(self) -> AbstractContextManager[Any]:
        """See Forward."""
        return _no_sync(self._model)


class TrainedPart(nn.Module):
    """A model as seen by DistributedDataParallel: its parameters and buffers without those of encoders that are frozen.

    Args:
        model: its losses are computed as always, encoders included.
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
        self._whole = (model,)  # inside a tuple nn.Module does not find it

    def forward(self, batch: Sequence[Sample], normalizers: Normalizers) -> dict[str, Tensor]:
        """See CMPF.losses."""
        return self._whole[0].losses(batch, normalizers)


def _parallel(model: nn.Module) -> nn.Module:
    """The model whose backward pass averages gradients over processes; itself where there is one process."""
    if not distributed.is_parallel():
        return model
    device = next(model.parameters()).device
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        broadcast_buffers=False,  # the trained part has none that change
        gradient_as_bucket_view=True,
    )


def _no_sync(model: nn.Module) -> AbstractContextManager[Any]:
    if isinstance(model, DistributedDataParallel):
        context: AbstractContextManager[Any] = model.no_sync()
        return context
    return nullcontext()
