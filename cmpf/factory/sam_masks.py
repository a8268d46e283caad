# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""A cache of SAM's masks is filled: the list of images, making masks, doing so in several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import numpy as np
import torch

from cmpf.common.files import folder_images
from cmpf.common.processes import process_pool
from cmpf.config import Config, get_cfg
from cmpf.data import DatasetMapper, ResizeShortestEdge, get_dataset
from cmpf.errors import CMPFError, DatasetError, ImageError
from cmpf.factory.encoders import build_device, build_online_masks, build_proposal_cache
from cmpf.factory.model import evaluation_size


@dataclass(frozen=True)
class SourceImage:
    """A file, and the test size (shorter side, longest longer side) that its masks are for."""

    file: str
    test_size: tuple[int, int]


def of_datasets(cfg: Config, names: Sequence[str]) -> list[SourceImage]:
    """All images of datasets, at the size of their evaluation; one that several have counts once.

    Raises:
        DatasetError: a dataset is unknown or not on disk.
    """
    found: dict[SourceImage, None] = {}
    for dataset in [get_dataset(name) for name in names]:
        size = evaluation_size(cfg, dataset.spec)
        found.update({SourceImage(str(sample["file_name"]), size): None for sample in dataset.samples})
    return list(found)


def of_folder(cfg: Config, folder: str | Path) -> list[SourceImage]:
    """All images in a folder and the folders inside it, by name, at the size of INPUT.MIN/MAX_SIZE_TEST.

    Raises:
        DatasetError: no such folder. ImageError: no image in it.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; give one with images")
    return [SourceImage(str(path), evaluation_size(cfg)) for path in folder_images(folder, recursive=True)]


MADE, KEPT, DAMAGED = "made", "kept", "damaged"


@dataclass(frozen=True)
class Outcome:
    """What became of an image: MADE, KEPT (it was there) or DAMAGED (the message says why)."""

    file: str
    kind: str
    message: str = ""


class MaskMaker:
    """Makes what is not there yet.

    Args:
        cfg: mask SAM and its thresholds.
        output: folder of the cache.
        device: where SAM runs.
    """

    def __init__(self, cfg: Config, *, output: str, device: torch.device) -> None:
        self._masks = build_online_masks(cfg, None).to(device)
        self._device = device
        self._cache = build_proposal_cache(cfg, output, sam_hash=self._masks.proposer.encoder.weights_hash)

    def __call__(self, source: SourceImage) -> Outcome:
        """
        Raises:
            EvaluationError: masks of this image are there, but with other settings.
        """
        try:
            image = _read(source)
            if self._cache.holds(source.file, (image.shape[-2], image.shape[-1])):
                return Outcome(source.file, KEPT)
        except (ImageError, DatasetError) as error:
            return Outcome(source.file, DAMAGED, str(error))
        proposals = self._masks.masks({"image": image}, shared=lambda _: None, device=self._device)
        self._cache.store(source.file, proposals)
        return Outcome(source.file, MADE)


def _read(source: SourceImage) -> torch.Tensor:
    """The image (3, H, W) as an evaluation gives it to the model."""
    short_side, max_side = source.test_size
    resize = ResizeShortestEdge(short_side=short_side, max_side=max_side)
    mapper = DatasetMapper(augmentations=[resize], target=None, image_pad=0)
    return mapper({"file_name": source.file}, np.random.default_rng(0))["image"]


@dataclass(frozen=True)
class Job:
    """What a process needs to make masks.

    config, overrides: of cmpf.config.get_cfg. output: folder of the cache.
    device: such as "cuda:1"; None = MODEL.DEVICE.
    threads: of the CPU; 0 = torch's own choice.
    """

    config: str
    overrides: tuple[str, ...]
    output: str
    device: str | None
    threads: int

    def maker(self) -> MaskMaker:
        """SAM, ready to work."""
        if self.threads:
            torch.set_num_threads(self.threads)
        cfg = get_cfg(self.config, self.overrides)
        device = torch.device(self.device) if self.device else build_device(cfg)
        return MaskMaker(cfg, output=self.output, device=device)


class _Worker:
    """What a process of the pool keeps between images: its job, and SAM once the first image comes."""

    job: Job
    maker: MaskMaker | None = None


def outcomes(jobs: Sequence[Job], images: Sequence[SourceImage]) -> Iterator[Outcome]:
    """Works images off and tells of each in their order; one job runs in this process, else each has its own.

    Raises:
        CMPFError: the cache has masks made with other settings, or a process died.
    """
    if len(jobs) == 1:
        yield from map(jobs[0].maker(), images)
        return
    context = multiprocessing.get_context("spawn")
    shared = context.SimpleQueue()
    for job in jobs:
        shared.put(job)
    try:
        with process_pool(len(jobs), context=context, initializer=_take_job, initargs=(shared,)) as pool:
            yield from pool.map(_make, images)
    except BrokenProcessPool as error:
        raise CMPFError(
            "a process died, out of memory? Use fewer --jobs; the same command goes on where it was"
        ) from error


def _take_job(shared: SimpleQueue[Job]) -> None:
    _Worker.job = shared.get()


def _make(source: SourceImage) -> Outcome:
    if _Worker.maker is None:
        _Worker.maker = _Worker.job.maker()
    return _Worker.maker(source)
