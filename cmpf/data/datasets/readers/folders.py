# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Reader of semantic datasets (folders of images and label maps), and checks that all readers share."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cmpf.common.files import IMAGE_SUFFIXES
from cmpf.data.datasets.issues import IssueKind, Issues
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import first_few
from cmpf.types import Sample

logger = logging.getLogger(__name__)

_FILE_KEYS = {  # key of a sample -> name of the file in messages
    "file_name": "image",
    "pan_seg_file_name": "panoptic PNG",
    "sem_seg_file_name": "label map",
}


def check_files(samples: Iterable[Sample], issues: Issues) -> None:
    """Checks that all files of the samples exist.

    Uses one listing per folder, because checking files one by one takes minutes on a network drive.
    """
    listings: dict[str, set[str]] = {}
    for sample in samples:
        for key, kind in _FILE_KEYS.items():
            path = sample.get(key)
            if path is None:
                continue
            folder, name = os.path.split(str(path))
            if folder not in listings:
                listings[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
            if name not in listings[folder]:
                issues.add(IssueKind.MISSING, Path(str(path)), f"no such {kind}")


def find_images(
    folder: Path, *, suffix: str, issues: Issues, extensions: Sequence[str] = IMAGE_SUFFIXES
) -> dict[str, Path]:
    """Finds images below a folder, by the key that pairs them with label maps.

    Args:
        suffix: end of the stems, such as "_leftImg8bit"; other files are ignored. "" = all images.
        extensions: of the files that count as images, in lower case; hidden files and folders never do.
    Returns:
        Path below `folder` without suffix and extension, such as "bonn/bonn_000000_000019" -> file; sorted. An empty
        folder, and two files with the same key, such as a.jpg and a.png, are added to `issues`.
    """
    images: dict[str, Path] = {}
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            stem, extension = os.path.splitext(name)
            if name.startswith(".") or extension.lower() not in extensions or not stem.endswith(suffix):
                continue
            path = Path(parent, name)
            key = path.relative_to(folder).with_name(stem[: len(stem) - len(suffix)]).as_posix()
            if key in images:
                issues.add(IssueKind.TWICE, path, f"the same name as {images[key].name}")
            images[key] = path
    if not images:
        named = f" named *{suffix}" if suffix else ""
        issues.add(IssueKind.MISSING, folder, f"no images{named} in it (of {', '.join(extensions)})")
    return dict(sorted(images.items()))


def semantic_samples(
    images: Path,
    labels: Path,
    issues: Issues,
    *,
    image_suffix: str = "",
    label_suffix: str = "",
    labeled_only: bool = False,
) -> list[Sample]:
    """One sample per image or label map, sorted by key; arguments as in read_semantic.

    Args:
        issues: receives unpaired files; their samples lack `file_name` or `sem_seg_file_name`.
    """
    if labels.is_file():
        issues.add(IssueKind.JSON_KIND, labels, "is a file; a semantic dataset has a folder of label maps")
        return []
    image_files = find_images(images, suffix=image_suffix, issues=issues)
    label_files = find_images(labels, suffix=label_suffix, issues=issues)
    samples: list[Sample] = []
    for key in sorted(image_files.keys() | label_files.keys()):
        sample: Sample = {"image_id": key}
        if key in image_files:
            sample["file_name"] = str(image_files[key])
        elif image_files:
            issues.add(
                IssueKind.UNPAIRED, label_files[key], f"has no image {key}{image_suffix}.* in {images}"
            )
        if key in label_files:
            sample["sem_seg_file_name"] = str(label_files[key])
        elif label_files and not labeled_only:
            issues.add(
                IssueKind.UNPAIRED, image_files[key], f"has no labels {key}{label_suffix}.* in {labels}"
            )
        samples.append(sample)
    return samples


def read_semantic(
    *,
    images: Path,
    labels: Path,
    vocabulary: Vocabulary,
    class_of_id: Mapping[int, int] | None = None,
    image_suffix: str = "",
    label_suffix: str = "",
    labeled_only: bool = False,
) -> list[Sample]:
    """Reads a dataset with one label map per image, sorted by path.

    Args:
        images, labels: folders, searched recursively. An image and its label map have the same path below their folder
            except for suffix and extension: bonn/x_leftImg8bit.png and bonn/x_gtFine_labelTrainIds.png with the
            suffixes _leftImg8bit and _gtFine_labelTrainIds.
        vocabulary: its size limits the values of class_of_id.
        class_of_id: value in the label maps -> class index; applied when label maps are read, not here.
        image_suffix, label_suffix: end of the stems; other files are ignored.
        labeled_only: skip images without a label map, with a warning, instead of raising an error.
    Returns:
        Samples with file_name, image_id (the common path) and sem_seg_file_name. No image is opened, so samples have
        no size.
    Raises:
        DatasetError: there are no images, files are unpaired, or two files have the same path without extension; one
            message gives the first few of each.
    """
    issues = Issues()
    check_class_of_id(class_of_id, vocabulary, labels, issues)
    suffixes = {"image_suffix": image_suffix, "label_suffix": label_suffix}
    samples = semantic_samples(images, labels, issues, **suffixes, labeled_only=labeled_only)
    issues.raise_any(labels)
    unlabeled = [sample["image_id"] for sample in samples if "sem_seg_file_name" not in sample]
    if unlabeled:
        logger.warning(
            "%s: %d of %d images have no label map in %s and are skipped: %s",
            *(images, len(unlabeled), len(samples), labels, first_few(unlabeled)),
        )
    return [sample for sample in samples if "sem_seg_file_name" in sample]


class Categories:
    """Maps category ids to class indices, and collects those without a class."""

    def __init__(
        self,
        names: Mapping[Any, str],
        vocabulary: Vocabulary,
        class_of_id: Mapping[int, int] | None,
        *,
        things_only: bool = False,
    ) -> None:
        """
        Args:
            names: category id -> name, for all categories in the JSON file.
            class_of_id: category id -> class index, of which entries out of range are ignored (check_class_of_id
                reports them); None = categories are matched by name with the words of the vocabulary, class names
                first, then synonyms.
            things_only: report stuff categories like unknown ones.
        """
        index_of: dict[str, int] = {}
        for index, words in enumerate(vocabulary.classes):
            for word in words[1:]:
                index_of.setdefault(word, index)
        index_of.update({name: index for index, name in enumerate(vocabulary.names)})
        self._name_of = names
        if class_of_id is None:
            self._index_of = {i: index_of[name] for i, name in names.items() if name in index_of}
        else:
            self._index_of = {i: n for i, n in class_of_id.items() if 0 <= n < vocabulary.num_classes}
        self._things_only = things_only
        self._unknown: dict[Any, list[str]] = {}
        self.is_thing = vocabulary.is_thing

    def index(self, category_id: Any, user: str = "") -> int | None:
        """Class index, or None if there is none, for `report`; `user` names the file or entry with the category."""
        index = self._index_of.get(category_id)
        if index is None or (self._things_only and not self.is_thing[index]):
            self._unknown.setdefault(category_id, []).append(user)
        return index

    def indices(self, category_ids: Iterable[Any], user: str) -> list[int]:
        """Class indices of the categories that have one; see `index`."""
        return [index for i in category_ids if (index := self.index(i, user)) is not None]

    def report(self, source: Path, issues: Issues) -> None:
        """Adds one issue for each category without a class; `source` is the JSON file."""
        kind = "thing class" if self._things_only else "class"
        for category_id, users in self._unknown.items():
            known = category_id in self._name_of
            name = repr(self._name_of[category_id]) if known else "which categories does not list"
            times = "once" if len(users) == 1 else f"{len(users)} times"
            message = f"category id {category_id}, {name}, is no {kind} of the vocabulary; used {times}"
            issues.add(IssueKind.CATEGORY, source, f"{message}, in {first_few(dict.fromkeys(users))}")


def check_class_of_id(
    class_of_id: Mapping[int, int] | None, vocabulary: Vocabulary, source: Path, issues: Issues
) -> None:
    """Checks that the values of class_of_id are class indices; `source` is the file in the issue."""
    last = vocabulary.num_classes - 1
    wrong = [f"{label} -> {index}" for label, index in (class_of_id or {}).items() if not 0 <= index <= last]
    if wrong:
        issues.add(IssueKind.CATEGORY, source, f"label_map has {first_few(wrong)}, beyond classes 0..{last}")
