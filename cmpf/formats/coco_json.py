# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""JSON files of COCO, LVIS and COCO panoptic: reading with checks of their form, and the entries of new ones."""

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
MAX_BYTES = 2**34  # COCO's largest has half a gigabyte
LISTS = ("images", "annotations", "categories")  # what a file of ground truth has
TEST_LISTS = ("images", "categories")  # what a file of a test split has
# Of an image of LVIS: classes that are known to be absent, and those of which not all objects are marked.
LVIS_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")
LVIS_FREQUENCIES = ("r", "c", "f")  # rare, common and frequent classes
MAX_SIDE = 65_535  # pixels, as in a JPEG; pycocotools' masks wrap around at 2^32 pixels
# Kind -> the key of its annotations that the other kinds do not have.
_SIGNS = {
    "panoptic": "segments_info",
    "keypoints": "keypoints",
    "captions": "caption",
    "instances": "segmentation",
}


def read_json(path: str | Path) -> Any:
    """Content of a JSON file.

    Raises:
        DatasetError: the file cannot be read or is cut short.
    """
    try:
        return json.loads(read_text(path, limit=MAX_BYTES))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); make or fetch it again") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: no whole JSON file ({error}); make or fetch it again") from error


def read_coco(path: str | Path, lists: Sequence[str] = LISTS) -> dict[str, Any]:
    """A JSON object that has a list at each of `lists`; values in their entries are such that can be.

    Raises:
        DatasetError: the file cannot be read, is cut short, lacks a list, or has an impossible value (check_values).
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
    """The first of `lists` that the content of a JSON file does not have."""
    for key in lists:
        if not isinstance(content, Mapping) or not isinstance(content.get(key), list):
            return key
    return None


def kind_issue(content: Any, wanted: str, *, may_be_empty: bool = False) -> str:
    """Why the content of a JSON file is no COCO ground truth of a kind, or "".

    Args:
        wanted: "panoptic", "instances" (COCO's or LVIS's), or "test images", which have no annotations.
        may_be_empty: a list of annotations without any is right, too.
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
        kinds = [kind for kind, sign in _SIGNS.items() if isinstance(first, dict) and sign in first]
        if wanted in kinds:
            return ""
        found = f"COCO {kinds[0]}" if kinds else "annotations of no kind that is known"
    return f"holds {found}; expected COCO {wanted}, with annotations that have {_SIGNS[wanted]!r}"


@contextmanager
def coco_form(where: object) -> Iterator[None]:
    """Entries that lack a key, or hold what they should not, are an error that opens with `where`.

    Raises:
        DatasetError: the block met such an entry.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        issue = entry_issue(error, "an entry ")
        raise DatasetError(f"{where}: not in COCO's form: {issue}; make it again") from error


def entry_issue(error: Exception, subject: str = "") -> str:
    """What is wrong with an entry that raised an error when it was read; `subject` = what lacks a key."""
    return f"{subject}has no {error}" if isinstance(error, KeyError) else str(error)


def check_values(entry: Mapping[str, Any]) -> None:
    """Refuses numbers and file names of an entry that cannot be; what an entry lacks is not its matter.

    Raises:
        TypeError: names the first of them, for `coco_form`; or `entry` is no object at all.
    """
    if not isinstance(entry, dict):
        raise TypeError(f"{str(entry)[:40]} is no JSON object")
    for key, value in entry.items():
        if key in _RULES and not _RULES[key][0](value):
            owner = f" of id {str(entry['id'])[:40]}" if key != "id" and "id" in entry else ""
            raise TypeError(f"{key} {str(value)[:40]}{owner} is not {_RULES[key][1]}")


def _is_id(value: object) -> bool:
    return type(value) in (int, str)


def _is_flag(value: object) -> bool:
    return type(value) in (int, bool) and value in (0, 1)


def _is_amount(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf  # type: ignore[operator]


def _is_place(value: object) -> bool:
    return type(value) in (int, float) and -math.inf < value < math.inf  # type: ignore[operator]


def _is_box(value: object) -> bool:
    if not isinstance(value, list | tuple) or len(value) != len("xywh"):
        return False
    x, y, width, height = value
    return _is_place(x) and _is_place(y) and _is_amount(width) and _is_amount(height)


def _is_side(value: object) -> bool:
    return type(value) in (int, float) and 1 <= value <= MAX_SIDE and value == int(value)  # type: ignore[operator, call-overload]


# Key -> what its values may be; what to call that.
_RULES: dict[str, tuple[Callable[[object], bool], str]] = {
    "id": (_is_id, "a whole number"),
    "image_id": (_is_id, "a whole number"),
    "category_id": (lambda value: type(value) is int, "a whole number"),
    "file_name": (lambda value: type(value) is str, "text"),
    "iscrowd": (_is_flag, "0 or 1"),
    "area": (_is_amount, "a number of 0 or more"),
    "bbox": (_is_box, "four numbers: x, y, width, height"),
    "height": (_is_side, f"a whole number from 1 to {MAX_SIDE:,}"),
    "width": (_is_side, f"a whole number from 1 to {MAX_SIDE:,}"),
}


def image_name(image: Mapping[str, Any]) -> str:
    """The path that an entry of `images` names; its `file_name`."""
    return str(image["file_name"])


def lvis_image_name(image: Mapping[str, Any]) -> str:
    """LVIS names images by the last two parts of `coco_url`: those of its splits lie in both of COCO's folders."""
    return "/".join(image["coco_url"].split("/")[-2:]) if "coco_url" in image else image_name(image)


def write_json(path: str | Path, content: Any) -> Path:
    """Replaces a JSON file, whole; returns the path."""
    write_text(path, json.dumps(content, ensure_ascii=False))
    return Path(path)


def category_entries(names: Iterable[str], things: Iterable[bool], *, first: int = 0) -> list[Entry]:
    """The list `categories`: ids count from `first`."""
    pairs = zip(names, things, strict=True)
    return [{"id": i, "name": n, "isthing": int(t)} for i, (n, t) in enumerate(pairs, start=first)]


def segment_entry(mask: Mask, *, segment_id: int, category_id: int) -> Entry:
    """An entry of `segments_info`, with area and box of its mask (H, W), which has at least one pixel."""
    return {
        "id": segment_id,
        "category_id": category_id,
        "area": int(np.count_nonzero(mask)),
        "bbox": mask_box(mask),
        "iscrowd": 0,
    }


def segments_info(ids: NDArray[np.integer[Any]], category_of: Callable[[int], int]) -> list[Entry]:
    """The list `segments_info` of an image, in the order of the ids.

    Args:
        ids: (H, W) segment ids; 0 is void.
        category_of: segment id -> category id.
    """
    return [
        segment_entry(ids == value, segment_id=value, category_id=category_of(value))
        for value in np.unique(ids).tolist()
        if value != VOID_ID
    ]


def instance_entry(mask: Mask, *, category_id: int, iscrowd: int = 0) -> Entry:
    """An entry of `annotations` of an instances file, but for `id` and `image_id`; the mask as packed run lengths.

    Args:
        mask: (H, W), at least one pixel.
    """
    return {
        "category_id": category_id,
        "iscrowd": iscrowd,
        "area": int(np.count_nonzero(mask)),
        "bbox": mask_box(mask),
        "segmentation": encode_mask(mask),
    }
