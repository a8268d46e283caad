# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Average precision of predictions in COCO's result format, by COCO's or LVIS's rules."""

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
from cmpf.evaluation.instance import NEGATIVE, NOT_EXHAUSTIVE
from cmpf.evaluation.prediction_files.json_files import (
    Categories,
    by_key,
    field,
    identity,
    listed,
    number,
    ordered,
    read_categories,
    whole,
)
from cmpf.formats.coco_json import LVIS_FREQUENCIES, read_json
from cmpf.formats.masks import rle_area, rle_box, to_rle

Entry = dict[str, Any]
MAX_SIDE = 65536  # pixels


def score_instances(*, gt_json: Path, pred_json: Path, iou_type: IoUType, lvis: bool) -> Results:
    """{iou_type: {AP, AP50, AP75, APs, APm, APl, AP-name, ...}} in percent; for LVIS also APr, APc and APf.

    As pycocotools' COCOeval (100 detections per class and image) and lvis-api's LVISEval (300 per image, classes
    that can be judged). As they do, areas of detections are those of the boxes if the first result has a box,
    else those of the masks.

    Args:
        gt_json: COCO instances or LVIS v1 JSON, with any category ids, and the fields that those tools need.
        pred_json: list of {image_id, category_id, score, segmentation or bbox}.
    Raises:
        EvaluationError: files are damaged or do not fit together; names the file and the entry.
    """
    truth = _Truth(gt_json, iou_type=iou_type, lvis=lvis)
    detections = truth.read_results(pred_json)
    if lvis:
        detections = truth.judged(detections)
    precision = coco_precision(
        list(truth.images.values()),
        truth.annotations,
        detections,
        num_classes=len(truth.categories.names),
        iou_type=iou_type,
        federated=lvis,
    )
    return {iou_type: average_precisions(precision, truth.categories.names, None, truth.frequencies)}


class _Truth:
    """A ground-truth file with image ids 1..N and class indices instead of its own ids."""

    def __init__(self, path: Path, *, iou_type: IoUType, lvis: bool) -> None:
        content = read_json(path)
        self.path, self.iou_type, self.lvis = path, iou_type, lvis
        self.categories: Categories = read_categories(content, path)
        images = by_key(listed(content, "images", path), "id", path=path, what="image")
        if not images:
            raise EvaluationError(f"{path}: no image in it")
        # In the order of the ids: official tools settle equal scores of two images by it.
        self.images = {key: self._image(images[key], n) for n, key in enumerate(ordered(images), 1)}
        entries = by_key(listed(content, "annotations", path), "id", path=path, what="annotation")
        self.annotations = [self._annotation(entry) for entry in entries.values()]
        self.frequencies = self._frequencies() if lvis else None

    def _image(self, image: Entry, number: int) -> Entry:
        what = f"image {image['id']}"
        size = {
            key: whole(
                field(image, key, path=self.path, what=what),
                f"{self.path}: {what} has {key}",
                least=1,
                most=MAX_SIDE,
            )
            for key in ("height", "width")
        }
        lists = (
            {key: self._classes(image, key, what) for key in (NEGATIVE, NOT_EXHAUSTIVE)} if self.lvis else {}
        )
        return {"id": number, **size, **lists}

    def _classes(self, image: Entry, key: str, what: str) -> list[int]:
        identities = field(image, key, path=self.path, what=what)
        if not isinstance(identities, list):
            raise EvaluationError(f"{self.path}: {what} has {key} {identities!r}; expected a list")
        return [self.categories.index(identity, path=self.path, what=what) for identity in identities]

    def _frequencies(self) -> list[str]:
        letters = [field(e, "frequency", path=self.path, what="category") for e in self.categories.entries]
        for letter in letters:
            if letter not in LVIS_FREQUENCIES:
                raise EvaluationError(f"{self.path}: category with frequency {letter!r}; LVIS has r, c and f")
        return letters

    def _image_of(self, entry: Entry, path: Path, what: str) -> Entry:
        image = identity(entry, "image_id", path=path, what=what)
        if image not in self.images:
            listed_in = "it does not list" if path == self.path else f"{self.path} does not list"
            raise EvaluationError(f"{path}: {what} has image_id {image!r}, which {listed_in}")
        return self.images[image]

    def _annotation(self, entry: Entry) -> Entry:
        what = f"annotation {entry['id']}"
        if whole(entry["id"], f"{self.path}: annotation has id", least=-(2**53)) == 0:
            raise EvaluationError(
                f"{self.path}: annotation 0: pycocotools counts what it matches as false; number annotations from 1"
            )
        image = self._image_of(entry, self.path, what)
        category = field(entry, "category_id", path=self.path, what=what)
        crowd = entry.get("iscrowd", 0) if self.lvis else field(entry, "iscrowd", path=self.path, what=what)
        result: Entry = {
            "image_id": image["id"],
            "category_id": self.categories.index(category, path=self.path, what=what),
            "iscrowd": whole(crowd, f"{self.path}: {what} has iscrowd", most=1),
        }
        if self.iou_type == "segm":
            result["segmentation"] = _mask(entry, image, self.path, what)
        else:
            result["bbox"] = _box(entry, self.path, what)
        area = number(field(entry, "area", path=self.path, what=what), f"{self.path}: {what} has area")
        if area < 0:
            raise EvaluationError(f"{self.path}: {what} has area {area:g}; expected a number >= 0")
        return {**result, "area": area}

    def read_results(self, path: Path) -> list[Entry]:
        """Entries of a result file with image numbers, class indices, areas, and one geometry."""
        content = read_json(path)
        if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
            raise EvaluationError(f"{path}: no COCO results; expected a list of objects with image_id, "
                                  "category_id, score and segmentation or bbox")  # fmt: skip
        box_areas = bool(content) and content[0].get("bbox", []) != []
        return [self._result(entry, path, f"result {n}", box_areas) for n, entry in enumerate(content)]

    def _result(self, entry: Entry, path: Path, what: str, box_areas: bool) -> Entry:
        image = self._image_of(entry, path, what)
        category = field(entry, "category_id", path=path, what=what)
        score = number(field(entry, "score", path=path, what=what), f"{path}: {what} has score")
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

    def judged(self, detections: list[Entry]) -> list[Entry]:
        """The detections that LVIS looks at."""
        classes_of: Mapping[int, set[int]] = {i["id"]: set(i[NEGATIVE]) for i in self.images.values()}
        for annotation in self.annotations:
            classes_of[annotation["image_id"]].add(annotation["category_id"])
        of_image: dict[int, list[Entry]] = defaultdict(list)
        for detection in detections:
            of_image[detection["image_id"]].append(detection)
        kept = []
        for image, entries in of_image.items():
            scores = np.array([entry["score"] for entry in entries])
            classes = np.array([entry["category_id"] for entry in entries])
            kept += [entries[i] for i in federated_detections(scores, classes, classes_of[image])]
        return kept


def _mask(entry: Entry, image: Entry, path: Path, what: str) -> Entry:
    segmentation = field(entry, "segmentation", path=path, what=what)
    return to_rle(segmentation, height=image["height"], width=image["width"], where=f"{path}: mask of {what}")


def _box(entry: Entry, path: Path, what: str) -> list[float]:
    box = field(entry, "bbox", path=path, what=what)
    if not isinstance(box, list) or len(box) != 4:
        raise EvaluationError(f"{path}: {what} has bbox {box!r}; expected [x, y, width, height]")
    x, y, width, height = (number(value, f"{path}: {what} has in its bbox") for value in box)
    if width < 0 or height < 0:
        raise EvaluationError(f"{path}: {what} has bbox {box!r}; width and height must be >= 0")
    return [x, y, width, height]
