# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Evaluates instance predictions in COCO's result format, by the rules of COCO or LVIS."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cmpf.errors import EvaluationError
from cmpf.evaluation import Results
from cmpf.evaluation.average_precision import (
    IoUType,
    average_precisions,
    coco_precision,
    federated_detections,
)
from cmpf.evaluation.prediction_files.json_files import (
    Categories,
    get_entries,
    get_field,
    get_id,
    index_by,
    read_categories,
    sort_ids,
    to_float,
    to_int,
)
from cmpf.formats.coco_json import LVIS_FREQUENCIES, LVIS_LISTS, MAX_SIDE, NEGATIVE, read_json
from cmpf.formats.masks import rle_area, rle_box, to_rle

Entry = dict[str, Any]


def score_instances(*, gt_json: Path, pred_json: Path, iou_type: IoUType, lvis: bool) -> Results:
    """Returns {iou_type: {AP, AP50, AP75, APs, APm, APl, AP-name, ...}} in percent; for LVIS also APr, APc and APf.

    Equals pycocotools' COCOeval (100 detections per class and image) and lvis-api's LVISEval (300 per image, labeled
    classes only). As in these, areas of detections are those of the boxes if the first result has a box, else those of
    the masks.

    Args:
        gt_json: COCO instances or LVIS v1 JSON, with any category ids, and the fields that those tools need.
        pred_json: list of {image_id, category_id, score, segmentation or bbox}.
        iou_type: "segm" or "bbox".
        lvis: use LVIS's rules.
    Raises:
        EvaluationError: a file is damaged or they do not match; names the file and the entry.
    """
    truth = _GroundTruth(gt_json, iou_type=iou_type, lvis=lvis)
    detections = truth.read_results(pred_json)
    if lvis:
        detections = truth.evaluated_detections(detections)
    precision = coco_precision(
        list(truth.images.values()),
        truth.annotations,
        detections,
        num_classes=len(truth.categories.names),
        iou_type=iou_type,
        federated=lvis,
    )
    return {iou_type: average_precisions(precision, truth.categories.names, None, truth.frequencies)}


class _GroundTruth:
    """A ground-truth file whose image and category ids are replaced by 1..N and class indices."""

    def __init__(self, path: Path, *, iou_type: IoUType, lvis: bool) -> None:
        content = read_json(path)
        self.path, self.iou_type, self.lvis = path, iou_type, lvis
        self.categories: Categories = read_categories(content, path)
        images = index_by(get_entries(content, "images", path), "id", path=path, what="image")
        if not images:
            raise EvaluationError(f"{path}: no image in it")
        # In the order of the ids, by which the official tools break ties of scores between images.
        self.images = {key: self._image(images[key], n) for n, key in enumerate(sort_ids(images), 1)}
        entries = index_by(get_entries(content, "annotations", path), "id", path=path, what="annotation")
        self.annotations = [self._annotation(entry) for entry in entries.values()]
        self.frequencies = self._frequencies() if lvis else None

    def _image(self, image: Entry, image_id: int) -> Entry:
        what = f"image {image['id']}"
        size = {
            key: to_int(
                get_field(image, key, path=self.path, what=what),
                f"{self.path}: {what} has {key}",
                minimum=1,
                maximum=MAX_SIDE,
            )
            for key in ("height", "width")
        }
        lists = {key: self._classes(image, key, what) for key in LVIS_LISTS} if self.lvis else {}
        return {"id": image_id, **size, **lists}

    def _classes(self, image: Entry, key: str, what: str) -> list[int]:
        category_ids = get_field(image, key, path=self.path, what=what)
        if not isinstance(category_ids, list):
            raise EvaluationError(f"{self.path}: {what} has {key} {category_ids!r}; expected a list")
        return [self.categories.index(category, path=self.path, what=what) for category in category_ids]

    def _frequencies(self) -> list[str]:
        frequencies = [
            get_field(e, "frequency", path=self.path, what="category") for e in self.categories.entries
        ]
        for frequency in frequencies:
            if frequency not in LVIS_FREQUENCIES:
                raise EvaluationError(
                    f"{self.path}: category with frequency {frequency!r}; LVIS has r, c and f"
                )
        return frequencies

    def _image_of(self, entry: Entry, path: Path, what: str) -> Entry:
        image_id = get_id(entry, "image_id", path=path, what=what)
        if image_id not in self.images:
            listed_in = "it does not list" if path == self.path else f"{self.path} does not list"
            raise EvaluationError(f"{path}: {what} has image_id {image_id!r}, which {listed_in}")
        return self.images[image_id]

    def _annotation(self, entry: Entry) -> Entry:
        what = f"annotation {entry['id']}"
        if to_int(entry["id"], f"{self.path}: annotation has id", minimum=-(2**53)) == 0:
            raise EvaluationError(
                f"{self.path}: annotation 0: pycocotools counts what it matches as false; number annotations from 1"
            )
        image = self._image_of(entry, self.path, what)
        category = get_field(entry, "category_id", path=self.path, what=what)
        if self.lvis:
            crowd = entry.get("iscrowd", 0)
        else:
            crowd = get_field(entry, "iscrowd", path=self.path, what=what)
        result: Entry = {
            "image_id": image["id"],
            "category_id": self.categories.index(category, path=self.path, what=what),
            "iscrowd": to_int(crowd, f"{self.path}: {what} has iscrowd", maximum=1),
        }
        if self.iou_type == "segm":
            result["segmentation"] = _mask(entry, image, self.path, what)
        else:
            result["bbox"] = _box(entry, self.path, what)
        area = to_float(get_field(entry, "area", path=self.path, what=what), f"{self.path}: {what} has area")
        if area < 0:
            raise EvaluationError(f"{self.path}: {what} has area {area:g}; expected a number >= 0")
        return {**result, "area": area}

    def read_results(self, path: Path) -> list[Entry]:
        """Reads the detections of a result file, with image ids 1..N, class indices, areas, and a mask or a box."""
        content = read_json(path)
        if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
            raise EvaluationError(f"{path}: no COCO results; expected a list of objects with image_id, "
                                  "category_id, score and segmentation or bbox")  # fmt: skip
        box_areas = bool(content) and content[0].get("bbox", []) != []
        return [self._result(entry, path, f"result {n}", box_areas) for n, entry in enumerate(content)]

    def _result(self, entry: Entry, path: Path, what: str, box_areas: bool) -> Entry:
        image = self._image_of(entry, path, what)
        category = get_field(entry, "category_id", path=path, what=what)
        score = to_float(get_field(entry, "score", path=path, what=what), f"{path}: {what} has score")
        result: Entry = {
            "image_id": image["id"],
            "category_id": self.categories.index(category, path=path, what=what),
            "score": score,
        }
        if box_areas and self.iou_type == "bbox":
            box = _box(entry, path, what)
            return {**result, "bbox": box, "area": box[2] * box[3]}
        mask = _mask(entry, image, path, what)
        box = _box(entry, path, what) if box_areas else rle_box(mask)
        geometry = {"segmentation": mask} if self.iou_type == "segm" else {"bbox": box}
        area = box[2] * box[3] if box_areas else float(rle_area(mask))
        return {**result, **geometry, "area": area}

    def evaluated_detections(self, detections: list[Entry]) -> list[Entry]:
        """The detections that LVIS evaluates; see federated_detections."""
        labeled: Mapping[int, set[int]] = {i["id"]: set(i[NEGATIVE]) for i in self.images.values()}
        for annotation in self.annotations:
            labeled[annotation["image_id"]].add(annotation["category_id"])
        by_image: dict[int, list[Entry]] = defaultdict(list)
        for detection in detections:
            by_image[detection["image_id"]].append(detection)
        selected = []
        for image_id, entries in by_image.items():
            scores = np.array([entry["score"] for entry in entries])
            classes = np.array([entry["category_id"] for entry in entries])
            selected += [entries[i] for i in federated_detections(scores, classes, labeled[image_id])]
        return selected


def _mask(entry: Entry, image: Entry, path: Path, what: str) -> Entry:
    segmentation = get_field(entry, "segmentation", path=path, what=what)
    return to_rle(segmentation, height=image["height"], width=image["width"], where=f"{path}: mask of {what}")


def _box(entry: Entry, path: Path, what: str) -> list[float]:
    box = get_field(entry, "bbox", path=path, what=what)
    if not isinstance(box, list) or len(box) != 4:
        raise EvaluationError(f"{path}: {what} has bbox {box!r}; expected [x, y, width, height]")
    x, y, width, height = (to_float(value, f"{path}: {what} has in its bbox") for value in box)
    if width < 0 or height < 0:
        raise EvaluationError(f"{path}: {what} has bbox {box!r}; width and height must be >= 0")
    return [x, y, width, height]
