# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Reader of folders of images and label maps, and what all readers check: files, and classes of category ids."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cmpf.common.files import IMAGE_SUFFIXES
from cmpf.data.datasets.issues import IssueKind, Issues
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import first_few
from cmpf.types import Sample

logger = logging.getLogger(__name__)

_KINDS = {
    "file_name": "image",
    "pan_seg_file_name": "panoptic PNG",
    "sem_seg_file_name": "label map",
}


def check_files(samples: Iterable[Sample], issues: Issues) -> None:
    """Every file must be there.

    Looks names up in listings of their folders: single look-ups take minutes on a network drive.
    """
    listings: dict[str, set[str]] = {}
    for sample in samples:
        for key, kind in _KINDS.items():
            path = sample.get(key)
            if path is None:
                continue
            folder, name = os.path.split(str(path))
            if folder not in listings:
                listings[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
            if name not in listings[folder]:
                issues.add(IssueKind.MISSING, Path(str(path)), f"no such {kind}")


def find_images(folder: Path, *, suffix: str, issues: Issues) -> dict[str, Path]:
    """Images below a folder by the name that pairs them.

    Args:
        suffix: what their names must end with before the ending, such as "_leftImg8bit"; other files do not
            count. "" = all images.
    Returns:
        Path below `folder` without suffix and ending, such as "bonn/bonn_000000_000019" -> file; sorted.
        Two files of one name, such as a.jpg and a.png, are an issue; so is a folder without images.
    """
    found: dict[str, Path] = {}
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            stem, ending = os.path.splitext(name)
            if name.startswith(".") or ending.lower() not in IMAGE_SUFFIXES or not stem.endswith(suffix):
                continue
            path = Path(parent, name)
            key = path.relative_to(folder).with_name(stem[: len(stem) - len(suffix)]).as_posix()
            if key in found:
                issues.add(IssueKind.TWICE, path, f"the same name as {found[key].name}")
            found[key] = path
    if not found:
        named = f" named *{suffix}" if suffix else ""
        issues.add(IssueKind.MISSING, folder, f"no images{named} in it (of {', '.join(IMAGE_SUFFIXES)})")
    return dict(sorted(found.items()))


def semantic_samples(
    images: Path,
    labels: Path,
    issues: Issues,
    *,
    image_suffix: str = "",
    label_suffix: str = "",
    labeled_only: bool = False,
) -> list[Sample]:
    """A sample for each name that an image or a label map has, sorted; arguments as of read_semantic.

    Args:
        issues: takes what is wrong. A sample whose image or label map is not there has no such key.
    """
    if labels.is_file():
        issues.add(IssueKind.JSON_KIND, labels, "is a file; a semantic dataset has a folder of label maps")
        return []
    image_files = find_images(images, suffix=image_suffix, issues=issues)
    truths = find_images(labels, suffix=label_suffix, issues=issues)
    samples: list[Sample] = []
    for key in sorted(image_files.keys() | truths.keys()):
        sample: Sample = {"image_id": key}
        if key in image_files:
            sample["file_name"] = str(image_files[key])
        elif image_files:
            issues.add(IssueKind.UNPAIRED, truths[key], f"has no image {key}{image_suffix}.* in {images}")
        if key in truths:
            sample["sem_seg_file_name"] = str(truths[key])
        elif truths and not labeled_only:
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
    """Samples of a dataset with one label map per image, in the order of their names.

    Args:
        images, labels: folders, searched with all folders in them. An image and its labels have the same
            path below their folder but for suffix and ending: bonn/x_leftImg8bit.png and
            bonn/x_gtFine_labelTrainIds.png with the suffixes _leftImg8bit and _gtFine_labelTrainIds.
        vocabulary: its size limits the values of class_of_id.
        class_of_id: value in the label maps -> class index; applied when they are opened, not here.
        image_suffix, label_suffix: files without them do not count.
        labeled_only: images without labels are left out, which the log says; else they are refused.
    Returns:
        Samples with file_name, image_id (the common path) and sem_seg_file_name. No image is opened, so
        sizes are not known.
    Raises:
        DatasetError: no images; or images without labels, labels without image, names that two files
            have: all in one message, the first few of each by name.
    """
    issues = Issues()
    check_class_of_id(class_of_id, vocabulary, labels, issues)
    suffixes = {"image_suffix": image_suffix, "label_suffix": label_suffix}
    found = semantic_samples(images, labels, issues, **suffixes, labeled_only=labeled_only)
    issues.raise_any(labels)
    unlabeled = [sample["image_id"] for sample in found if "sem_seg_file_name" not in sample]
    if unlabeled:
        logger.warning(
            "%s: %d of %d images have no label map in %s and are left out: %s",
            *(images, len(unlabeled), len(found), labels, first_few(unlabeled)),
        )
    return [sample for sample in found if "sem_seg_file_name" in sample]


class Categories:
    """Looks up the class of each category id, and remembers those that have none."""

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
            names: category id -> name, of all categories that the JSON file lists.
            class_of_id: category id -> class index; None = categories are found by their name among the words
                of the vocabulary, names of classes before synonyms. What is wrong with it, check_class_of_id
                tells.
            things_only: categories of stuff are as wrong as unknown ones.
        """
        index_of: dict[str, int] = {}
        for index, words in enumerate(vocabulary.classes):
            for word in words[1:]:
                index_of.setdefault(word, index)
        index_of.update({name: index for index, name in enumerate(vocabulary.names)})
        self._name_of = names
        by_name = {identity: index_of[n] for identity, n in names.items() if n in index_of}
        in_range = {i: n for i, n in (class_of_id or {}).items() if 0 <= n < vocabulary.num_classes}
        self._index_of = by_name if class_of_id is None else in_range
        self._things_only = things_only
        self._unknown: dict[Any, list[str]] = {}
        self.is_thing = vocabulary.is_thing

    def index(self, category_id: Any, user: str = "") -> int | None:
        """Class index, or None, which `report` tells; `user` = the file or entry that has the category."""
        index = self._index_of.get(category_id)
        if index is None or (self._things_only and not self.is_thing[index]):
            self._unknown.setdefault(category_id, []).append(user)
        return index

    def report(self, source: Path, issues: Issues) -> None:
        """One issue for each category that has no class; `source` = the JSON file."""
        kind = "thing class" if self._things_only else "class"
        for identity, users in self._unknown.items():
            known = identity in self._name_of
            name = repr(self._name_of[identity]) if known else "which categories does not list"
            times = "once" if len(users) == 1 else f"{len(users)} times"
            message = f"category id {identity}, {name}, is no {kind} of the vocabulary; used {times}"
            issues.add(IssueKind.CATEGORY, source, f"{message}, in {first_few(dict.fromkeys(users))}")

    def indices(self, category_ids: Iterable[Any], user: str) -> list[int]:
        """Class indices of those that have one."""
        return [index for i in category_ids if (index := self.index(i, user)) is not None]


def check_class_of_id(
    class_of_id: Mapping[int, int] | None, vocabulary: Vocabulary, source: Path, issues: Issues
) -> None:
    """Values of a label map must be class indices; `source` = the ground truth it is for."""
    last = vocabulary.num_classes - 1
    wrong = [f"{label} -> {index}" for label, index in (class_of_id or {}).items() if not 0 <= index <= last]
    if wrong:
        issues.add(IssueKind.CATEGORY, source, f"label_map has {first_few(wrong)}, beyond classes 0..{last}")
