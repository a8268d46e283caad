# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Images through a model: threads decode and write while the network is at work on others."""

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
from cmpf.labelling.ahead import Room, Taken, ahead
from cmpf.labelling.journal import Entry
from cmpf.labelling.record import ImageRecord, record_of
from cmpf.labelling.sources import Source
from cmpf.labelling.writers import FORMATS

if TYPE_CHECKING:
    from cmpf.data.vocabulary import Vocabulary
    from cmpf.inference import InferenceSettings, Prediction
    from cmpf.inference.settings import Prepared
    from cmpf.predictor import Predictor

BATCH_ON_CUDA = 8  # halved where memory does not suffice
# Pixels for each of the workers; all that is at work has room for theirs. One image of 24 megapixels is at work alone
# then, and takes less than 1.2 GB with program and model.
PIXELS_EACH = 8_000_000
WAITING = 4  # batches of images of different sizes that are held until one is full


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is done with each image, the same in every process.

    load: gives the predictor on a device, None = the usual one. words: gives its classes.
    predict: arguments of Predictor.settings. reading: of Predictor.prepare.
    formats: of cmpf.labelling.writers. folder: where their files go.
    batch_size: images in one pass, None = as the device likes it. workers: threads that decode, and threads that write.
    """

    load: Callable[[str | None], Predictor]
    words: Callable[[Predictor], Vocabulary]
    predict: Mapping[str, Any]
    formats: tuple[str, ...]
    folder: Path
    batch_size: int | None = None
    workers: int = 2
    reading: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    """An image that is done: its entry for the journal, its files, and what was found, class name -> how often."""

    source: Source
    entry: Entry
    files: list[Path]
    found: dict[str, int] = field(default_factory=dict)


class Replica:
    """One loaded model at work.

    threads: that decode, and that write. taken: what is at work in all replicas; one that is alone counts its own.
    """

    def __init__(self, work: Work, device: str | None) -> None:
        self.work = work
        self.predictor = work.load(device)
        self.words: Vocabulary = work.words(self.predictor)
        self.settings: InferenceSettings = self.predictor.settings(
            **work.predict, batch_size=work.batch_size or 1
        )
        self.threads, self.taken = work.workers, Taken()
        on_cuda = self.predictor.model.device.type == "cuda"
        self._size = work.batch_size or (BATCH_ON_CUDA if on_cuda else 1)

    def run(
        self, sources: Iterable[Source], stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[Finished]:
        """Segments images and writes their files; they come as they get finished, those with errors, too.

        Args:
            stopped: whether no further batch shall begin; what was segmented is written.
        Raises:
            CMPFError: results cannot be written; what was yielded is whole.
        """
        room = Room(self.work.workers * PIXELS_EACH, _pixels_of, self.taken)
        writing: deque[Future[Finished]] = room.ending
        limit = 2 * self.threads + self._size
        with closing(room), ThreadPoolExecutor(self.threads, thread_name_prefix="cmpf-write") as pool:
            images = ahead(self._read, sources, threads=self.threads, room=room)
            for batch in batches(images, self._size):
                if stopped():
                    break
                writing += self._begin_writing(batch, pool, room)
                del batch  # or it would be held while the next one is read and segmented
                while writing and (len(writing) > limit or writing[0].done()):
                    yield writing.popleft().result()
            images.close()
            while writing:
                yield writing.popleft().result()

    def _begin_writing(
        self, batch: list[_Image], pool: ThreadPoolExecutor, room: Room
    ) -> list[Future[Finished]]:
        """Segments a batch; its images' files are then written by threads."""
        found = self._segment(batch)

        def write(image: _Image, prediction: Prediction | None) -> Finished:
            large = prediction is not None and prediction.image.size > 3 * PIXELS_EACH
            try:
                return self._write(image, prediction)
            finally:
                del prediction
                if large:
                    release_memory()
                room.give_back(image.source)

        return [pool.submit(write, *pair) for pair in zip(batch, found, strict=True)]

    def _read(self, source: Source) -> _Image:
        """One image, decoded, or why it cannot be."""
        try:
            digest = "" if "://" in source.uri else _sha256(Path(source.given))
            prepared = self.predictor.prepare(source.given, **self.work.reading)
            if prepared.image.size > 3 * PIXELS_EACH:
                release_memory()
            return _Image(source, digest, prepared)
        except ImageError as error:
            return _Image(source, "", str(error))

    def _segment(self, batch: list[_Image]) -> list[Prediction | None]:
        """One pass over images that were read; with halves where they do not fit into the device's memory together."""
        import torch

        prepared = [image.content for image in batch if not isinstance(image.content, str)]
        if not prepared:
            return [None] * len(batch)
        try:
            return list(self.predictor.segment(prepared, self.words, self.settings))
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
        torch.cuda.empty_cache()
        self._size = half = max(1, len(batch) // 2)
        return self._segment(batch[:half]) + self._segment(batch[half:])

    def _write(self, image: _Image, prediction: Prediction | None) -> Finished:
        source, work = image.source, self.work
        if prediction is None:
            record = ImageRecord(source.uri, image.sha256, 0, 0, error=str(image.content))
            return Finished(source, Entry(record, source.file_name, source.name), [])
        entry = Entry(record_of(prediction, source.uri, image.sha256), source.file_name, source.name)
        if prediction.image.size > 3 * PIXELS_EACH:
            release_memory()
        files = []
        try:
            for name in work.formats:
                format_ = FORMATS[name]
                if format_.of_prediction is not None:
                    files += format_.of_prediction(prediction, source.name, work.folder)
                if format_.of_record is not None:
                    files += format_.of_record(entry, work.folder)
        except OSError as error:
            raise CMPFError(
                f"{work.folder}: the results of {source.given} cannot be written ({summary(error)}); make room, or "
                "allow to write there, and run the same command again: it goes on"
            ) from error
        return Finished(source, entry, files, prediction.summary())


@dataclass(frozen=True)
class _Image:
    """An image that was read, or why it was not."""

    source: Source
    sha256: str
    content: Prepared | str

    @property
    def kind(self) -> tuple[int, ...] | None:
        """Images of one kind fit into one batch: the size that the network sees; None = it goes alone."""
        if isinstance(self.content, str) or self.content.image.size > 3 * PIXELS_EACH:
            return None
        return tuple(self.content.sample["image"].shape)


def _pixels_of(source: Source) -> int:
    """0 where only reading the image tells."""
    try:
        return math.prod(read_image_size(source.given)) if "://" not in source.uri else 0
    except ImageError:
        return 0


def batches(images: Iterable[_Image], size: int) -> Iterator[list[_Image]]:
    """Lists of up to `size` images of one size; those that could not be read, or are large, come alone, at once."""
    waiting: dict[tuple[int, ...], list[_Image]] = {}

    def add(image: _Image) -> list[_Image]:
        if image.kind is None:
            return [image]
        waiting.setdefault(image.kind, []).append(image)
        if len(waiting[image.kind]) < size and sum(map(len, waiting.values())) < WAITING * size:
            return []
        return waiting.pop(max(waiting, key=lambda kind: len(waiting[kind])))

    yield from filter(
        None, map(add, images)
    )  # no variable here that would hold an image while the next is read
    yield from waiting.values()


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path.expanduser())
    except OSError:
        return ""  # reading it as an image says why
