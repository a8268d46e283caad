# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""LVIS v1: verifies the released JSON file; nothing has to be made.

Raw: lvis_v1_{train,val}.json of lvisdataset.org in lvis/, and COCO's images of 2017. An image of LVIS' validation
split may lie in COCO's train2017/ or val2017/; the end of its `coco_url` says in which.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preparation import Check, Issue, Preparation, Step, check_instances, read_json, run

from cmpf.errors import DatasetError

CATEGORIES = 1203
FREQUENCIES = ("r", "c", "f")
FIELDS = (
    "neg_category_ids",
    "not_exhaustive_category_ids",
)  # without them AP of a federated dataset is wrong


def raw(root: Path, split: str) -> list[Path]:
    """JSON file and images."""
    coco = root / "coco"
    return [root / "lvis" / f"lvis_v1_{split}.json", coco / "train2017", coco / "val2017"]


def plan(root: Path, split: str) -> list[Step]:
    """The release is used as it is."""
    return []


def checks(root: Path, split: str) -> list[Check]:
    """Fields that only LVIS has, then masks and images."""
    json = raw(root, split)[0]
    content = read_json(json, ("images", "annotations", "categories"))
    try:
        issues = [*_category_issues(content, json), *_image_issues(content, json)]
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{json}: not in LVIS' form ({error!r}); fetch it again") from error
    return [
        Check(title=f"categories of {split}", issues=issues),
        check_instances(
            title=f"instances of {split}",
            json=json,
            image_of=lambda image: root / "coco" / Path(*image["coco_url"].split("/")[-2:]),
            category_ids=range(1, CATEGORIES + 1),
        ),
    ]


def _category_issues(content: dict[str, Any], json: Path) -> list[Issue]:
    ids = sorted(category["id"] for category in content["categories"])
    issues = []
    if ids != list(range(1, CATEGORIES + 1)):
        found = f"{json}: {len(ids)} categories, ids {ids[:1]}..{ids[-1:]}; expected 1..{CATEGORIES}"
        issues.append(Issue("unknown categories", found))
    wrong = [c["id"] for c in content["categories"] if c.get("frequency") not in FREQUENCIES]
    return issues + [Issue("categories without frequency r, c or f", f"{json}: category {i}") for i in wrong]


def _image_issues(content: dict[str, Any], json: Path) -> list[Issue]:
    return [
        Issue(f"images without {field}", f"{json}: image {image['id']}")
        for image in content["images"]
        for field in FIELDS
        if not isinstance(image.get(field), list)
    ]


PREPARATION = Preparation(
    script="prepare_lvis.py",
    title="LVIS v1",
    description=__doc__,
    download="https://www.lvisdataset.org/dataset and https://cocodataset.org/#download",
    images={"train": 100_170, "val": 19_809},
    raw=raw,
    plan=plan,
    prepared=raw,
    checks=checks,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    return run(PREPARATION, argv)


if __name__ == "__main__":
    sys.exit(main())
