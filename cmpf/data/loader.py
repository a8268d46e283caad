# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Loaders: batches as lists of samples, read by this process or by worker processes; and which images come when.

Which batch comes n-th, and how it is augmented, depends on seed and n alone; the number of workers only
changes how fast it comes.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from cmpf.data.mapper import DatasetMapper
from cmpf.errors import CMPFError, DatasetError
from cmpf.types import Sample

logger = logging.getLogger(__name__)
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


class MappedDataset(Dataset[Any]):
    """Samples through the mapper. Issues of the data come back as values: an exception that crosses a process
    boundary turns into a page of traceback, and the message that names the file is lost in it."""

    def __init__(self, samples: Sequence[Sample], mapper: DatasetMapper, seed: int) -> None:
        self._samples = samples
        self._mapper = mapper
        self._seed = seed

    def __getitem__(self, place: Place) -> Sample | CMPFError:
        try:
            return self._mapper(self._samples[place.sample], augmentation_rng(self._seed, place.position))
        except CMPFError as error:
            return error


@dataclass(frozen=True)
class Reading:
    """How batches are read.

    num_workers: worker processes; 0 = this one reads.
    pin_memory: put tensors where a GPU can fetch them while the program goes on.
    """

    num_workers: int
    pin_memory: bool

    def __post_init__(self) -> None:
        if self.num_workers < 0:
            raise DatasetError(f"{self.num_workers} workers: must be 0 (read in the main process) or more")


class TrainLoader:
    """Endless training batches of one rank, with a position that a checkpoint can keep.

    Each `iter` goes on where the last batch was handed out; batches that workers have prepared in advance
    do not count. Nothing is drawn from the global random generators.
    """

    def __init__(self, *, dataset: MappedDataset, sampler: TrainingSampler, reading: Reading) -> None:
        """See build_train_loader, which makes the parts."""
        self._dataset = dataset
        self._sampler = sampler
        self._reading = reading
        self._position = 0

    def __iter__(self) -> Iterator[list[Sample]]:
        for batch in _batches(self._dataset, self._sampler.batches(self._position), self._reading):
            self._position += self._sampler.total_batch_size
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """How many images all ranks together have been given, and what makes the stream."""
        return {
            "position": self._position,
            "seed": self._sampler.seed,
            "num_samples": self._sampler.num_samples,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to the position of a state_dict; the next `iter` gives the batch that would have followed."""
        own = self.state_dict()
        for key in ("seed", "num_samples"):
            if state[key] != own[key]:
                logger.warning(
                    "the checkpoint was trained with %s %s, now it is %s: other images will follow than in "
                    "the interrupted run",
                    key,
                    state[key],
                    own[key],
                )
        self._position = state["position"]


class InferenceLoader:
    """Given batches, once and in order; each `iter` begins anew."""

    def __init__(self, *, dataset: MappedDataset, batches: list[list[Place]], reading: Reading) -> None:
        """See build_test_loader, which makes the parts."""
        self._dataset = dataset
        self._places = batches
        self._reading = reading

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[list[Sample]]:
        return _batches(self._dataset, self._places, self._reading)


def build_train_loader(
    samples: Sequence[Sample],
    *,
    mapper: DatasetMapper,
    total_batch_size: int,
    seed: int,
    num_workers: int,
    pin_memory: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> TrainLoader:
    """An endless, shuffled training loader.

    Args:
        samples: the whole dataset, the same at all ranks.
        mapper: with a target source.
        total_batch_size: images of a step over all ranks; each gets total_batch_size / world_size.
        seed: of the order and of the augmentations, 0 or more.
        num_workers, pin_memory: see Reading.
    Raises:
        DatasetError: an empty dataset, or numbers that do not fit together.
    """
    reading = Reading(num_workers, pin_memory)
    sampler = TrainingSampler(
        num_samples=len(samples),
        total_batch_size=total_batch_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )
    return TrainLoader(dataset=MappedDataset(samples, mapper, seed), sampler=sampler, reading=reading)


def build_test_loader(
    samples: Sequence[Sample],
    *,
    mapper: DatasetMapper,
    num_workers: int,
    pin_memory: bool = False,
    batch_size: int = 1,
    rank: int = 0,
    world_size: int = 1,
) -> InferenceLoader:
    """A loader over a rank's share of a dataset, each image once, in order; the last batch may be smaller.

    Args:
        samples: the whole dataset, the same at all ranks.
        mapper: without a target source.
        batch_size: images of a batch at each rank.
        num_workers, pin_memory: see Reading.
    Raises:
        DatasetError: numbers that do not fit together.
    """
    reading = Reading(num_workers, pin_memory)
    if batch_size < 1:
        raise DatasetError(f"batch size {batch_size}: must be 1 or more")
    share = inference_share(len(samples), rank=rank, world_size=world_size)
    places = [Place(index, index) for index in share]
    batches = [places[i : i + batch_size] for i in range(0, len(places), batch_size)]
    return InferenceLoader(dataset=MappedDataset(samples, mapper, 0), batches=batches, reading=reading)


def _batches(
    dataset: MappedDataset, places: Iterable[list[Place]], reading: Reading
) -> Iterator[list[Sample]]:
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=places,
        num_workers=reading.num_workers,
        pin_memory=reading.pin_memory,
        collate_fn=_as_it_is,
        worker_init_fn=_start_worker,
        # Its own generator: otherwise it seeds its workers from the global one, and a resumed training would
        # draw other points in its losses than an uninterrupted one.
        generator=torch.Generator(),
    )
    for batch in loader:
        for sample in batch:
            if isinstance(sample, CMPFError):
                raise sample
        yield batch


def _as_it_is(batch: list[Any]) -> list[Any]:
    """Images differ in size, so a batch stays a list."""
    return batch


def _start_worker(worker: int) -> None:
    """One thread a worker; Ctrl-C is the main process's affair, which ends its workers."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
