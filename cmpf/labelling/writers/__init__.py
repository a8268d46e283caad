# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Formats of results: files of each image, and dataset files of all of them, both made from records where they can be.

A format has up to two parts: `of_image` writes what belongs to one image as soon as it is finished, `of_all` what says
something about all of them. `write_dataset` makes a dataset of records alone, as of those in a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cmpf.labelling.journal import Entry
from cmpf.labelling.writers import coco, images, outlines
from cmpf.labelling.writers.coco import Classes

if TYPE_CHECKING:
    from cmpf.inference import Prediction

OfPrediction = Callable[["Prediction", str, Path], list[Path]]  # prediction, name, folder -> files
OfRecord = Callable[[Entry, Path], list[Path]]
OfAll = Callable[[Iterable[Entry], Classes, Path], list[Path]]


@dataclass(frozen=True)
class Format:
    """One format.

    tasks: the results that it needs. any_task: these are only the usual ones, others will do, too.
    of_prediction, of_record: files of one image. of_all: dataset files.
    """

    tasks: tuple[str, ...]
    any_task: bool = False
    of_prediction: OfPrediction | None = None
    of_record: OfRecord | None = None
    of_all: OfAll | None = None

    @property
    def of_images(self) -> bool:
        """Whether there are files of each image."""
        return self.of_prediction is not None or self.of_record is not None


def _write_parquet(entries: Iterable[Entry], classes: Classes, folder: Path) -> list[Path]:
    """labels.parquet, as cmpf label has it."""
    from cmpf import __version__
    from cmpf.labelling.parquet import write_parquet

    path = folder / "labels.parquet"
    words = {"cmpf": __version__, "vocabulary": list(classes.names), "stuff": list(classes.stuff)}
    write_parquet(path, (entry.record for entry in entries), words)
    return [path]


# The order is that in which the files of an image are written: html shows overlays.
FORMATS: dict[str, Format] = {
    "overlay": Format(("panoptic",), any_task=True, of_prediction=images.write_overlay),
    "semantic": Format(("semantic",), of_prediction=images.write_semantic),
    "instances": Format(("instance",), of_prediction=images.write_instances),
    "coco": Format(("instance",), of_all=coco.write_instances),
    "coco-polygons": Format(("instance",), of_all=coco.write_polygons),
    "coco-panoptic": Format(("panoptic",), of_record=coco.write_segments, of_all=coco.write_panoptic),
    "yolo": Format(("instance",), of_record=outlines.write_labels, of_all=outlines.write_data),
    "labelme": Format(("instance",), of_record=outlines.write_shapes),
    "html": Format(
        ("panoptic",), any_task=True, of_prediction=images.write_thumbnail, of_all=images.write_page
    ),
    "parquet": Format(("panoptic",), any_task=True, of_all=_write_parquet),
}
OVERLAY, HTML = "overlay", "html"
# What records alone make.
DATASETS = tuple(name for name, format_ in FORMATS.items() if format_.of_prediction is None)


def chosen_formats(names: Iterable[str]) -> tuple[str, ...]:
    """The formats, each once, in the order of FORMATS, with those that others need."""
    wanted = set(names)
    if HTML in wanted:
        wanted.add(OVERLAY)
    return tuple(name for name in FORMATS if name in wanted)


def write_dataset(
    name: str, entries: Callable[[], Iterable[Entry]], classes: Classes, folder: Path
) -> list[Path]:
    """One of DATASETS from records; returns its dataset files.

    Args:
        entries: gives all images, each time anew; those with an error are passed over.
    """
    format_ = FORMATS[name]
    if format_.of_record is not None:
        for entry in entries():
            if not entry.record.error:
                format_.of_record(entry, folder)
    if format_.of_all is None:
        return []
    return format_.of_all(entries(), classes, folder)
