# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Readers: annotation files as lists of samples with contiguous class indices."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import DatasetError
from cmpf.types import Sample, SegmentInfo

NAMED_FAULTS = 3  # of each kind, in an error message


def read_coco_panoptic(
    *,
    images: Path,
    annotations: Path,
    panoptic: Path,
    vocabulary: Vocabulary,
    semantic: Path | None = None,
    instances: Path | None = None,
    label_map: Mapping[int, int] | None = None,
) -> list[Sample]:
    """Samples of a dataset in COCO panoptic layout, in the order of the JSON file.

    Args:
        images: folder of the pictures.
        annotations: COCO panoptic JSON.
        panoptic: folder of the panoptic PNGs.
        vocabulary: gives the class indices.
        semantic: folder of label PNGs, paired with the pictures by stem; None = no `sem_seg_file_name`.
        instances: COCO instances JSON of the same pictures; None = no `annotations`.
        label_map: category id of the JSON files -> class index; None = categories are found by their name
            among the words of the vocabulary.
    Returns:
        Samples with file_name, image_id, height, width, pan_seg_file_name, segments_info and, where asked
        for, sem_seg_file_name and annotations. No picture is opened.
    Raises:
        DatasetError: a file is no COCO JSON; or pictures without annotation, annotations without picture,
            doubled ids, missing files, unknown categories: all in one message, the first few of each by name.
    """
    content = _read_json(annotations, ("images", "annotations", "categories"))
    faults = _Faults()
    try:
        categories = _Categories(content, vocabulary, label_map, faults)
        samples = _panoptic_samples(content, images, panoptic, categories, faults)
        if semantic is not None:
            for sample in samples.values():
                sample["sem_seg_file_name"] = str(semantic / f"{Path(sample['file_name']).stem}.png")
    except (KeyError, TypeError) as error:
        raise _no_coco(annotations, error) from error
    if instances is not None:
        _add_instances(samples, instances, vocabulary, label_map, faults)
    _check_files(samples.values(), faults)
    faults.raise_any(annotations)
    return list(samples.values())


class _Faults:
    """Collects what is wrong, by kind."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def add(self, kind: str, name: object) -> None:
        self._names.setdefault(kind, []).append(str(name))

    def raise_any(self, source: Path) -> None:
        if not self._names:
            return
        parts = []
        for kind, names in self._names.items():
            more = ", ..." if len(names) > NAMED_FAULTS else ""
            parts.append(f"{len(names)} {kind}: {', '.join(names[:NAMED_FAULTS])}{more}")
        raise DatasetError(f"{source}: {'; '.join(parts)}. Repair the dataset or prepare it again")


def _read_json(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); prepare the dataset again") from error
    except ValueError as error:
        raise DatasetError(f"{path}: no whole JSON file ({error}); prepare the dataset again") from error
    missing = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise DatasetError(f"{path}: no COCO file, it has no list {missing[0]!r}")
    return dict(content)


def _no_coco(path: Path, error: Exception) -> DatasetError:
    what = f"an entry has no {error}" if isinstance(error, KeyError) else str(error)
    return DatasetError(f"{path}: not in COCO's form: {what}; prepare the dataset again")


class _Categories:
    """Looks up the class of each category id; unknown ones are faults."""

    def __init__(
        self,
        content: Mapping[str, Any],
        vocabulary: Vocabulary,
        label_map: Mapping[int, int] | None,
        faults: _Faults,
    ) -> None:
        index_of: dict[str, int] = {}
        for index, words in enumerate(vocabulary.classes):
            for word in words[1:]:
                index_of.setdefault(word, index)
        index_of.update(
            {name: index for index, name in enumerate(vocabulary.names)}
        )  # names go before synonyms
        self._name_of = {category["id"]: category["name"] for category in content["categories"]}
        by_name = {identity: index_of[n] for identity, n in self._name_of.items() if n in index_of}
        self._index_of = by_name if label_map is None else dict(label_map)
        self._faults = faults
        self.is_thing = vocabulary.is_thing

    def index(self, category_id: int) -> int | None:
        """Class index, or None."""
        index = self._index_of.get(category_id)
        if index is None:
            name = self._name_of.get(category_id, "no name")
            self._faults.add("segments of categories that the vocabulary lacks", f"{name} (id {category_id})")
        return index


def _panoptic_samples(
    content: Mapping[str, Any], images: Path, panoptic: Path, categories: _Categories, faults: _Faults
) -> dict[int | str, Sample]:
    """Image id -> sample."""
    samples: dict[int | str, Sample] = {}
    for image in content["images"]:
        if image["id"] in samples:
            faults.add("doubled image ids", image["id"])
        samples[image["id"]] = {
            "file_name": str(images / image["file_name"]),
            "image_id": image["id"],
            "height": image["height"],
            "width": image["width"],
        }
    for annotation in content["annotations"]:
        sample = samples.get(annotation["image_id"])
        if sample is None:
            faults.add("annotations without picture", annotation["file_name"])
            continue
        if "segments_info" in sample:
            faults.add("pictures with two annotations", sample["file_name"])
        sample["pan_seg_file_name"] = str(panoptic / annotation["file_name"])
        sample["segments_info"] = _segments(annotation, categories, faults)
    for sample in samples.values():
        if "segments_info" not in sample:
            faults.add("pictures without annotation", sample["file_name"])
    return samples


def _segments(annotation: Mapping[str, Any], categories: _Categories, faults: _Faults) -> list[SegmentInfo]:
    segments: list[SegmentInfo] = []
    for entry in annotation["segments_info"]:
        index = categories.index(entry["category_id"])
        if index is None:
            continue
        segment: SegmentInfo = {
            "id": entry["id"],
            "category_id": index,
            "isthing": categories.is_thing[index],
            "iscrowd": entry.get("iscrowd", 0),
        }
        if "area" in entry:
            segment["area"] = entry["area"]
        if "bbox" in entry:
            segment["bbox"] = entry["bbox"]
        segments.append(segment)
    for name, count in Counter(entry["id"] for entry in annotation["segments_info"]).items():
        if count > 1:
            faults.add("doubled segment ids", f"{name} in {annotation['file_name']}")
    return segments


def _add_instances(
    samples: Mapping[int | str, Sample],
    path: Path,
    vocabulary: Vocabulary,
    label_map: Mapping[int, int] | None,
    faults: _Faults,
) -> None:
    """Puts the entries of a COCO instances file into the samples, with class indices."""
    content = _read_json(path, ("annotations", "categories"))
    for sample in samples.values():
        sample["annotations"] = []
    try:
        categories = _Categories(content, vocabulary, label_map, faults)
        for entry in content["annotations"]:
            index = categories.index(entry["category_id"])
            if entry["image_id"] not in samples:
                faults.add(
                    "instances without picture", f"{entry.get('id', '?')} of image {entry['image_id']}"
                )
            elif index is not None:
                samples[entry["image_id"]]["annotations"].append({**entry, "category_id": index})
        for name, count in Counter(entry["id"] for entry in content["annotations"]).items():
            if count > 1:
                faults.add("doubled instance ids", name)
    except (KeyError, TypeError) as error:
        raise _no_coco(path, error) from error


def _check_files(samples: Iterable[Sample], faults: _Faults) -> None:
    """Looks every file up in listings of its folder: single look-ups take minutes on a network drive."""
    listings: dict[str, set[str]] = {}
    kinds = {
        "file_name": "missing pictures",
        "pan_seg_file_name": "missing panoptic PNGs",
        "sem_seg_file_name": "missing semantic PNGs",
    }
    for sample in samples:
        for key, kind in kinds.items():
            path = sample.get(key)
            if path is None:
                continue
            folder, name = os.path.split(str(path))
            if folder not in listings:
                listings[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
            if name not in listings[folder]:
                faults.add(kind, path)
