# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Fills a cache of SAM's masks: lists images and generates their masks in one or several processes."""

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
from cmpf.common.tensors import find_device
from cmpf.config import Config, get_cfg
from cmpf.data import DatasetMapper, ResizeShortestEdge, get_dataset
from cmpf.errors import CMPFError, DatasetError, ImageError
from cmpf.factory.encoders import build_online_masks, build_proposal_cache
from cmpf.factory.model import evaluation_size


@dataclass(frozen=True)
class SourceImage:
    """An image file and the test size (shorter side, maximum of the longer side) for which it needs masks."""

    file: str
    test_size: tuple[int, int]


def dataset_images(cfg: Config, names: Sequence[str]) -> list[SourceImage]:
    """All images of datasets without duplicates, each with the test size of its dataset.

    Raises:
        DatasetError: a dataset is unknown or not on disk.
    """
    images: dict[SourceImage, None] = {}
    for dataset in [get_dataset(name) for name in names]:
        size = evaluation_size(cfg, dataset.spec)
        images.update({SourceImage(str(sample["file_name"]), size): None for sample in dataset.samples})
    return list(images)


def images_in_folder(cfg: Config, folder: str | Path) -> list[SourceImage]:
    """All images in a folder and its subfolders, sorted by name, with the test size of INPUT.MIN/MAX_SIZE_TEST.

    Raises:
        DatasetError: the folder does not exist.
        ImageError: it contains no image.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; give one with images")
    return [SourceImage(str(path), evaluation_size(cfg)) for path in folder_images(folder, recursive=True)]


GENERATED, CACHED, DAMAGED = "generated", "cached", "damaged"


@dataclass(frozen=True)
class MaskResult:
    """Result for one image.

    Attributes:
        file: the image file.
        status: GENERATED, CACHED (the masks already existed) or DAMAGED (the image cannot be read).
        message: why the image cannot be read.
    """

    file: str
    status: str
    message: str = ""


class MaskGenerator:
    """Generates the masks that a cache lacks.

    Args:
        cfg: configures the mask SAM and its thresholds.
        output: folder of the cache.
        device: device of SAM.
    """

    def __init__(self, cfg: Config, *, output: str, device: torch.device) -> None:
        self._masks = build_online_masks(cfg, None).to(device)
        self._device = device
        self._cache = build_proposal_cache(cfg, output, sam_hash=self._masks.proposer.encoder.weights_hash)

    def __call__(self, source: SourceImage) -> MaskResult:
        """Generates and stores the masks of an image unless the cache has them.

        Raises:
            EvaluationError: the cache has masks of this image that were generated with other settings.
        """
        try:
            image = _read_image(source)
            if self._cache.holds(source.file, (image.shape[-2], image.shape[-1])):
                return MaskResult(source.file, CACHED)
        except (ImageError, DatasetError) as error:
            return MaskResult(source.file, DAMAGED, str(error))
        proposals = self._masks.masks({"image": image}, shared=lambda _: None, device=self._device)
        self._cache.store(source.file, proposals)
        return MaskResult(source.file, GENERATED)


def _read_image(source: SourceImage) -> torch.Tensor:
    """The image (3, H, W), resized as in an evaluation."""
    short_side, max_side = source.test_size
    resize = ResizeShortestEdge(short_side=short_side, max_side=max_side)
    mapper = DatasetMapper(augmentations=[resize], target=None, image_pad=0)
    return mapper({"file_name": source.file}, np.random.default_rng(0))["image"]


@dataclass(frozen=True)
class Job:
    """Arguments of a process that generates masks.

    Attributes:
        config: see cmpf.config.get_cfg.
        overrides: see cmpf.config.get_cfg.
        output: folder of the cache.
        device: e.g. "cuda:1"; None = MODEL.DEVICE.
        threads: number of CPU threads; 0 = torch's choice.
    """

    config: str
    overrides: tuple[str, ...]
    output: str
    device: str | None
    threads: int

    def build_generator(self) -> MaskGenerator:
        """Sets this process's number of threads and loads SAM."""
        if self.threads:
            torch.set_num_threads(self.threads)
        cfg = get_cfg(self.config, self.overrides)
        device = find_device(self.device or cfg.MODEL.DEVICE)
        return MaskGenerator(cfg, output=self.output, device=device)


class _Worker:
    """State of a worker process: its job, and the generator once the first image has arrived."""

    job: Job
    generator: MaskGenerator | None = None


def generate_masks(jobs: Sequence[Job], images: Sequence[SourceImage]) -> Iterator[MaskResult]:
    """Generates masks and yields the results in the order of the images.

    Args:
        jobs: one runs in this process; several run in a process each.
        images: images to process.
    Raises:
        CMPFError: the cache has masks generated with other settings, or a process died.
    """
    if len(jobs) == 1:
        yield from map(jobs[0].build_generator(), images)
        return
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    for job in jobs:
        queue.put(job)
    try:
        with process_pool(len(jobs), context=context, initializer=_initialize, initargs=(queue,)) as pool:
            yield from pool.map(_generate, images)
    except BrokenProcessPool as error:
        raise CMPFError(
            "a process died, possibly out of memory; run the same command again with fewer --jobs to resume"
        ) from error


def _initialize(queue: SimpleQueue[Job]) -> None:
    _Worker.job = queue.get()


def _generate(source: SourceImage) -> MaskResult:
    if _Worker.generator is None:
        _Worker.generator = _Worker.job.build_generator()
    return _Worker.generator(source)
