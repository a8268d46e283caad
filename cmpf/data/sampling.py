# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Samplers for training and inference.

The n-th training batch and its augmentation depend on the seed and n only, not on the number of worker processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cmpf.errors import DatasetError

# First elements of the spawn keys of the independent random streams of a seed.
_ORDER, _AUGMENTATION = 0, 1


class StreamItem(NamedTuple):
    """One draw of the training stream: its position since the start of training, and the index of the sample."""

    position: int
    sample_index: int


def epoch_order(num_samples: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """The permutation of 0..num_samples - 1 for a seed and an epoch."""
    sequence = np.random.SeedSequence(seed, spawn_key=(_ORDER, epoch))
    return np.random.default_rng(sequence).permutation(num_samples)


def augmentation_rng(seed: int, position: int) -> np.random.Generator:
    """The generator for augmenting the sample at a position of the stream, the same in every process."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_AUGMENTATION, position)))


class TrainingSampler:
    """Infinite batches of one rank, taken from a stream that all ranks share.

    The stream is a new permutation of the samples for each epoch. Global batch n starts at position
    n * total_batch_size and is divided among the ranks in order, so the samples of a step do not depend on the
    number of ranks.
    """

    def __init__(
        self, *, num_samples: int, total_batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        """
        Args:
            num_samples: size of the dataset.
            total_batch_size: samples per step over all ranks; a multiple of world_size.
            seed: 0 or more.
        Raises:
            DatasetError: an empty dataset, or an invalid batch size, seed or rank.
        """
        _check_rank(rank, world_size)
        if num_samples < 1:
            raise DatasetError("the training dataset holds no image; check how it was prepared")
        if total_batch_size < 1 or total_batch_size % world_size:
            raise DatasetError(
                f"total batch size {total_batch_size} cannot be divided among {world_size} processes; "
                f"choose a multiple of {world_size} (SOLVER.IMS_PER_BATCH)"
            )
        if seed < 0:
            raise DatasetError(f"seed {seed}: the order of images needs a seed of 0 or more")
        self.num_samples = num_samples
        self.total_batch_size = total_batch_size
        self.seed = seed
        self._batch_size = total_batch_size // world_size
        self._rank = rank

    def batches(self, start: int) -> Iterator[list[StreamItem]]:
        """Yields this rank's batches from position `start` of the stream, 0 for a new training."""
        first = start + self._rank * self._batch_size
        epoch, order = -1, np.zeros(0, dtype=np.int64)
        while True:
            batch = []
            for position in range(first, first + self._batch_size):
                current_epoch, offset = divmod(position, self.num_samples)
                if current_epoch != epoch:
                    epoch = current_epoch
                    order = epoch_order(self.num_samples, seed=self.seed, epoch=epoch)
                batch.append(StreamItem(position, int(order[offset])))
            yield batch
            first += self.total_batch_size


def inference_shard(num_samples: int, *, rank: int, world_size: int) -> range:
    """The sample indices of one rank: contiguous and disjoint, with sizes that differ by at most one.

    Raises:
        DatasetError: rank is not in 0..world_size - 1.
    """
    _check_rank(rank, world_size)
    smaller, larger = divmod(num_samples, world_size)
    start = rank * smaller + min(rank, larger)
    return range(start, start + smaller + (rank < larger))


def _check_rank(rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise DatasetError(f"rank {rank} of {world_size} processes: ranks are 0..{world_size - 1}")
