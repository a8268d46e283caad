# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""COCO, LVIS and COCO panoptic JSON files: reading with validation, and building entries to write."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cmpf.common.files import read_text, write_text
from cmpf.errors import DatasetError
from cmpf.formats.label_map import VOID_ID
from cmpf.formats.masks import Mask, encode_mask, mask_box

Entry: TypeAlias = dict[str, Any]
MAX_BYTES = 2**34  # COCO's largest file has half a gigabyte
LISTS = ("images", "annotations", "categories")  # lists of a ground-truth file
TEST_LISTS = ("images", "categories")  # lists of a file for a test split
# Keys of an LVIS image: classes known to be absent, and classes whose objects are not all annotated.
NEGATIVE = "neg_category_ids"
LVIS_LISTS = (NEGATIVE, "not_exhaustive_category_ids")
LVIS_FREQUENCIES = ("r", "c", "f")  # rare, common and frequent classes
MAX_SIDE = 65_535  # pixels, the limit of JPEG; mask sizes in pycocotools overflow at 2^32 pixels
# Kind of file -> the annotation key that only this kind has.
_DISTINCTIVE_KEYS = {
    "panoptic": "segments_info",
    "keypoints": "keypoints",
    "captions": "caption",
    "instances": "segmentation",
}


def read_json(path: str | Path) -> Any:
    """Parses a JSON file.

    Raises:
        DatasetError: the file cannot be read or is truncated.
    """
    try:
        return json.loads(read_text(path, limit=MAX_BYTES))
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror}); create or download it again"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"{path}: not a complete JSON file ({error}); create or download it again"
        ) from error


def read_coco(path: str | Path, lists: Sequence[str] = LISTS) -> dict[str, Any]:
    """Reads a COCO JSON file and validates the entries of its `lists` with check_values.

    Raises:
        DatasetError: the file cannot be read, is truncated, lacks one of the lists, or has an invalid value.
    """
    content = read_json(path)
    missing = missing_list(content, lists)
    if missing is not None:
        raise DatasetError(f"{path}: no COCO file, it has no list {missing!r}")
    with coco_form(path):
        for entry in (entry for key in lists for entry in content[key] if isinstance(entry, dict)):
            check_values(entry)
            for segment in entry.get("segments_info", ()):
                check_values(segment)
    return dict(content)


def missing_list(content: Any, lists: Sequence[str] = LISTS) -> str | None:
    """The first of `lists` that a parsed JSON file lacks; None if it has all of them."""
    for key in lists:
        if not isinstance(content, Mapping) or not isinstance(content.get(key), list):
            return key
    return None


def kind_issue(content: Any, wanted: str, *, may_be_empty: bool = False) -> str:
    """Says why a parsed JSON file is not COCO ground truth of the wanted kind; "" if it is.

    Args:
        wanted: "panoptic", "instances" (COCO or LVIS), or "test images", which have no annotations.
        may_be_empty: also accept an empty list of annotations.
    """
    if wanted == "test images":
        missing = missing_list(content, TEST_LISTS)
        return "" if missing is None else f"holds no list of test images: it has no list {missing!r}"
    missing = missing_list(content)
    if isinstance(content, list):
        found = "a list, as results of a model do"
    elif missing is not None:
        found = f"no COCO ground truth: it has no list {missing!r}"
    elif not content["annotations"]:
        if may_be_empty:
            return ""
        found = "no annotations"
    else:
        first = content["annotations"][0]
        kinds = [kind for kind, key in _DISTINCTIVE_KEYS.items() if isinstance(first, dict) and key in first]
        if wanted in kinds:
            return ""
        found = f"COCO {kinds[0]}" if kinds else "annotations of no kind that is known"
    return f"holds {found}; expected COCO {wanted}, with annotations that have {_DISTINCTIVE_KEYS[wanted]!r}"


@contextmanager
def coco_form(where: object) -> Iterator[None]:
    """Turns a missing key or a value of the wrong type in the block into a DatasetError that starts with `where`.

    Raises:
        DatasetError: the block raised KeyError, TypeError or AttributeError.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        issue = entry_issue(error, "an entry ")
        raise DatasetError(f"{where}: not in COCO format: {issue}; make it again") from error


def entry_issue(error: Exception, subject: str = "") -> str:
    """Describes the error that reading an entry raised; `subject` names what lacks a key."""
    return f"{subject}has no {error}" if isinstance(error, KeyError) else str(error)


def check_values(entry: Mapping[str, Any]) -> None:
    """Validates the numbers and file names that an entry has; missing keys are not checked.

    Raises:
        TypeError: names the first invalid value (`coco_form` turns it into a DatasetError), or `entry` is no dict.
    """
    if not isinstance(entry, dict):
        raise TypeError(f"{str(entry)[:40]} is no JSON object")
    for key, value in entry.items():
        if key not in _RULES:
            continue
        is_valid, expected = _RULES[key]
        if not is_valid(value):
            owner = f" of id {str(entry['id'])[:40]}" if key != "id" and "id" in entry else ""
            raise TypeError(f"{key} {str(value)[:40]}{owner} is not {expected}")


def _is_id(value: object) -> bool:
    return type(value) in (int, str)


def _is_flag(value: object) -> bool:
    return type(value) in (int, bool) and value in (0, 1)


def _is_non_negative(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf  # type: ignore[operator]


def _is_area(value: object) -> bool:
    return _is_non_negative(value) and value <= MAX_SIDE**2  # type: ignore[operator]


def _is_finite(value: object) -> bool:
    return type(value) in (int, float) and -math.inf < value < math.inf  # type: ignore[operator]


def _is_box(value: object) -> bool:
    if not isinstance(value, list | tuple) or len(value) != len("xywh"):
        return False
    x, y, width, height = value
    return _is_finite(x) and _is_finite(y) and _is_non_negative(width) and _is_non_negative(height)


def _is_side(value: object) -> bool:
    return type(value) in (int, float) and 1 <= value <= MAX_SIDE and value == int(value)  # type: ignore[operator, call-overload]


# Key -> (predicate on the value, what the error message says is expected).
_RULES: dict[str, tuple[Callable[[object], bool], str]] = {
    "id": (_is_id, "a whole number"),
    "image_id": (_is_id, "a whole number"),
    "category_id": (lambda value: type(value) is int, "a whole number"),
    "file_name": (lambda value: type(value) is str, "text"),
    "iscrowd": (_is_flag, "0 or 1"),
    "area": (_is_area, f"a number from 0 to {MAX_SIDE**2:,}"),
    "bbox": (_is_box, "four numbers: x, y, width, height"),
    "height": (_is_side, f"a whole number from 1 to {MAX_SIDE:,}"),
    "width": (_is_side, f"a whole number from 1 to {MAX_SIDE:,}"),
}


def image_name(image: Mapping[str, Any]) -> str:
    """The image path in an entry of `images`: its `file_name`."""
    return str(image["file_name"])


def lvis_image_name(image: Mapping[str, Any]) -> str:
    """The image path of an LVIS entry: the end of `coco_url`, since LVIS splits mix COCO's train2017 and val2017."""
    return "/".join(image["coco_url"].split("/")[-2:]) if "coco_url" in image else image_name(image)


def write_json(path: str | Path, content: Any) -> Path:
    """Writes a JSON file atomically; returns the path."""
    write_text(path, json.dumps(content, ensure_ascii=False))
    return Path(path)


def category_entries(names: Iterable[str], things: Iterable[bool], *, first: int = 0) -> list[Entry]:
    """The `categories` list, with consecutive ids from `first`."""
    pairs = zip(names, things, strict=True)
    return [
        {"id": category_id, "name": name, "isthing": int(is_thing)}
        for category_id, (name, is_thing) in enumerate(pairs, start=first)
    ]


def segment_entry(mask: Mask, *, segment_id: int, category_id: int) -> Entry:
    """An entry of `segments_info` with the area and box of a non-empty mask (H, W)."""
    return {
        "id": segment_id,
        "category_id": category_id,
        "area": int(np.count_nonzero(mask)),
        "bbox": mask_box(mask),
        "iscrowd": 0,
    }


def segments_info(ids: NDArray[np.integer[Any]], category_of: Callable[[int], int]) -> list[Entry]:
    """The `segments_info` list of an image, in increasing order of segment ids.

    Args:
        ids: (H, W) segment ids; 0 is void.
        category_of: maps a segment id to its category id.
    """
    return [
        segment_entry(ids == segment_id, segment_id=segment_id, category_id=category_of(segment_id))
        for segment_id in np.unique(ids).tolist()
        if segment_id != VOID_ID
    ]


def instance_entry(mask: Mask, *, category_id: int) -> Entry:
    """An entry of `annotations` in an instances file, without `id` and `image_id`; the mask as compressed RLE.

    Args:
        mask: (H, W), not empty.
    """
    return {
        "category_id": category_id,
        "iscrowd": 0,
        "area": int(np.count_nonzero(mask)),
        "bbox": mask_box(mask),
        "segmentation": encode_mask(mask),
    }
