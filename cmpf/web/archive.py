# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Collects the results of several images in a ZIP: overlays, instances.json, and errors.csv."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cmpf.common.files import write_text
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import CMPFError
from cmpf.inference import Prediction
from cmpf.labelling.configuration import class_configuration
from cmpf.labelling.journal import Entry
from cmpf.labelling.record import record_of
from cmpf.labelling.sources import unique_names
from cmpf.labelling.writers.coco import write_instances
from cmpf.labelling.writers.images import write_overlay

ERRORS = "errors.csv"


@dataclass(frozen=True)
class ImageResult:
    """The summary of one image.

    name: file name.
    class_counts: class name -> number of segments.
    error: why the image could not be read, "" = it was segmented.
    size, original_size: (H, W) after and before shrinking.
    """

    name: str
    class_counts: dict[str, int]
    error: str = ""
    size: tuple[int, int] = (0, 0)
    original_size: tuple[int, int] = (0, 0)


class Archive:
    """Collects results in a folder.

    Args:
        folder: an empty folder.
        names: names of the uploaded files, possibly with duplicates.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self.names = number_duplicates(names)
        self.stems = [stem for _, stem in unique_names([f"/{name}" for name in self.names], "/")]
        self.results: list[ImageResult] = []
        self._entries: list[Entry] = []
        self._files: list[Path] = []

    def add(self, index: int, prediction: Prediction, *, original_size: tuple[int, int]) -> None:
        """Writes the overlay of an image, and adds its record."""
        name, stem = self.names[index], self.stems[index]
        self._files += write_overlay(prediction, stem, self.folder)
        record = record_of(prediction, name)
        self._entries.append(Entry(record, name, stem))
        size = record.height, record.width
        self.results.append(ImageResult(name, prediction.summary(), size=size, original_size=original_size))

    def add_error(self, index: int, error: str) -> None:
        """Adds an image that could not be read."""
        self.results.append(ImageResult(self.names[index], {}, error))

    def finish(self, vocabulary: Vocabulary) -> Path:
        """Writes the ZIP in the folder and returns its path.

        Raises:
            CMPFError: no image could be read.
        """
        failed = [result for result in self.results if result.error]
        if not self._entries:
            raise CMPFError("none of the images can be read. " + "; ".join(result.error for result in failed))
        self._files += write_instances(self._entries, class_configuration(vocabulary), self.folder)
        if failed:
            self._files.append(self._write_errors(failed))
        path = self.folder / ".zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for file in self._files:
                archive.write(file, file.name)
        return path

    def _write_errors(self, failed: Sequence[ImageResult]) -> Path:
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["file", "error"])
        rows.writerows([result.name, result.error] for result in failed)
        path = self.folder / ERRORS
        write_text(path, text.getvalue())
        return path


def number_duplicates(names: Sequence[str]) -> list[str]:
    """Makes file names unique, also on case-insensitive file systems: a.png, a_2.png."""
    used: set[str] = set()
    original = {name.casefold() for name in names}
    unique = []
    for name in names:
        path, number = PurePosixPath(name), 1
        candidate = name
        while candidate.casefold() in used or (number > 1 and candidate.casefold() in original):
            number += 1
            candidate = f"{path.stem}_{number}{path.suffix}"
        used.add(candidate.casefold())
        unique.append(candidate)
    return unique
