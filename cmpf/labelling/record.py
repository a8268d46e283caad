# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Records of the segments of an image, with run-length encoded masks: the common input of all dataset writers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cmpf.errors import DatasetError
from cmpf.formats.masks import RLE, decode_mask, encode_mask, segmentation_issue

if TYPE_CHECKING:  # reading records does not need torch
    from cmpf.inference import Prediction

INSTANCE, PANOPTIC = TASKS = ("instance", "panoptic")
SOURCES = ("decoder", "sam")


@dataclass(frozen=True)
class SegmentRecord:
    """One instance or panoptic segment.

    id: from 1, unique among the segments of one image and task; of a panoptic segment, its value in the panoptic map.
    category_id: class index in the vocabulary, from 0.
    category: class name.
    isthing: whether the class is a thing.
    score: in [0, 1].
    area: in pixels.
    bbox: (x, y, width, height) in pixels.
    size: (H, W) of the image.
    counts: compressed run lengths as in COCO.
    source: origin of the mask, "decoder" or "sam".
    task: "instance" or "panoptic".
    """

    id: int
    category_id: int
    category: str
    isthing: bool
    score: float
    area: int
    bbox: tuple[float, float, float, float]
    size: tuple[int, int]
    counts: str
    source: str
    task: str

    @property
    def rle(self) -> RLE:
        """The mask in COCO's compressed RLE format."""
        return {"size": list(self.size), "counts": self.counts}

    def mask(self) -> NDArray[np.bool_]:
        """The decoded mask, (H, W).

        Raises:
            DatasetError: the run lengths are damaged.
        """
        height, width = self.size
        return decode_mask(
            self.rle, height=height, width=width, where=f"segment {self.id} of {self.category}"
        )


@dataclass(frozen=True)
class ImageRecord:
    """The segments of one image.

    uri: path or URL.
    sha256: SHA-256 of the file's bytes in hexadecimal, "" = unknown.
    height, width: in pixels, EXIF orientation applied; 0 if the image could not be read.
    segments: see SegmentRecord.
    error: why the image could not be read, "" = no error.
    """

    uri: str
    sha256: str
    height: int
    width: int
    segments: tuple[SegmentRecord, ...] = ()
    error: str = ""

    def of_task(self, task: str) -> tuple[SegmentRecord, ...]:
        """The segments of one task, "instance" or "panoptic"."""
        return tuple(segment for segment in self.segments if segment.task == task)


def record_of(prediction: Prediction, uri: str, sha256: str = "") -> ImageRecord:
    """The record of a prediction: its panoptic segments, then its instances, if the prediction has them.

    Args:
        uri, sha256: see ImageRecord.
    """
    height, width = prediction.image.shape[:2]
    segments = [*_panoptic_segments(prediction), *_instances(prediction)]
    return ImageRecord(uri, sha256, int(height), int(width), tuple(segments))


def _panoptic_segments(prediction: Prediction) -> Iterator[SegmentRecord]:
    if prediction.panoptic_result is None:
        return
    ids = prediction.panoptic
    for segment in prediction.segments:
        x, y, width, height = segment.bbox
        window = ids[y : y + height, x : x + width] == segment.id
        yield SegmentRecord(
            id=segment.id,
            category_id=segment.category_id,
            category=segment.category,
            isthing=segment.isthing,
            score=segment.score,
            area=segment.area,
            bbox=(float(x), float(y), float(width), float(height)),
            source=segment.source,
            task=PANOPTIC,
            **_rle_fields(encode_mask(window, corner=(y, x), size=ids.shape)),
        )


def _instances(prediction: Prediction) -> Iterator[SegmentRecord]:
    if prediction.instances_result is None:
        return
    instances = prediction.instances
    rows = zip(
        instances.masks,
        instances.boxes.tolist(),
        instances.scores,
        instances.labels,
        instances.sources,
        strict=True,
    )
    for number, (mask, (x0, y0, x1, y1), score, label, source) in enumerate(rows, start=1):
        yield SegmentRecord(
            id=number,
            category_id=int(label),
            category=prediction.names[int(label)],
            isthing=True,
            score=float(score),
            area=int(np.count_nonzero(mask)),
            bbox=(x0, y0, x1 - x0, y1 - y0),
            source=str(source),
            task=INSTANCE,
            **_rle_fields(encode_mask(mask)),
        )


def _rle_fields(rle: RLE) -> dict[str, Any]:
    return {"size": tuple(rle["size"]), "counts": rle["counts"]}


def to_json(record: ImageRecord) -> str:
    """A record as one line of JSON, without a newline."""
    return json.dumps(asdict(record), ensure_ascii=False)


def from_json(line: str, where: str = "a record") -> ImageRecord:
    """Parses a line written by to_json.

    Args:
        where: start of error messages: the file and the line number.
    Raises:
        DatasetError: the line is incomplete or not a record.
    """
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where}: not a complete JSON object ({error}); make it again") from error
    return record_from_dict(content, where)


def record_from_dict(content: Any, where: str = "a record") -> ImageRecord:
    """The record of a dictionary, as made by `dataclasses.asdict` or read from the row of a table.

    Args:
        where: start of error messages.
    Raises:
        DatasetError: a key is missing, or a value has another type or is out of range.
    """
    values = _checked_values(ImageRecord, content, where)
    if not isinstance(values["segments"], list | tuple):
        raise DatasetError(f"{where}: segments is {type(values['segments']).__name__}, expected a list")
    height, width = values["height"], values["width"]
    segments = [
        _segment_from_dict(entry, height, width, f"{where}, segment {index}")
        for index, entry in enumerate(values["segments"])
    ]
    return ImageRecord(**{**values, "segments": tuple(segments)})


def _segment_from_dict(entry: Any, height: int, width: int, where: str) -> SegmentRecord:
    values = _checked_values(SegmentRecord, entry, where)
    issue = segmentation_issue(
        {"size": values["size"], "counts": values["counts"]}, height=height, width=width
    )
    if values["task"] not in TASKS or values["source"] not in SOURCES:
        issue = f"task {values['task']!r} of {values['source']!r}, expected {TASKS} of {SOURCES}"
    box = values["bbox"]
    if not isinstance(box, list | tuple) or [type(side) for side in box] != [float] * 4:
        issue = f"bbox {box!r}, expected four numbers"
    if issue:
        raise DatasetError(f"{where}: {issue}; make it again")
    return SegmentRecord(**{**values, "bbox": tuple(box), "size": tuple(values["size"])})


_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "bool": (bool,),
    "str": (str,),
    "float": (float, int),
}


def _checked_values(cls: type, content: Any, where: str) -> dict[str, Any]:
    """The values of a dataclass's fields; checks the type of those in _TYPES."""
    if not isinstance(content, Mapping):
        raise DatasetError(f"{where}: {type(content).__name__}, expected an object; make it again")
    values = {}
    for field in fields(cls):
        if field.name not in content:
            raise DatasetError(f"{where}: there is no {field.name!r}; make it again")
        value, allowed = content[field.name], _TYPES.get(str(field.type))
        if allowed and (not isinstance(value, allowed) or (bool not in allowed and isinstance(value, bool))):
            raise DatasetError(
                f"{where}: {field.name} is {value!r}, expected a value of type {field.type}; make it again"
            )
        values[field.name] = value
    return values
