# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Parses a COCO JSON file into samples and collects its issues, for readers and for validation. Opens no image."""

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
from cmpf.formats.label_map import MAX_ID
from cmpf.formats.masks import segmentation_issue
from cmpf.types import Sample, SegmentInfo

Entry = Mapping[str, Any]
Samples = dict[int | str, Sample]  # by image id
Parsed = TypeVar("Parsed")


def _stem_png(image: Entry) -> str:
    return f"{Path(image['file_name']).stem}.png"


@dataclass(frozen=True)
class FileNames:
    """File naming rules of a dataset.

    image: entry of `images` -> path of the image below the image folder.
    semantic: entry of `images` -> path of the label map below its folder.
    image_of_png: `file_name` of an entry of `annotations` -> `file_name` of its image, for datasets whose entries of
        `images` name other files and have no sizes; None = entries of `images` are correct.
    """

    image: Callable[[Entry], str] = image_name
    semantic: Callable[[Entry], str] = _stem_png
    image_of_png: Callable[[str], str] | None = None

    def complete(self, content: Mapping[str, Any], folder: Path) -> None:
        """Corrects the entries of `images` in place with image_of_png, and adds missing sizes from the image files.

        Malformed entries are left unchanged. An unreadable image gets the size 1 x 1; it is reported when it is
        opened.
        """
        if self.image_of_png is None:
            return
        images, annotations = (
            [e for e in content[k] if isinstance(e, dict)] for k in ("images", "annotations")
        )
        png_of = {
            e["image_id"]: e["file_name"]
            for e in annotations
            if isinstance(e.get("image_id"), int | str) and isinstance(e.get("file_name"), str)
        }
        for image in images:
            if isinstance(image.get("id"), int | str) and image["id"] in png_of:
                image["file_name"] = self.image_of_png(png_of[image["id"]])
                if not {"height", "width"} <= image.keys():
                    image["height"], image["width"] = 1, 1
                    with suppress(ImageError):
                        image["height"], image["width"] = read_image_size(folder / self.image(image))


class CocoFile:
    """A COCO JSON file with ground truth. Malformed entries are skipped and reported as issues."""

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
            source: the file. If it is missing, damaged or of another kind, an issue is added and it has no entries.
            wanted, may_be_empty: see kind_issue.
            vocabulary, class_of_id, things_only: see Categories.
            issues: receives the issues of the constructor and of all methods.
        """
        self.source, self.issues = source, issues
        self.content = read_truth(source, wanted, issues, may_be_empty=may_be_empty) or {k: [] for k in LISTS}
        issues_before = len(issues.found)
        names = dict(pair for _, pair in self._entries("categories", lambda e: (e["id"], str(e["name"]))))
        self._categories_valid = len(issues.found) == issues_before
        self.categories = Categories(names, vocabulary, class_of_id, things_only=things_only)

    def _entries(self, key: str, parse: Callable[[Any], Parsed]) -> Iterator[tuple[Any, Parsed]]:
        """Yields the valid entries of a list with the result of `parse`; an exception in `parse` is an issue."""
        for number, entry in enumerate(self.content[key]):
            try:
                check_values(entry)
                parsed = parse(entry)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                self._add(IssueKind.FORM, f"entry {number} of {key}: {entry_issue(error)}")
            else:
                yield entry, parsed

    def _add(self, kind: IssueKind, message: str, file: str | Path = "") -> None:
        self.issues.add(kind, Path(file or self.source), message)

    def _report_categories(self) -> None:
        if self._categories_valid:
            self.categories.report(self.source, self.issues)

    def _images(self, folder: Path, name: Callable[[Entry], str]) -> Iterator[tuple[Entry, Sample]]:
        """Yields the entries of `images` with unique ids and paths, and a sample with file_name, image_id and size.

        Args:
            folder: folder of the images.
            name: entry -> path below the folder.
        """

        def parse(entry: Entry) -> Sample:
            return {
                "file_name": str(folder / name(entry)),
                "image_id": entry["id"],
                "height": int(entry["height"]),
                "width": int(entry["width"]),
            }

        path_of: dict[int | str, str] = {}
        owners: dict[str, int | str] = {}
        for entry, sample in self._entries("images", parse):
            image_id, path = sample["image_id"], sample["file_name"]
            if image_id in path_of:
                both = f"{os.path.basename(path_of[image_id])} and {os.path.basename(path)}"
                self._add(IssueKind.TWICE, f"image id {image_id} is given twice: {both}")
            elif owners.setdefault(path, image_id) != image_id:
                message = f"{self.source.name} lists it twice, as images {owners[path]} and {image_id}"
                self._add(IssueKind.TWICE, message, path)
            else:
                path_of[image_id] = path
                yield entry, sample

    def panoptic_samples(
        self, images: Path, panoptic: Path, semantic: Path | None, names: FileNames
    ) -> Samples:
        """Samples of a panoptic file; arguments as in read_coco_panoptic."""
        names.complete(self.content, images)
        samples: Samples = {}
        owners: dict[str, int | str] = {}
        for entry, sample in self._images(images, names.image):
            image_id = sample["image_id"]
            samples[image_id] = sample
            if semantic is not None:
                path = sample["sem_seg_file_name"] = str(semantic / names.semantic(entry))
                if owners.setdefault(path, image_id) != image_id:
                    self._add(
                        IssueKind.TWICE, f"label map of both images {owners[path]} and {image_id}", path
                    )
        self._add_segments(samples, panoptic)
        return samples

    def _add_segments(self, samples: Samples, panoptic: Path) -> None:
        """Adds the segments of `annotations` to the samples, and removes them from `content` to free memory."""
        owners: dict[str, int | str] = {}
        for entry, (image_id, name) in self._entries("annotations", _parse_panoptic):
            sample = samples.get(image_id)
            if sample is None:
                self._add(IssueKind.UNPAIRED, f"annotation {name} is of image {image_id}, not in images")
            elif "segments_info" in sample:
                both = f"{os.path.relpath(sample['pan_seg_file_name'], panoptic)} and {name}"
                self._add(IssueKind.TWICE, f"image {image_id} has two annotations: {both}")
            elif owners.setdefault(name, image_id) != image_id:
                self._add(IssueKind.TWICE, f"images {owners[name]} and {image_id} share the PNG {name}")
            else:
                sample["pan_seg_file_name"] = str(panoptic / name)
                sample["segments_info"] = [self._segment(s, name) for s in entry.pop("segments_info")]
                ids = [segment["id"] for segment in sample["segments_info"]]
                if len(set(ids)) < len(ids):
                    duplicates = first_few(dict.fromkeys(i for i in ids if ids.count(i) > 1))
                    self._add(IssueKind.TWICE, f"segment id {duplicates} of {name} is given twice")
        for sample in samples.values():
            if "segments_info" not in sample:
                self._add(IssueKind.UNPAIRED, f"has no annotation in {self.source.name}", sample["file_name"])
        self._report_categories()

    def _segment(self, entry: Entry, user: str) -> SegmentInfo:
        index = self.categories.index(entry["category_id"], user)
        segment: SegmentInfo = {
            "id": entry["id"],
            "category_id": -1 if index is None else index,  # reported by _report_categories
            "isthing": index is None or self.categories.is_thing[index],
            "iscrowd": entry.get("iscrowd", 0),
        }
        if "area" in entry:
            segment["area"] = entry["area"]
        if "bbox" in entry:
            segment["bbox"] = entry["bbox"]
        return segment

    def instance_samples(self, images: Path, *, lvis: bool = False, annotated: bool = True) -> Samples:
        """Samples of a COCO instances or LVIS file; arguments as in read_lvis."""
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
            self._add_annotations(samples)
        return samples

    def add_annotations_to(self, samples: Samples) -> None:
        """Adds the annotations of this file to the samples of another file, matched by image id or else by stem.

        Ids may differ, as in ADE20K's panoptic and instances files, which are created by different programs.
        """
        by_stem = {Path(sample["file_name"]).stem: sample for sample in samples.values()}
        stems = ((s["image_id"], Path(s["file_name"]).stem) for _, s in self._images(Path(), image_name))
        by_own_id = {image_id: by_stem[stem] for image_id, stem in stems if stem in by_stem}
        self._add_annotations(by_own_id | samples)

    def _add_annotations(self, samples: Samples) -> None:
        """Adds the entries of `annotations` to the samples, with class indices."""
        for each in samples.values():
            each["annotations"] = []
        seen_ids: set[int | str] = set()
        parse = itemgetter("id", "image_id", "category_id", "segmentation")
        for entry, (annotation_id, image_id, category_id, mask) in self._entries("annotations", parse):
            if annotation_id in seen_ids:
                self._add(IssueKind.TWICE, f"annotation id {annotation_id} is given twice")
            seen_ids.add(annotation_id)
            sample = samples.get(image_id)
            if sample is None:
                self._add(
                    IssueKind.UNPAIRED, f"annotation {annotation_id} is of image {image_id}, not in images"
                )
                continue
            name = os.path.basename(sample["file_name"])
            index = self.categories.index(category_id, name)
            entry["category_id"] = category_id if index is None else index  # reported by _report_categories
            issue = segmentation_issue(mask, height=sample["height"], width=sample["width"])
            if issue:
                kind = IssueKind.SIZE if "in an image of" in issue else IssueKind.FORM
                self._add(kind, f"mask of annotation {annotation_id} in {name}: {issue}")
            else:
                sample["annotations"].append(entry)
        self._report_categories()


def _parse_panoptic(entry: Entry) -> tuple[int | str, str]:
    """Image id and PNG of a panoptic annotation; also validates its segments."""
    for segment in entry["segments_info"]:
        check_values(segment)
        segment_id, _ = _id_and_category(segment)
        if type(segment_id) is not int or not 0 <= segment_id <= MAX_ID:
            shown = str(segment_id)[:40]
            raise TypeError(f"segment id {shown} is not a whole number from 0 to {MAX_ID:,}")
    return entry["image_id"], str(entry["file_name"])


_id_and_category = itemgetter("id", "category_id")


def read_truth(
    path: Path, wanted: str, issues: Issues, *, may_be_empty: bool = False
) -> dict[str, Any] | None:
    """Parses a ground-truth JSON file; adds an issue and returns None if it is missing, damaged or of another kind."""
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
    issue = kind_issue(content, wanted, may_be_empty=may_be_empty)
    if issue:
        issues.add(IssueKind.JSON_KIND, path, issue)
        return None
    return dict(content)
