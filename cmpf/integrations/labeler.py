# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Labels batches of images for programs that process tables: Ray Data, Daft, Spark, Hugging Face datasets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import cmpf
from cmpf.errors import CMPFError, ImageError
from cmpf.formats.image import MAX_PIXELS, RGB, decode_image, read_image
from cmpf.labelling.inputs import Item, read_address
from cmpf.labelling.parquet import records_to_table
from cmpf.labelling.prefetch import prefetch
from cmpf.labelling.record import ImageRecord, record_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from cmpf.data.words import Words
    from cmpf.formats.addresses import UrlPolicy
    from cmpf.inference.settings import SelectionOptions

TASKS = {"all": ("panoptic", "instance"), "panoptic": ("panoptic",), "instance": ("instance",)}
COLUMNS = tuple(field.name for field in fields(ImageRecord))
DECODER_THREADS = 2


class Labeler:
    """Loads a model once, then converts batches of images to batches of labels.

        labeler = Labeler("cmpf_tiny", "red circle; sky")
        labels = labeler({"image": [content], "uri": ["a.jpg"]})
        dataset.map(labeler, batched=True, remove_columns="image")                               # Hugging Face's
        dataset.map_batches(Labeler, fn_constructor_args=["cmpf_tiny", "red circle; sky"], ...)  # Ray Data

    A batch is a mapping from columns to lists or arrays, or an Arrow table. Its labels have the same type: the image
    column is removed, other columns are kept, and those of cmpf.labelling.parquet.record_schema are added.

    Args:
        model, device, weights, overrides, plugins, allow_unused_weights: see cmpf.load.
        vocabulary, things, stuff, ensemble: see Predictor.predict.
        task: segments of a row: "panoptic", "instance", or "all" (both).
        tile, overlap, max_pixels, selection: see Predictor.predict; selection is min_score, max_instances, nms and
            multi_label.
        batch_size: number of images per forward pass; with 1, labels do not depend on how images are batched, to the
            last digit.
        column: column of the images: bytes of files, paths or addresses, arrays (H, W, 3), PIL images, or Hugging
            Face's {"bytes", "path"}.
        uri: column of their names; without it, images are named by their addresses or by numbers.
        allow_urls: whether http(s) addresses may be downloaded.
    Raises:
        CMPFError: see cmpf.load and Predictor.predict; or the task is unknown.
    """

    def __init__(
        self,
        model: str,
        vocabulary: Words,
        *,
        things: Iterable[str] | None = None,
        stuff: Iterable[str] | None = None,
        task: str = "all",
        ensemble: bool | None = None,
        device: str | None = None,
        weights: str | None = None,
        overrides: Sequence[Any] = (),
        plugins: Sequence[str] = (),
        allow_unused_weights: bool = False,
        batch_size: int = 1,
        tile: int | None = None,
        overlap: float = 0.25,
        max_pixels: int = MAX_PIXELS,
        column: str = "image",
        uri: str = "uri",
        allow_urls: UrlPolicy = False,
        **selection: Unpack[SelectionOptions],
    ) -> None:
        if task not in TASKS:
            raise CMPFError(f"task {task!r} is unknown; choose one of {', '.join(TASKS)}")
        self.predictor = cmpf.load(
            model,
            device=device,
            weights=weights,
            overrides=overrides,
            plugins=plugins,
            allow_unused_weights=allow_unused_weights,
        )
        self.vocabulary = self.predictor.vocabulary(vocabulary, things=things, stuff=stuff)
        self.column, self.uri, self.allow_urls, self.max_pixels = column, uri, allow_urls, max_pixels
        self.batch_size = batch_size
        self._options: dict[str, Any] = {
            "task": TASKS[task],
            "ensemble": ensemble,
            "batch_size": batch_size,
            "tile": tile,
            "overlap": overlap,
            "max_pixels": max_pixels,
            **selection,
        }
        self.predictor.stream([], self.vocabulary, **self._options)  # validates the options

    def __call__(self, batch: Any) -> Any:
        """Labels of a batch; the row of an image that cannot be read has an `error`.

        Raises:
            CMPFError: the batch has no image column.
        """
        if not isinstance(batch, Mapping):
            return self._table(batch)
        rows = [asdict(record) for record in self._label(batch)]
        kept = {name: values for name, values in batch.items() if name not in (self.column, *COLUMNS)}
        return kept | {name: _column([row[name] for row in rows]) for name in COLUMNS}

    def records(self, items: Iterable[Item]) -> Iterator[ImageRecord]:
        """Yields one record per image, in order; images are decoded in threads ahead of the network."""
        images = prefetch(
            lambda item: self._image(item.uri, item.content, item.error),
            items,
            threads=DECODER_THREADS,
        )
        while chunk := list(islice(images, self.batch_size)):
            yield from self._segment(chunk)

    def _table(self, table: Any) -> Any:
        names = [name for name in table.column_names if name in (self.column, self.uri, "error")]
        labels = records_to_table(self._label({name: table.column(name).to_pylist() for name in names}))
        for name in table.column_names:
            if name not in (self.column, *COLUMNS):
                labels = labels.append_column(name, table.column(name))
        return labels

    def _label(self, columns: Mapping[str, Sequence[Any]]) -> list[ImageRecord]:
        if self.column not in columns:
            raise CMPFError(
                f"the batch has no column {self.column!r} but {', '.join(columns) or 'none'}; name the one that holds "
                "the images with Labeler(column=...)"
            )
        values = list(columns[self.column])
        names = [value if isinstance(value, str) else f"image_{place}" for place, value in enumerate(values)]
        uris = columns.get(self.uri, names)
        errors = columns.get("error", [""] * len(values))
        rows = zip(map(str, uris), values, (error or "" for error in errors), strict=True)
        return self._segment(list(prefetch(lambda row: self._image(*row), rows, threads=DECODER_THREADS)))

    def _image(self, uri: str, value: Any, error: str) -> _Image:
        sha256 = ""
        if isinstance(value, Mapping):  # Hugging Face's image feature
            value = value.get("bytes") or value.get("path")
        try:
            if error:
                raise ImageError(error)
            if isinstance(value, str):
                value = read_address(value, allow_urls=self.allow_urls)
            if not isinstance(value, bytes):
                return _Image(uri, sha256, read_image(value, max_pixels=self.max_pixels), "")
            sha256 = hashlib.sha256(value).hexdigest()
            return _Image(uri, sha256, decode_image(value, uri, max_pixels=self.max_pixels), "")
        except CMPFError as reason:
            return _Image(uri, sha256, None, str(reason))

    def _segment(self, images: Sequence[_Image]) -> list[ImageRecord]:
        predictions = self.predictor.stream(
            [image.pixels for image in images if image.pixels is not None], self.vocabulary, **self._options
        )
        return [
            ImageRecord(image.uri, image.sha256, 0, 0, error=image.error)
            if image.pixels is None
            else record_of(next(predictions), image.uri, image.sha256)
            for image in images
        ]


@dataclass(frozen=True)
class _Image:
    """A decoded image, or the error of one that cannot be read."""

    uri: str
    sha256: str
    pixels: RGB | None
    error: str


def _column(values: list[Any]) -> NDArray[Any]:
    """A column as an array: of objects for lists, otherwise of the values' own dtype."""
    if values and isinstance(values[0], list | tuple):
        column = np.empty(len(values), dtype=object)
        for place, value in enumerate(values):
            column[place] = list(value)
        return column
    return np.array(values)
