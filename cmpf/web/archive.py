# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The ZIP of several images' results: an overlay of each, instances.json of all, errors.csv of those not read."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cmpf.common.files import write_text
from cmpf.errors import CMPFError
from cmpf.inference import Prediction
from cmpf.labelling.journal import Entry
from cmpf.labelling.record import record_of
from cmpf.labelling.sources import unique_names
from cmpf.labelling.writers.coco import Classes, write_instances
from cmpf.labelling.writers.images import write_overlay

ERRORS = "errors.csv"


@dataclass(frozen=True)
class Line:
    """What the page says about one image.

    name: of its file. found: class name -> how often. error: "" = it was segmented.
    size, shrunk_from: (H, W) as it was segmented, and before.
    """

    name: str
    found: dict[str, int]
    error: str = ""
    size: tuple[int, int] = (0, 0)
    shrunk_from: tuple[int, int] = (0, 0)


class Archive:
    """Collects results in a folder.

    Args:
        folder: empty; names: of the uploaded files, also equal ones.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self.names = distinct(names)
        self.stems = [stem for _, stem in unique_names([f"/{name}" for name in self.names], "/")]
        self.lines: list[Line] = []
        self._entries: list[Entry] = []
        self._files: list[Path] = []

    def add(self, number: int, prediction: Prediction, *, shrunk_from: tuple[int, int]) -> None:
        """Writes the overlay of an image, and keeps what goes into instances.json."""
        name, stem = self.names[number], self.stems[number]
        self._files += write_overlay(prediction, stem, self.folder)
        record = record_of(prediction, name)
        self._entries.append(Entry(record, name, stem))
        self.lines.append(
            Line(name, prediction.summary(), size=(record.height, record.width), shrunk_from=shrunk_from)
        )

    def refuse(self, number: int, error: str) -> None:
        """Keeps why an image is left out."""
        self.lines.append(Line(self.names[number], {}, error))

    def finish(self, classes: Classes) -> Path:
        """The ZIP, in the folder.

        Raises:
            CMPFError: no image could be read.
        """
        refused = [line for line in self.lines if line.error]
        if not self._entries:
            raise CMPFError("none of the images can be read. " + "; ".join(line.error for line in refused))
        self._files += write_instances(self._entries, classes, self.folder)
        if refused:
            self._files.append(self._write_errors(refused))
        path = self.folder / ".zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as content:
            for file in self._files:
                content.write(file, file.name)
        return path

    def _write_errors(self, refused: Sequence[Line]) -> Path:
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["file", "error"])
        rows.writerows([line.name, line.error] for line in refused)
        path = self.folder / ERRORS
        write_text(path, text.getvalue())
        return path


def distinct(names: Sequence[str]) -> list[str]:
    """Names of files in their order, equal ones numbered: a.png, a_2.png; case does not tell names apart."""
    taken: set[str] = set()
    given = {name.casefold() for name in names}
    found = []
    for name in names:
        path, number = PurePosixPath(name), 1
        free = name
        while free.casefold() in taken or (number > 1 and free.casefold() in given):
            number += 1
            free = f"{path.stem}_{number}{path.suffix}"
        taken.add(free.casefold())
        found.append(free)
    return found
