# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The one walk over a JSON file in COCO's form: its entries as samples, and all that is wrong with them.

Readers raise what it finds, the check of a dataset goes on to the files. No image is opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

from cmpf.data.datasets.issues import IssueKind, Issues
from cmpf.data.datasets.readers.folders import Categories
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import DatasetError, ImageError, first_few
from cmpf.formats.coco_json import (
    LISTS,
    LVIS_LISTS,
    check_values,
    entry_issue,
    image_name,
    kind_issue,
    lvis_image_name,
    read_json,
)
from cmpf.formats.image import read_image_size
from cmpf.formats.masks import segmentation_issue
from cmpf.types import Sample, SegmentInfo

Entry = Mapping[str, Any]
Samples = dict[int | str, Sample]  # by the id of the image
Form = TypeVar("Form")


def _stem_png(image: Entry) -> str:
    return f"{Path(image['file_name']).stem}.png"


@dataclass(frozen=True)
class FileNames:
    """How a dataset names its files: entry of `images` in the JSON file -> path below the folder.

    image: below the folder of images. semantic: below the folder of label maps.
    image_of_png: `file_name` of an entry of `annotations` -> `file_name` of its image, where entries of `images` cannot
        be relied on: they may name something else, and leave sizes out.
    """

    image: Callable[[Entry], str] = image_name
    semantic: Callable[[Entry], str] = _stem_png
    image_of_png: Callable[[str], str] | None = None

    def complete(self, content: Mapping[str, Any], folder: Path) -> None:
        """Corrects the entries of `images` of a panoptic file as image_of_png says; sizes are those of the files.

        Entries that are not in COCO's form stay as they are. An image that cannot be opened gets the size 1 x 1;
        whoever opens it next says why.
        """
        if self.image_of_png is None:
            return
        images, annotations = (
            [e for e in content[k] if isinstance(e, dict)] for k in ("images", "annotations")
        )
        known = [e for e in annotations if isinstance(e.get("image_id"), int | str) and "file_name" in e]
        pngs = {e["image_id"]: e["file_name"] for e in known}
        for image in images:
            if isinstance(image.get("id"), int | str) and image["id"] in pngs:
                image["file_name"] = self.image_of_png(pngs[image["id"]])
                if not {"height", "width"} <= image.keys():
                    image["height"], image["width"] = 1, 1
                    with suppress(ImageError):
                        image["height"], image["width"] = read_image_size(folder / self.image(image))


class CocoFile:
    """A JSON file of ground truth. Entries that are not in COCO's form are left out, and issues."""

    def __init__(
        self,
        source: Path,
        wanted: str,
        vocabulary: Vocabulary,
        class_of_id: Mapping[int, int] | None,
        issues: Issues,
        *,
        things_only: bool = False,
        may_be_empty: bool = False,
    ) -> None:
        """
        Args:
            source: the file. If it is missing, damaged or of another kind, that is an issue, and it has no entries.
            wanted, may_be_empty: see kind_issue.
            vocabulary, class_of_id, things_only: see Categories.
            issues: takes what is wrong, here and later.
        """
        self.source, self.issues = source, issues
        self.content = read_truth(source, wanted, issues, may_be_empty=may_be_empty) or {k: [] for k in LISTS}
        before = len(issues.found)
        names = dict(found for _, found in self._entries("categories", lambda e: (e["id"], str(e["name"]))))
        self._knows_categories = len(issues.found) == before
        self.categories = Categories(names, vocabulary, class_of_id, things_only=things_only)

    def _entries(self, key: str, form: Callable[[Any], Form]) -> Iterator[tuple[Any, Form]]:
        """Entries of a list, with what `form` makes of each; errors of `form` tell that one is not in COCO's form."""
        for number, entry in enumerate(self.content[key]):
            try:
                check_values(entry)
                found = form(entry)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                self._add(IssueKind.FORM, f"entry {number} of {key}: {entry_issue(error)}")
            else:
                yield entry, found

    def _add(self, kind: IssueKind, message: str, file: str | Path = "") -> None:
        self.issues.add(kind, Path(file or self.source), message)

    def _report_categories(self) -> None:
        if self._knows_categories:
            self.categories.report(self.source, self.issues)

    def _images(self, folder: Path, name: Callable[[Entry], str]) -> Iterator[tuple[Entry, Sample]]:
        """Entries of `images`, each id and each path once, with their samples: file_name, image_id, height and width.

        Args:
            folder: of the images. name: entry -> path below the folder.
        """

        def form(entry: Entry) -> Sample:
            return {
                "file_name": str(folder / name(entry)),
                "image_id": entry["id"],
                "height": int(entry["height"]),
                "width": int(entry["width"]),
            }

        path_of: dict[int | str, str] = {}
        owners: dict[str, int | str] = {}
        for entry, sample in self._entries("images", form):
            identity, path = sample["image_id"], sample["file_name"]
            if identity in path_of:
                both = f"{os.path.basename(path_of[identity])} and {os.path.basename(path)}"
                self._add(IssueKind.TWICE, f"image id {identity} is given twice: {both}")
            elif owners.setdefault(path, identity) != identity:
                message = f"{self.source.name} lists it twice, as images {owners[path]} and {identity}"
                self._add(IssueKind.TWICE, message, path)
            else:
                path_of[identity] = path
                yield entry, sample

    def panoptic_samples(
        self, images: Path, panoptic: Path, semantic: Path | None, names: FileNames
    ) -> Samples:
        """Samples of a panoptic file; arguments as of read_coco_panoptic."""
        names.complete(self.content, images)
        samples: Samples = {}
        owners: dict[str, int | str] = {}
        for entry, sample in self._images(images, names.image):
            identity = sample["image_id"]
            samples[identity] = sample
            if semantic is not None:
                path = sample["sem_seg_file_name"] = str(semantic / names.semantic(entry))
                if owners.setdefault(path, identity) != identity:
                    self._add(
                        IssueKind.TWICE, f"label map of both images {owners[path]} and {identity}", path
                    )
        self._add_segments(samples, panoptic)
        return samples

    def _add_segments(self, samples: Samples, panoptic: Path) -> None:
        """Puts the entries of `annotations` into the samples, and takes their segments out of `content`."""
        owners: dict[str, int | str] = {}
        for entry, (identity, name) in self._entries("annotations", _panoptic_form):
            sample = samples.get(identity)
            if sample is None:
                self._add(IssueKind.UNPAIRED, f"annotation {name} is of image {identity}, not in images")
            elif "segments_info" in sample:
                both = f"{os.path.relpath(sample['pan_seg_file_name'], panoptic)} and {name}"
                self._add(IssueKind.TWICE, f"image {identity} has two annotations: {both}")
            elif owners.setdefault(name, identity) != identity:
                self._add(IssueKind.TWICE, f"images {owners[name]} and {identity} share the PNG {name}")
            else:
                sample["pan_seg_file_name"] = str(panoptic / name)
                sample["segments_info"] = [self._segment(s, name) for s in entry.pop("segments_info")]
                ids = [segment["id"] for segment in sample["segments_info"]]
                if len(set(ids)) < len(ids):
                    twice = first_few(dict.fromkeys(i for i in ids if ids.count(i) > 1))
                    self._add(IssueKind.TWICE, f"segment id {twice} of {name} is given twice")
        for sample in samples.values():
            if "segments_info" not in sample:
                self._add(IssueKind.UNPAIRED, f"has no annotation in {self.source.name}", sample["file_name"])
        self._report_categories()

    def _segment(self, entry: Entry, user: str) -> SegmentInfo:
        index = self.categories.index(entry["category_id"], user)
        segment: SegmentInfo = {
            "id": entry["id"],
            "category_id": -1 if index is None else index,  # an issue is told of it
            "isthing": index is None or self.categories.is_thing[index],
            "iscrowd": entry.get("iscrowd", 0),
        }
        if "area" in entry:
            segment["area"] = entry["area"]
        if "bbox" in entry:
            segment["bbox"] = entry["bbox"]
        return segment

    def instance_samples(self, images: Path, *, lvis: bool = False, annotated: bool = True) -> Samples:
        """Samples of an instances file, or an LVIS file; arguments as of read_lvis."""
        samples: Samples = {}
        for entry, sample in self._images(images, lvis_image_name if lvis else image_name):
            samples[sample["image_id"]] = sample
            for key in LVIS_LISTS if lvis and annotated else ():
                ids, user = entry.get(key), f"image {sample['image_id']}"
                if isinstance(ids, list) and all(type(i) is int for i in ids):
                    sample[key] = self.categories.indices(ids, f"{key} of {user}")  # type: ignore[literal-required]
                else:
                    self._add(IssueKind.FORM, f"{user} has no list {key}")
        if annotated:
            self._add_objects(samples)
        return samples

    def add_objects_beside(self, samples: Samples) -> None:
        """Puts the annotations of this file into samples of another one, of the same image id or else the same stem.

        Ids may differ: ADE20K's two files are made by two programs.
        """
        by_stem = {Path(sample["file_name"]).stem: sample for sample in samples.values()}
        own = ((own["image_id"], Path(own["file_name"]).stem) for _, own in self._images(Path(), image_name))
        same = {identity: by_stem[stem] for identity, stem in own if stem in by_stem}
        self._add_objects(same | samples)

    def _add_objects(self, samples: Samples) -> None:
        """Puts the entries of `annotations` into the samples, with class indices."""
        for sample in samples.values():
            sample["annotations"] = []
        seen: set[int | str] = set()
        form = itemgetter("id", "image_id", "category_id", "segmentation")
        for entry, (identity, image_id, category_id, mask) in self._entries("annotations", form):
            if identity in seen:
                self._add(IssueKind.TWICE, f"annotation id {identity} is given twice")
            seen.add(identity)
            owner = samples.get(image_id)
            if owner is None:
                self._add(IssueKind.UNPAIRED, f"annotation {identity} is of image {image_id}, not in images")
                continue
            name = os.path.basename(owner["file_name"])
            index = self.categories.index(category_id, name)
            entry["category_id"] = category_id if index is None else index  # an issue is told of it
            wrong = segmentation_issue(mask, height=owner["height"], width=owner["width"])
            if wrong:
                kind = IssueKind.SIZE if "in an image of" in wrong else IssueKind.FORM
                self._add(kind, f"mask of annotation {identity} in {name}: {wrong}")
            else:
                owner["annotations"].append(entry)
        self._report_categories()


def _panoptic_form(entry: Entry) -> tuple[int | str, str]:
    """Image id and PNG of a panoptic annotation with segments."""
    for segment in entry["segments_info"]:
        check_values(segment)
        _id_and_category(segment)
    return entry["image_id"], str(entry["file_name"])


_id_and_category = itemgetter("id", "category_id")


def read_truth(
    path: Path, wanted: str, issues: Issues, *, may_be_empty: bool = False
) -> dict[str, Any] | None:
    """The content of a JSON file of ground truth; None and an issue if it is another kind of file, see kind_issue."""
    if path.is_dir():
        issues.add(IssueKind.JSON_KIND, path, f"is a folder; expected a COCO {wanted} JSON file")
        return None
    if not path.is_file():
        issues.add(IssueKind.MISSING, path, "no such annotation file")
        return None
    try:
        content = read_json(path)
    except DatasetError as error:
        issues.add(IssueKind.DAMAGED, path, str(error).removeprefix(f"{path}: "))
        return None
    wrong = kind_issue(content, wanted, may_be_empty=may_be_empty)
    if wrong:
        issues.add(IssueKind.JSON_KIND, path, wrong)
        return None
    return dict(content)
