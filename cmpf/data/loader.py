# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Data loaders for training and inference. A batch is a list of samples; unreadable images are reported or replaced."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from cmpf.data.mapper import DatasetMapper
from cmpf.data.sampling import StreamItem, TrainingSampler, augmentation_rng, inference_shard
from cmpf.errors import CMPFError, DatasetError, ImageError
from cmpf.types import Sample

logger = logging.getLogger(__name__)
MAX_SKIPPED_FRACTION = 0.001  # of a dataset's images; one may always be skipped
MAX_ATTEMPTS = 10  # consecutive samples that are tried, including the one asked for


@dataclass(frozen=True)
class LoadedSample:
    """A sample, or None if none could be read; and (index, error) of each sample that was tried and failed."""

    sample: Sample | None
    issues: tuple[tuple[int, CMPFError], ...] = ()


class MappedDataset(Dataset[Any]):
    """Applies the mapper to samples. Errors are returned as values, because an exception from a worker process would
    bury its message in the worker's traceback.

    Args:
        seed: seed of the augmentations.
        skip: replace a sample that cannot be read by the next readable one of the dataset.
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

    def __getitem__(self, requested: StreamItem) -> LoadedSample:
        issues: list[tuple[int, CMPFError]] = []
        for attempt in range(min(len(self), MAX_ATTEMPTS) if self.skip else 1):
            index = (requested.sample_index + attempt) % len(self)
            rng = augmentation_rng(self._seed, requested.position)
            try:
                return LoadedSample(self._mapper(self._samples[index], rng), tuple(issues))
            except CMPFError as error:
                issues.append((index, error))
            except MemoryError as error:
                name = self._samples[index].get("file_name", "")
                issues.append((index, ImageError(f"{name}: too large for this machine's memory ({error})")))
        return LoadedSample(None, tuple(issues))


class SkippedImages:
    """Counts the unreadable images of a dataset, and raises an error when there are too many.

    Args:
        count: number of images in the dataset.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._skipped: set[int] = set()

    def add(self, index: int, error: CMPFError) -> None:
        """Counts and logs an image, once.

        Raises:
            DatasetError: more than 0.1 % of the images, and more than one, cannot be read.
        """
        if index in self._skipped:
            return
        self._skipped.add(index)
        if len(self._skipped) > max(1, MAX_SKIPPED_FRACTION * self._count):
            raise DatasetError(
                f"{error}. This is image {len(self._skipped)} of {self._count:,} that cannot be read, more than "
                f"{MAX_SKIPPED_FRACTION:.1%}: the dataset is damaged; cmpf datasets check lists them all"
            ) from error
        logger.warning("skipped an image (%d so far): %s", len(self._skipped), error)


@dataclass(frozen=True)
class LoaderOptions:
    """Options of torch's DataLoader.

    num_workers: number of worker processes; 0 = read in the main process.
    pin_memory: copy tensors to pinned memory, for asynchronous transfers to a GPU.
    """

    num_workers: int
    pin_memory: bool

    def __post_init__(self) -> None:
        if self.num_workers < 0:
            raise DatasetError(f"{self.num_workers} workers: must be 0 (read in the main process) or more")


class TrainLoader:
    """Infinite training batches of one rank, with a position that is saved in checkpoints.

    Each `iter` continues after the last batch that was yielded; batches that workers have prefetched do not count.
    The global random generators are not used.
    """

    def __init__(self, *, dataset: MappedDataset, sampler: TrainingSampler, options: LoaderOptions) -> None:
        """See build_train_loader."""
        self._dataset = dataset
        self._sampler = sampler
        self._options = options
        self._position = 0

    def __iter__(self) -> Iterator[list[Sample]]:
        for batch in _load_batches(self._dataset, self._sampler.batches(self._position), self._options):
            self._position += self._sampler.total_batch_size
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The position (samples yielded over all ranks), and the seed and size that determine the stream."""
        return {
            "position": self._position,
            "seed": self._sampler.seed,
            "num_samples": self._sampler.num_samples,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the position of a state_dict; the next `iter` continues from there."""
        current = self.state_dict()
        for key in ("seed", "num_samples"):
            if state[key] != current[key]:
                logger.warning(
                    "the checkpoint was trained with %s %s, now it is %s: the next images will differ "
                    "from those of the interrupted run",
                    key,
                    state[key],
                    current[key],
                )
        self._position = state["position"]


class InferenceLoader:
    """Yields fixed batches once, in order; each `iter` starts from the beginning."""

    def __init__(
        self, *, dataset: MappedDataset, batches: list[list[StreamItem]], options: LoaderOptions
    ) -> None:
        """See build_test_loader."""
        self._dataset = dataset
        self._batches = batches
        self._options = options

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[Sample]]:
        return _load_batches(self._dataset, self._batches, self._options)


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
    """Builds an infinite, shuffled training loader.

    Args:
        samples: the whole dataset, the same on all ranks.
        mapper: with a target source.
        total_batch_size: samples per step over all ranks; each rank gets total_batch_size / world_size.
        seed: seed of the order and of the augmentations, 0 or more.
        num_workers, pin_memory: see LoaderOptions.
        skip_unreadable: replace unreadable images, see MappedDataset.
    Raises:
        DatasetError: an empty dataset, or an invalid number.
    """
    options = LoaderOptions(num_workers, pin_memory)
    sampler = TrainingSampler(
        num_samples=len(samples),
        total_batch_size=total_batch_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )
    dataset = MappedDataset(samples, mapper, seed, skip=skip_unreadable)
    return TrainLoader(dataset=dataset, sampler=sampler, options=options)


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
    """Builds a loader over a rank's shard of a dataset, in order; the last batch may be smaller.

    Args:
        samples: the whole dataset, the same on all ranks.
        mapper: without a target source.
        batch_size: samples per batch on each rank.
        num_workers, pin_memory: see LoaderOptions.
    Raises:
        DatasetError: an invalid number.
    """
    options = LoaderOptions(num_workers, pin_memory)
    if batch_size < 1:
        raise DatasetError(f"batch size {batch_size}: must be 1 or more")
    shard = inference_shard(len(samples), rank=rank, world_size=world_size)
    indices = [StreamItem(index, index) for index in shard]
    batches = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    return InferenceLoader(dataset=MappedDataset(samples, mapper, 0), batches=batches, options=options)


def _load_batches(
    dataset: MappedDataset, batches: Iterable[list[StreamItem]], options: LoaderOptions
) -> Iterator[list[Sample]]:
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=options.num_workers,
        pin_memory=options.pin_memory,
        collate_fn=_no_collate,
        worker_init_fn=_init_worker,
        # By default the loader draws worker seeds from the global generator; a resumed training would then sample
        # other points in its losses than an uninterrupted one.
        generator=torch.Generator(),
    )
    skipped = SkippedImages(len(dataset))
    for batch in loader:
        for index, error in (issue for loaded in batch for issue in loaded.issues):
            if not dataset.skip:
                raise error
            skipped.add(index, error)
        samples = [loaded.sample for loaded in batch]
        if any(sample is None for sample in samples):
            error = next(loaded.issues[-1][1] for loaded in batch if loaded.sample is None)
            raise DatasetError(f"{error}; nor could the {MAX_ATTEMPTS - 1} images after it be read")
        yield samples


def _no_collate(batch: list[Any]) -> list[Any]:
    """Keeps the batch a list, because images differ in size."""
    return batch


def _init_worker(worker: int) -> None:
    """Limits each worker to one thread, and ignores Ctrl-C, on which the main process stops its workers."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
