# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Which images come when.

Which batch comes n-th, and how it is augmented, depends on seed and n alone; the number of processes that read only
changes how fast it comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cmpf.errors import DatasetError

# First numbers of the keys of independent random streams of one seed.
_ORDER, _AUGMENTATION = 0, 1


class Place(NamedTuple):
    """One draw of the training stream: its number since the start of training, and the image drawn."""

    position: int
    sample: int


def epoch_order(num_samples: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of 0..num_samples - 1 for each seed and epoch."""
    sequence = np.random.SeedSequence(seed, spawn_key=(_ORDER, epoch))
    return np.random.default_rng(sequence).permutation(num_samples)


def augmentation_rng(seed: int, position: int) -> np.random.Generator:
    """Randomness of the draw at a place of the stream, whichever process makes it."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_AUGMENTATION, position)))


class TrainingSampler:
    """Endless batches of one rank out of one stream that all ranks share.

    The stream is one permutation of the images after another. Global batch n holds the places
    n * total_batch_size and following; each rank takes its part, rank 0 the first. So the images of a step
    do not depend on the number of ranks either.
    """

    def __init__(
        self, *, num_samples: int, total_batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        """
        Args:
            num_samples: images of the dataset.
            total_batch_size: over all ranks; world_size divides it.
            seed: 0 or more.
        Raises:
            DatasetError: no images, or numbers that do not fit together.
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
        self._batch = total_batch_size // world_size
        self._rank = rank

    def batches(self, start: int) -> Iterator[list[Place]]:
        """This rank's batches from the place `start` of the stream on, 0 for a new training."""
        first = start + self._rank * self._batch
        epoch, order = -1, np.zeros(0, dtype=np.int64)
        while True:
            batch = []
            for position in range(first, first + self._batch):
                needed, offset = divmod(position, self.num_samples)
                if needed != epoch:
                    epoch, order = needed, epoch_order(self.num_samples, seed=self.seed, epoch=needed)
                batch.append(Place(position, int(order[offset])))
            yield batch
            first += self.total_batch_size


def inference_share(num_samples: int, *, rank: int, world_size: int) -> range:
    """The images of one rank: contiguous, each image at one rank, sizes differ by one at most.

    Raises:
        DatasetError: rank and world_size do not fit together.
    """
    _check_rank(rank, world_size)
    smaller, larger = divmod(num_samples, world_size)
    start = rank * smaller + min(rank, larger)
    return range(start, start + smaller + (rank < larger))


def _check_rank(rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise DatasetError(f"rank {rank} of {world_size} processes: ranks are 0..{world_size - 1}")
