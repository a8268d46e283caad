# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""JSON files in COCO's form: which kind they are, and what their entries mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmpf.data.datasets.readers.coco_json import Categories
from cmpf.data.datasets.readers.issues import Issues
from cmpf.data.datasets.validate.findings import Findings, Mistake, named
from cmpf.data.vocabulary import Vocabulary

# Kind -> the key of its annotations that the other kinds do not have.
_SIGNS = {
    "panoptic": "segments_info",
    "keypoints": "keypoints",
    "captions": "caption",
    "instances": "segmentation",
}
LISTS = ("images", "annotations", "categories")


@dataclass(frozen=True)
class ListedImage:
    """An entry of `images`: its id, the path of the image, its (H, W), and the entry itself."""

    identity: int | str
    path: Path
    size: tuple[int, int]
    entry: Mapping[str, Any]


def read_coco(path: Path, wanted: str, findings: Findings) -> dict[str, Any] | None:
    """The content of a JSON file, with lists at LISTS; None and a finding if it is another kind of file.

    Args:
        wanted: "panoptic" or "instances".
    """
    if path.is_dir():
        findings.add(Mistake.JSON_KIND, path, f"is a folder; expected a COCO {wanted} JSON file")
        return None
    if not path.is_file():
        findings.add(Mistake.MISSING, path, "no such annotation file")
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        findings.add(Mistake.DAMAGED, path, f"no whole JSON file ({error})")
        return None
    found = _kind(content)
    if found == wanted:
        return dict(content)
    need = f"expected COCO {wanted}, with annotations that have {_SIGNS[wanted]!r}"
    findings.add(Mistake.JSON_KIND, path, f"holds {found}; {need}")
    return None


def _kind(content: Any) -> str:
    """ "panoptic" or "instances", or in words what it is instead."""
    if isinstance(content, list):
        return "a list, as results of a model do"
    missing = [
        key for key in LISTS if not isinstance(content, dict) or not isinstance(content.get(key), list)
    ]
    if missing:
        return f"no COCO ground truth: it has no list {missing[0]!r}"
    entries = content["annotations"]
    first = entries[0] if entries else {}
    kinds = [kind for kind, sign in _SIGNS.items() if isinstance(first, dict) and sign in first]
    if not entries:
        return "no annotations"
    if not kinds:
        return "annotations of no kind that is known"
    return kinds[0] if kinds[0] in ("panoptic", "instances") else f"COCO {kinds[0]}"


def listed_images(
    content: Mapping[str, Any],
    folder: Path,
    file_name: Callable[[Mapping[str, Any]], str],
    source: Path,
    findings: Findings,
) -> dict[int | str, ListedImage]:
    """The entries of `images` that are whole, by their id; findings for the others and for those given twice.

    Args:
        folder: of the images.
        file_name: entry -> path below the folder.
        source: the JSON file.
    """
    images: dict[int | str, ListedImage] = {}
    names: dict[Path, int | str] = {}
    for number, entry in enumerate(content["images"]):
        try:
            size = int(entry["height"]), int(entry["width"])
            image = ListedImage(entry["id"], folder / file_name(entry), size, entry)
            known = image.identity in images
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            findings.add(Mistake.FORM, source, f"entry {number} of images: {issue_of(error)}")
            continue
        if known:
            earlier = images[image.identity].path.name
            message = f"image id {image.identity} is given twice: {earlier} and {image.path.name}"
            findings.add(Mistake.TWICE, source, message)
        elif image.path in names:
            both = f"{names[image.path]} and {image.identity}"
            findings.add(Mistake.TWICE, image.path, f"{source.name} lists it twice, as images {both}")
        else:
            images[image.identity] = image
            names[image.path] = image.identity
    return images


class CategoryCheck:
    """Looks up classes of category ids, and remembers those that have none."""

    def __init__(
        self, content: Mapping[str, Any], vocabulary: Vocabulary, label_map: Mapping[int, int] | None
    ) -> None:
        """See cmpf.data.datasets.readers.coco_json.Categories.

        Raises:
            KeyError, TypeError: an entry of `categories` lacks its id or name.
        """
        self._categories = Categories(content, vocabulary, label_map, Issues())
        self._names = {category["id"]: category["name"] for category in content["categories"]}
        self._unknown: dict[Any, list[str]] = {}

    def index(self, category_id: Any, user: str) -> int | None:
        """Class index, or None.

        Args:
            user: the file that has the category.
        """
        index = self._categories.index(category_id)
        if index is None:
            self._unknown.setdefault(category_id, []).append(user)
        return index

    def report(self, source: Path, findings: Findings) -> None:
        """One finding for each unknown category."""
        for identity, users in self._unknown.items():
            name = (
                repr(self._names[identity]) if identity in self._names else "which categories does not list"
            )
            times = "once" if len(users) == 1 else f"{len(users)} times"
            message = f"category id {identity}, {name}, is no class of the vocabulary; used {times}"
            findings.add(Mistake.CATEGORY, source, f"{message}, in {named(dict.fromkeys(users))}")


def category_check(
    content: Mapping[str, Any],
    vocabulary: Vocabulary,
    label_map: Mapping[int, int] | None,
    source: Path,
    findings: Findings,
) -> CategoryCheck | None:
    """A CategoryCheck; None and a finding if `categories` is not in COCO's form."""
    try:
        return CategoryCheck(content, vocabulary, label_map)
    except (KeyError, TypeError) as error:
        findings.add(Mistake.FORM, source, f"an entry of categories: {issue_of(error)}")
        return None


def issue_of(error: Exception) -> str:
    """What is wrong with an entry that raised an error when it was read."""
    return f"has no {error}" if isinstance(error, KeyError) else str(error)
