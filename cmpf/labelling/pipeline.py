# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Segments many images with one model; threads decode images and write results while the network runs."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmpf.common.cpu import release_memory
from cmpf.common.files import file_sha256
from cmpf.errors import CMPFError, ImageError, summary
from cmpf.formats.image import read_image_size
from cmpf.labelling.configuration import run_configuration
from cmpf.labelling.journal import Entry
from cmpf.labelling.prefetch import Budget, BudgetUsage, prefetch
from cmpf.labelling.record import ImageRecord, record_of
from cmpf.labelling.sources import Source
from cmpf.labelling.writers import FORMATS

if TYPE_CHECKING:
    from cmpf.data.vocabulary import Vocabulary
    from cmpf.formats.image import RGB
    from cmpf.inference import InferenceSettings, Prediction
    from cmpf.inference.settings import Prepared
    from cmpf.predictor import Predictor

CUDA_BATCH_SIZE = 8  # halved when CUDA runs out of memory
# The images in flight have this many pixels per worker in total. An image of 24 megapixels is then in flight alone, and
# the process stays below 1.2 GB with program and model.
PIXELS_PER_WORKER = 8_000_000
MAX_PENDING_BATCHES = 4  # images that wait for a full batch, in batches


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is done with each image; the same in every process.

    load_predictor: loads the model on a device, None = the default device.
    build_vocabulary: returns the predictor's vocabulary.
    predict_options: arguments of Predictor.settings.
    prepare_options: arguments of Predictor.prepare.
    formats: names in cmpf.labelling.writers.FORMATS.
    folder: output folder.
    batch_size: images per forward pass, None = CUDA_BATCH_SIZE on CUDA, else 1.
    workers: number of decoding threads, and of writing threads.
    """

    load_predictor: Callable[[str | None], Predictor]
    build_vocabulary: Callable[[Predictor], Vocabulary]
    predict_options: Mapping[str, Any]
    formats: tuple[str, ...]
    folder: Path
    batch_size: int | None = None
    workers: int = 2
    prepare_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FinishedImage:
    """An image whose files are written: its journal entry, its files, and class name -> number of segments."""

    source: Source
    entry: Entry
    files: list[Path]
    class_counts: dict[str, int] = field(default_factory=dict)


class Replica:
    """One loaded model.

    threads: number of decoding threads, and of writing threads.
    usage: pixels in flight in all replicas; by default those of this replica alone.
    """

    def __init__(self, job: Job, device: str | None) -> None:
        self.job = job
        self.predictor = job.load_predictor(device)
        self.vocabulary: Vocabulary = job.build_vocabulary(self.predictor)
        self.settings: InferenceSettings = self.predictor.settings(
            **job.predict_options, batch_size=job.batch_size or 1
        )
        self.threads, self.usage = job.workers, BudgetUsage()
        on_cuda = self.predictor.model.device.type == "cuda"
        self._batch_size = job.batch_size or (CUDA_BATCH_SIZE if on_cuda else 1)

    def configuration(self, options: dict[str, Any]) -> dict[str, Any]:
        """See run_configuration."""
        return run_configuration(self.predictor, self.vocabulary, **options)

    def run(
        self, sources: Iterable[Source], should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[FinishedImage]:
        """Segments images and writes their files; yields images as they are finished, also those with errors.

        Args:
            should_stop: polled before each batch. Once it returns True, no further batch starts; the results of images
                that are already segmented are written.
        Raises:
            CMPFError: results cannot be written. The files of the images yielded so far are complete.
        """
        budget = Budget(self.job.workers * PIXELS_PER_WORKER, _num_pixels, self.usage)
        writing: deque[Future[FinishedImage]] = budget.releasing
        max_writing = 2 * self.threads + self._batch_size
        with closing(budget), ThreadPoolExecutor(self.threads, thread_name_prefix="cmpf-write") as pool:
            images = prefetch(self._read, sources, threads=self.threads, budget=budget)
            for batch in batch_by_size(images, self._batch_size):
                if should_stop():
                    break
                writing += self._segment_and_write(batch, pool, budget)
                del batch  # else it would be kept while the next one is read and segmented
                while writing and (len(writing) > max_writing or writing[0].done()):
                    yield writing.popleft().result()
            images.close()
            while writing:
                yield writing.popleft().result()

    def _segment_and_write(
        self, batch: list[_DecodedImage], pool: ThreadPoolExecutor, budget: Budget
    ) -> list[Future[FinishedImage]]:
        """Segments a batch and submits the writing of its files to the pool."""
        predictions = self._segment(batch)

        def write(image: _DecodedImage, prediction: Prediction | None) -> FinishedImage:
            large = prediction is not None and _is_large(prediction.image)
            try:
                return self._write(image, prediction)
            finally:
                del prediction
                if large:
                    release_memory()
                budget.release(image.source)

        return [pool.submit(write, *pair) for pair in zip(batch, predictions, strict=True)]

    def _read(self, source: Source) -> _DecodedImage:
        try:
            prepared = self.predictor.prepare(source.location, **self.job.prepare_options)
            # Not before: a pipe, which `prepare` refuses, would block.
            digest = "" if "://" in source.uri else _sha256(Path(source.location))
            if _is_large(prepared.image):
                release_memory()
            return _DecodedImage(source, digest, prepared)
        except ImageError as error:
            return _DecodedImage(source, "", str(error))

    def _segment(self, batch: list[_DecodedImage]) -> list[Prediction | None]:
        """Predictions of a batch, None for images that could not be read; halves the batch size on CUDA OOM."""
        import torch

        prepared = [image.content for image in batch if not isinstance(image.content, str)]
        if not prepared:
            return [None] * len(batch)
        try:
            return list(self.predictor.segment(prepared, self.vocabulary, self.settings))
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
        torch.cuda.empty_cache()
        self._batch_size = half = max(1, len(batch) // 2)
        return self._segment(batch[:half]) + self._segment(batch[half:])

    def _write(self, image: _DecodedImage, prediction: Prediction | None) -> FinishedImage:
        source, job = image.source, self.job
        if prediction is None:
            record = ImageRecord(source.uri, image.sha256, 0, 0, error=str(image.content))
            return FinishedImage(source, Entry(record, source.file_name, source.name), [])
        entry = Entry(record_of(prediction, source.uri, image.sha256), source.file_name, source.name)
        if _is_large(prediction.image):
            release_memory()
        files = []
        try:
            for name in job.formats:
                format_ = FORMATS[name]
                if format_.write_prediction is not None:
                    files += format_.write_prediction(prediction, source.name, job.folder)
                if format_.write_record is not None:
                    files += format_.write_record(entry, job.folder)
        except OSError as error:
            raise CMPFError(
                f"{job.folder}: the results of {source.location} cannot be written ({summary(error)}); free disk "
                "space or make the folder writable, and run the same command again to resume"
            ) from error
        return FinishedImage(source, entry, files, prediction.summary())


@dataclass(frozen=True)
class _DecodedImage:
    """An image ready for the network, or the error message why it could not be read."""

    source: Source
    sha256: str
    content: Prepared | str

    @property
    def batch_key(self) -> tuple[int, ...] | None:
        """Input shape (C, H, W); images of one shape form a batch. None = the image is a batch of its own."""
        if isinstance(self.content, str) or _is_large(self.content.image):
            return None
        return tuple(self.content.sample["image"].shape)


def batch_by_size(images: Iterable[_DecodedImage], batch_size: int) -> Iterator[list[_DecodedImage]]:
    """Batches of up to `batch_size` images of one shape; unreadable and large images form batches of one, at once."""
    pending: dict[tuple[int, ...], list[_DecodedImage]] = {}

    def add(image: _DecodedImage) -> list[_DecodedImage]:
        if image.batch_key is None:
            return [image]
        pending.setdefault(image.batch_key, []).append(image)
        total = sum(map(len, pending.values()))
        if len(pending[image.batch_key]) < batch_size and total < MAX_PENDING_BATCHES * batch_size:
            return []
        return pending.pop(max(pending, key=lambda key: len(pending[key])))

    # Not a for loop, whose variable would keep an image in memory while the next one is read.
    yield from filter(None, map(add, images))
    yield from pending.values()


def _is_large(image: RGB) -> bool:
    return image.size > 3 * PIXELS_PER_WORKER


def _num_pixels(source: Source) -> int:
    """Pixels of an image, from its header; 0 for a URL or an image that cannot be read."""
    try:
        return math.prod(read_image_size(source.location)) if "://" not in source.uri else 0
    except ImageError:
        return 0


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path.expanduser())
    except OSError:
        return ""  # Predictor.prepare reports the error
