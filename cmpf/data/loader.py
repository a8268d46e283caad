# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Loaders: batches as lists of samples, read by this process or by worker processes; what cannot be read among them."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from cmpf.data.mapper import DatasetMapper
from cmpf.data.sampling import Place, TrainingSampler, augmentation_rng, inference_share
from cmpf.errors import CMPFError, DatasetError, ImageError
from cmpf.types import Sample

logger = logging.getLogger(__name__)
SKIPPED_SHARE = 0.001  # of a dataset's images that may be left out, one at least
MAX_SKIPPED_AT_ONCE = 10  # neighbors that are tried in place of an image


@dataclass(frozen=True)
class Drawn:
    """A sample, or None; and for each image that could not be read instead its index and the error."""

    sample: Sample | None
    issues: tuple[tuple[int, CMPFError], ...] = ()


class MappedDataset(Dataset[Any]):
    """Samples through the mapper. Issues of the data come back as values: an exception that crosses a process
    boundary turns into a page of traceback, and the message that names the file is lost in it.

    Args:
        seed: of the augmentations.
        skip: an image that cannot be read is replaced by the next one of the dataset that can.
    """

    def __init__(
        self, samples: Sequence[Sample], mapper: DatasetMapper, seed: int, *, skip: bool = False
    ) -> None:
        self._samples = samples
        self._mapper = mapper
        self._seed = seed
        self.skip = skip

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, place: Place) -> Drawn:
        issues: list[tuple[int, CMPFError]] = []
        for step in range(min(len(self), MAX_SKIPPED_AT_ONCE) if self.skip else 1):
            index = (place.sample + step) % len(self)
            rng = augmentation_rng(self._seed, place.position)
            try:
                return Drawn(self._mapper(self._samples[index], rng), tuple(issues))
            except CMPFError as error:
                issues.append((index, error))
            except MemoryError as error:
                name = self._samples[index].get("file_name", "")
                issues.append((index, ImageError(f"{name}: too large for this machine's memory ({error})")))
        return Drawn(None, tuple(issues))


class SkippedImages:
    """Counts the images of a dataset that cannot be read, and says when there are too many.

    Args:
        count: images of the dataset.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._skipped: set[int] = set()

    def add(self, index: int, error: CMPFError) -> None:
        """Logs an image once.

        Raises:
            DatasetError: more than 0.1 % of the images, and more than one, cannot be read.
        """
        if index in self._skipped:
            return
        self._skipped.add(index)
        if len(self._skipped) > max(1, SKIPPED_SHARE * self._count):
            raise DatasetError(
                f"{error}. This is image {len(self._skipped)} of {self._count:,} that cannot be read, more than "
                f"{SKIPPED_SHARE:.1%}: the dataset is damaged; cmpf datasets check lists them all"
            ) from error
        logger.warning("left out, number %d: %s", len(self._skipped), error)


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
    skip_unreadable: bool = False,
) -> TrainLoader:
    """An endless, shuffled training loader.

    Args:
        samples: the whole dataset, the same at all ranks.
        mapper: with a target source.
        total_batch_size: images of a step over all ranks; each gets total_batch_size / world_size.
        seed: of the order and of the augmentations, 0 or more.
        num_workers, pin_memory: see Reading.
        skip_unreadable: see MappedDataset.
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
    dataset = MappedDataset(samples, mapper, seed, skip=skip_unreadable)
    return TrainLoader(dataset=dataset, sampler=sampler, reading=reading)


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
    skipped = SkippedImages(len(dataset))
    for batch in loader:
        for index, error in (issue for drawn in batch for issue in drawn.issues):
            if not dataset.skip:
                raise error
            skipped.add(index, error)
        samples = [drawn.sample for drawn in batch]
        if any(sample is None for sample in samples):
            error = next(drawn.issues[-1][1] for drawn in batch if drawn.sample is None)
            raise DatasetError(f"{error}; nor could the {MAX_SKIPPED_AT_ONCE - 1} images after it be read")
        yield samples


def _as_it_is(batch: list[Any]) -> list[Any]:
    """Images differ in size, so a batch stays a list."""
    return batch


def _start_worker(worker: int) -> None:
    """One thread per worker; Ctrl-C is the main process's affair, which ends its workers."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
