# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The output formats: files of single images, and dataset files of all images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmpf.labelling.journal import Entry
from cmpf.labelling.writers import coco, images, polygons

if TYPE_CHECKING:
    from cmpf.inference import Prediction

# All writers return the files that they have written.
PredictionWriter = Callable[["Prediction", str, Path], list[Path]]  # prediction, Source.name, output folder
RecordWriter = Callable[[Entry, Path], list[Path]]
# The configuration of the run, see cmpf.labelling.configuration.run_configuration; output folder.
DatasetWriter = Callable[[Iterable[Entry], Mapping[str, Any], Path], list[Path]]


@dataclass(frozen=True)
class Format:
    """One output format.

    tasks: the results that it needs.
    any_task: whether it also accepts other results; `tasks` is then the default.
    write_prediction, write_record: write the files of one image as soon as it is finished.
    write_dataset: writes the files that describe all images.
    """

    tasks: tuple[str, ...]
    any_task: bool = False
    write_prediction: PredictionWriter | None = None
    write_record: RecordWriter | None = None
    write_dataset: DatasetWriter | None = None

    @property
    def has_image_files(self) -> bool:
        """Whether it writes files of single images."""
        return self.write_prediction is not None or self.write_record is not None


def _write_parquet(entries: Iterable[Entry], configuration: Mapping[str, Any], folder: Path) -> list[Path]:
    """labels.parquet, with the schema and metadata of cmpf label."""
    from cmpf import __version__
    from cmpf.labelling.parquet import write_parquet

    path = folder / "labels.parquet"
    write_parquet(path, (entry.record for entry in entries), {"cmpf": __version__, **configuration})
    return [path]


# The files of an image are written in this order: html needs the overlay.
FORMATS: dict[str, Format] = {
    "overlay": Format(("panoptic",), any_task=True, write_prediction=images.write_overlay),
    "semantic": Format(("semantic",), write_prediction=images.write_semantic),
    "instances": Format(("instance",), write_prediction=images.write_instances),
    "coco": Format(("instance",), write_dataset=coco.write_instances),
    "coco-polygons": Format(("instance",), write_dataset=coco.write_polygons),
    "coco-panoptic": Format(
        ("panoptic",), write_record=coco.write_panoptic_png, write_dataset=coco.write_panoptic_json
    ),
    "yolo": Format(
        ("instance",), write_record=polygons.write_yolo_labels, write_dataset=polygons.write_yolo_config
    ),
    "labelme": Format(("instance",), write_record=polygons.write_labelme),
    "html": Format(
        ("panoptic",), any_task=True, write_prediction=images.write_thumbnail, write_dataset=images.write_page
    ),
    "parquet": Format(("panoptic",), any_task=True, write_dataset=_write_parquet),
}
OVERLAY, HTML = "overlay", "html"
# The formats that can be made from records alone, without predictions.
DATASETS = tuple(name for name, format_ in FORMATS.items() if format_.write_prediction is None)


def resolve_formats(names: Iterable[str]) -> tuple[str, ...]:
    """The named formats and those that they need, in the order of FORMATS."""
    wanted = set(names)
    if HTML in wanted:
        wanted.add(OVERLAY)
    return tuple(name for name in FORMATS if name in wanted)


def write_dataset(
    name: str, entries: Callable[[], Iterable[Entry]], configuration: Mapping[str, Any], folder: Path
) -> list[Path]:
    """Writes a dataset from records.

    Args:
        name: one of DATASETS.
        entries: returns an iterator over all images; may be called twice. Images with an error are left out.
        configuration: see DatasetWriter.
    Returns:
        The files that describe all images.
    """
    format_ = FORMATS[name]
    if format_.write_record is not None:
        for entry in entries():
            if not entry.record.error:
                format_.write_record(entry, folder)
    if format_.write_dataset is None:
        return []
    return format_.write_dataset(entries(), configuration, folder)
