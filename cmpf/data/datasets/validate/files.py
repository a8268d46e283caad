# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Opens images and label maps, and tells what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from cmpf.data.datasets.validate.findings import Findings, Mistake, named
from cmpf.errors import DatasetError, ImageError
from cmpf.formats.image import DAMAGED, read_image
from cmpf.formats.label_map import MAX_LABEL, read_labels

_ONE_CHANNEL = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N")
_EIGHT_BITS = ("1", "L", "P")
MAX_BYTE = 255
Size = tuple[int, int]  # (H, W)


def image_size(path: Path, findings: Findings, *, listed_in: Path | None = None) -> Size | None:
    """Size of an image as it is read, upright; None if it cannot be.

    Args:
        listed_in: the JSON file that names it.
    """
    if not path.is_file():
        reason = f", but {listed_in.name} lists it" if listed_in else ""
        findings.add(Mistake.MISSING, path, f"no such image{reason}")
        return None
    try:
        image = read_image(path)
    except ImageError as error:
        findings.add(Mistake.DAMAGED, path, _without_name(error, path))
        return None
    return image.shape[0], image.shape[1]


def file_form(path: Path, what: str, findings: Findings) -> tuple[str, str] | None:
    """Pillow's format ("PNG") and mode ("RGB") of a ground-truth file; None if it cannot be opened.

    Args:
        what: kind of the file, such as "label map".
    """
    if not path.is_file():
        findings.add(Mistake.MISSING, path, f"no such {what}")
        return None
    try:
        with Image.open(path) as image:
            return str(image.format), image.mode
    except DAMAGED as error:
        findings.add(Mistake.DAMAGED, path, f"damaged {what} ({error})")
        return None


def compare_sizes(path: Path, what: str, size: Size, image: Size | None, findings: Findings) -> None:
    """A finding if the size of something is not the image's; None = the image's is not known."""
    if image is not None and size != image:
        findings.add(Mistake.SIZE, path, f"{what} {size} (H, W), the image has {image}")


class LabelCheck:
    """Looks at the label maps of one dataset."""

    def __init__(
        self,
        *,
        num_classes: int,
        ignore_label: int,
        label_map: Mapping[int, int] | None,
        findings: Findings,
    ) -> None:
        """See LabelReader; findings go to `findings`."""
        allowed = {label for label in label_map or range(num_classes) if 0 <= label <= MAX_LABEL}
        self._known = np.zeros(MAX_LABEL + 1, dtype=np.bool_)
        self._known[[*allowed, ignore_label]] = True
        self._highest = max(allowed, default=0)
        self._words = f"0..{num_classes - 1}" if label_map is None else f"one of {named(sorted(label_map))}"
        self._num_classes, self._ignore_label, self._mapped = num_classes, ignore_label, label_map is not None
        self._findings = findings

    def __call__(self, path: Path, image: Size | None) -> None:
        """
        Args:
            path: the label map.
            image: size of the image, or None.
        """
        form = file_form(path, "label map", self._findings)
        if form is None or not self._has_right_form(path, *form):
            return
        try:
            values = read_labels(path)
        except DatasetError as error:
            message = _without_name(error, path)
            mistake = Mistake.BIT_DEPTH if "16 bits" in message else Mistake.DAMAGED
            self._findings.add(mistake, path, message)
            return
        compare_sizes(path, "has", (values.shape[0], values.shape[1]), image, self._findings)
        counts = np.bincount(values.reshape(-1), minlength=1)
        present = np.flatnonzero(counts)
        wrong = present[~self._known[present]]
        if wrong.size:
            self._report(path, wrong, int(counts[wrong].sum()), present)
        elif (present == self._ignore_label).all():
            self._findings.add(
                Mistake.EMPTY,
                path,
                f"every pixel has the ignore label {self._ignore_label}: nothing to learn",
            )

    def _has_right_form(self, path: Path, image_format: str, mode: str) -> bool:
        if mode not in _ONE_CHANNEL:
            what = (
                "floating-point values"
                if mode == "F"
                else f"{len(Image.new(mode, (1, 1)).getbands())} channels"
            )
            issue = f"has {what} ({mode}); a label map has one channel of class numbers"
        elif image_format == "JPEG":
            issue = "is a JPEG, which changes the class numbers"
        elif mode in _EIGHT_BITS and self._highest > MAX_BYTE:
            issue = f"has 8 bits, which end at {MAX_BYTE}; labels of this dataset go up to {self._highest}"
        else:
            return True
        self._findings.add(Mistake.BIT_DEPTH, path, issue)
        return False

    def _report(self, path: Path, wrong: np.ndarray, pixels: int, present: np.ndarray) -> None:
        labels = present[present != self._ignore_label]
        hint = ""
        if not self._mapped and labels.min() > 0 and labels.max() == self._num_classes:
            hint = f"; are classes counted from 1? Then label_map: {{1: 0, ..., {self._num_classes}: "
            hint += f"{self._num_classes - 1}}}"
        elif wrong.tolist() == [MAX_BYTE] or wrong.tolist() == [MAX_LABEL]:
            hint = f"; is it for unlabeled pixels? Then ignore_label: {wrong[0]}"
        self._findings.add(
            Mistake.LABEL,
            path,
            f"label {named(wrong)} in {pixels} pixels; allowed are {self._words} and the ignore label "
            f"{self._ignore_label}{hint}",
        )


def _without_name(error: Exception, path: Path) -> str:
    """An error's message without the path that it begins with."""
    return str(error).removeprefix(f"{path}: ")
