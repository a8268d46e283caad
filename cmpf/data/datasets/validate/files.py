# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Validates the files of one sample: image, label map, panoptic PNG and instance masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cmpf.common.files import is_file
from cmpf.common.processes import map_items
from cmpf.data.datasets.issues import IssueKind, Issues
from cmpf.data.datasets.spec import Dataset
from cmpf.data.datasets.validate.segments import check_masks, compare_ids
from cmpf.errors import DatasetError, ImageError, first_few
from cmpf.formats.image import DAMAGED, open_image, read_image
from cmpf.formats.label_map import MAX_LABEL, PANOPTIC_MODES, is_jpeg, read_labels, read_panoptic_ids
from cmpf.types import Sample

_ONE_CHANNEL = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N")
_EIGHT_BITS = ("1", "L", "P")
MAX_BYTE = 255
Size = tuple[int, int]  # (H, W)


@dataclass(frozen=True)
class CheckContext:
    """State of a validation; for the fields see `validate`."""

    dataset: Dataset
    issues: Issues
    released: bool
    jobs: int
    progress: bool

    @property
    def images(self) -> Path:
        """The folder of the images."""
        return self.dataset.folder / self.dataset.spec.images

    def open_files(
        self, samples: Sequence[Sample], *, source: Path | None = None, instances: Path | None = None
    ) -> None:
        """Checks the files of all samples, in several processes; arguments as in check_sample."""
        spec = self.dataset.spec
        labels = LabelRules(
            self.dataset.vocabulary.num_classes, spec.ignore_label, spec.class_of_label, self.released
        )
        check = partial(
            check_sample, labels=labels, hidden_stuff=spec.hidden_stuff, source=source, instances=instances
        )
        results = map_items(check, samples, jobs=self.jobs, title=self.dataset.name, progress=self.progress)
        for result in results:
            if result.error:
                raise DatasetError(result.error)
            self.issues.merge(result.value)


def check_sample(
    sample: Sample, *, labels: LabelRules, hidden_stuff: bool, source: Path | None, instances: Path | None
) -> Issues:
    """Opens the files of a sample and decodes its masks.

    Args:
        sample: may lack the image, the label map or the panoptic PNG.
        labels: checks the label map.
        hidden_stuff: see DatasetSpec.
        source, instances: the JSON files with the image and with its instance masks.
    Returns:
        All issues of the sample.
    """
    issues = Issues()
    image, png, label_map = (
        Path(sample[key]) if key in sample else None
        for key in ("file_name", "pan_seg_file_name", "sem_seg_file_name")
    )
    size = _image_size(image, source, issues) if image is not None else None
    if image is not None and source is not None:
        listed_size = sample["height"], sample["width"]
        _compare_sizes(source, f"says of {image.name}", listed_size, size, issues)
    if png is not None and source is not None:
        ids = _panoptic_ids(png, size, issues)
        segments = sample["segments_info"]
        if ids is not None and not (labels.released and not segments and not ids.any()):
            compare_ids(ids, segments, png, source, issues, hidden_stuff)
    if label_map is not None:
        labels.check(label_map, size, issues)
    if instances is not None:
        check_masks(sample, instances, issues, released=labels.released)
    return issues


def _image_size(path: Path, source: Path | None, issues: Issues) -> Size | None:
    """Size of an image after its EXIF orientation is applied; None and an issue if it cannot be read."""
    if not is_file(path):
        reason = f", but {source.name} lists it" if source else ""
        issues.add(IssueKind.MISSING, path, f"no such image{reason}")
        return None
    try:
        image = read_image(path)
    except ImageError as error:
        issues.add(IssueKind.DAMAGED, path, _without_name(error, path))
        return None
    return image.shape[0], image.shape[1]


def _mode(path: Path, what: str, issues: Issues) -> str | None:
    """Pillow's mode ("RGB") of a ground-truth file, "JPEG" if it is one; None and an issue if it cannot be opened."""
    if not is_file(path):
        issues.add(IssueKind.MISSING, path, f"no such {what}")
        return None
    try:
        with open_image(path) as image:
            return "JPEG" if is_jpeg(image) else image.mode
    except DAMAGED as error:
        issues.add(IssueKind.DAMAGED, path, f"damaged {what} ({error})")
        return None


def _compare_sizes(path: Path, what: str, size: Size, image: Size | None, issues: Issues) -> None:
    """Adds an issue if `size` is not the size of the image, unless that is unknown (None)."""
    if image is not None and size != image:
        issues.add(IssueKind.SIZE, path, f"{what} {size} (H, W), the image has {image}")


def _without_name(error: Exception, path: Path) -> str:
    """The message of an error without the path at its start."""
    return str(error).removeprefix(f"{path}: ")


@dataclass(frozen=True)
class LabelRules:
    """Checks the label maps of a dataset.

    num_classes, ignore_label, class_of_id: see LabelReader.
    released: label maps must not have more bits than they need, and may be entirely unlabeled.
    """

    num_classes: int
    ignore_label: int
    class_of_id: Mapping[int, int] | None = None
    released: bool = False

    @cached_property
    def _known(self) -> NDArray[np.bool_]:
        known = np.zeros(MAX_LABEL + 1, dtype=np.bool_)
        known[[*self._labels, self.ignore_label]] = True
        return known

    @cached_property
    def _labels(self) -> set[int]:
        return {label for label in self.class_of_id or range(self.num_classes) if 0 <= label <= MAX_LABEL}

    def check(self, path: Path, image: Size | None, issues: Issues) -> None:
        """Checks a label map; `image` is the size of its image, None = unknown."""
        mode = _mode(path, "label map", issues)
        if mode is None:
            return
        issue = self._mode_issue(mode)
        if issue:
            issues.add(IssueKind.BIT_DEPTH, path, issue)
            return
        try:
            values = read_labels(path)
        except DatasetError as error:
            message = _without_name(error, path)
            kind = IssueKind.BIT_DEPTH if "16 bits" in message else IssueKind.DAMAGED
            issues.add(kind, path, message)
            return
        _compare_sizes(path, "has", (values.shape[0], values.shape[1]), image, issues)
        counts = np.bincount(values.reshape(-1), minlength=1)
        present = np.flatnonzero(counts)
        wrong = present[~self._known[present]]
        if wrong.size:
            message = f"label {first_few(wrong)} in {int(counts[wrong].sum())} pixels; {self._allowed(present, wrong)}"
            issues.add(IssueKind.LABEL, path, message)
        elif (present == self.ignore_label).all() and not self.released:
            message = f"every pixel has the ignore label {self.ignore_label}: nothing to learn"
            issues.add(IssueKind.EMPTY, path, message)

    def _mode_issue(self, mode: str) -> str:
        max_label = max(self._labels, default=0)
        if mode == "JPEG":
            return "is a JPEG, which changes the class numbers"
        if mode not in _ONE_CHANNEL:
            bands = f"{len(Image.new(mode, (1, 1)).getbands())} channels"
            what = "floating-point values" if mode == "F" else bands
            return f"has {what} ({mode}); a label map has one channel of class numbers"
        if mode in _EIGHT_BITS and max_label > MAX_BYTE:
            return f"has 8 bits, which end at {MAX_BYTE}; labels of this dataset go up to {max_label}"
        if mode not in _EIGHT_BITS and self.released and max(max_label, self.ignore_label) <= MAX_BYTE:
            return "has 16 bits; label maps of this dataset have 8"
        return ""

    def _allowed(self, present: NDArray[Any], wrong: NDArray[Any]) -> str:
        """The allowed labels, and a hint at the likely cause."""
        last = self.num_classes - 1
        words = f"0..{last}" if self.class_of_id is None else f"one of {first_few(sorted(self.class_of_id))}"
        labels = present[present != self.ignore_label]
        hint = ""
        if self.class_of_id is None and labels.min() > 0 and labels.max() == self.num_classes:
            hint = "; are classes counted from 1? Then label_map: "
            hint += f"{{1: 0, ..., {self.num_classes}: {last}}}"
        elif wrong.tolist() == [MAX_BYTE] or wrong.tolist() == [MAX_LABEL]:
            hint = f"; is it for unlabeled pixels? Then ignore_label: {wrong[0]}"
        return f"allowed are {words} and the ignore label {self.ignore_label}{hint}"


def _panoptic_ids(path: Path, image: Size | None, issues: Issues) -> NDArray[Any] | None:
    """Checks and reads a panoptic PNG; None if it cannot be read. `image` is the size of its image, None = unknown."""
    mode = _mode(path, "panoptic PNG", issues)
    if mode is None:
        return None
    if mode != "RGB":
        what = "a JPEG, which changes the ids" if mode == "JPEG" else f"an image of mode {mode}"
        issues.add(IssueKind.NOT_RGB, path, f"is {what}; segment ids are read from R, G and B")
        if mode not in PANOPTIC_MODES:
            return None
    try:
        ids = read_panoptic_ids(path)
    except DatasetError as error:
        issues.add(IssueKind.DAMAGED, path, _without_name(error, path))
        return None
    _compare_sizes(path, "has", (ids.shape[0], ids.shape[1]), image, issues)
    return ids
