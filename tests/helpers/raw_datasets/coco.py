# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""COCO 2017, COCO-Stuff 164k and LVIS v1 as they are released."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.raw_datasets.common import (
    HEIGHT,
    WIDTH,
    blocks,
    photo,
    polygon,
    released,
    segment,
    uncompressed_rle,
    write_id_png,
    write_json,
    write_png,
)

NUMBERS = {"train": (9, 25, 30), "val": (139, 285, 632)}  # image ids
CATEGORY_IDS = [
    *sorted(set(range(1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}),
    *(
        92,
        93,
        95,
        100,
        107,
        109,
        112,
        118,
        119,
        122,
        125,
        128,
        130,
        133,
        138,
        141,
        144,
        145,
        147,
        148,
        149,
        151,
    ),
    *(154, 155, 156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181, *range(184, 201)),
]
LVIS_PLACES = {
    "train": (("train2017", 25), ("train2017", 30)),
    "val": (("val2017", 139), ("val2017", 285), ("train2017", 9)),
}
THINGS = 80
# Segments of every image: category id, segment id, crowd; 0 = void. Two persons, one crowd of cars.
SEGMENTS = (
    (1, 3226956, 0),
    (1, 6979964, 0),
    (3, 2236962, 1),
    (187, 9079434, 0),
    (0, 0, 0),
    (200, 16711935, 0),
)
LVIS_TEST = {"dev": (16, 19), "challenge": (63, 69)}  # images of test2017
STUFF_VALUES = (0, 2, 181, 91, 255, 12)  # person, car, wood, banner, unlabeled, stop sign: id less one


def name(number: int) -> str:
    """COCO's file name, without ending."""
    return f"{number:012d}"


def make_coco(root: Path) -> None:
    """Images, panoptic and instance annotations of both splits."""
    for split, numbers in NUMBERS.items():
        _make_split(root / "coco", f"{split}2017", numbers)


def make_coco_stuff(root: Path) -> None:
    """stuffthingmaps of the images of make_coco."""
    for split, numbers in NUMBERS.items():
        for turn, number in enumerate(numbers):
            values = [*STUFF_VALUES[turn:], *STUFF_VALUES[:turn]]
            write_png(
                root / "coco" / "stuffthingmaps" / f"{split}2017" / f"{name(number)}.png", blocks(values)
            )


def make_lvis(root: Path) -> None:
    """lvis_v1_{train,val}.json of images of make_coco; those of val lie in both folders, as in the release."""
    for split, places in LVIS_PLACES.items():
        masks = blocks([1, 2, 3, 4, 5, 6])
        annotations = [
            {"image_id": number, "category_id": category, "segmentation": polygon(masks == block)}
            | {key: segment(masks, block, 0)[key] for key in ("bbox", "area")}
            for _, number in places
            for block, category in ((1, 793), (2, 207), (3, 1))
        ]
        content = {
            "info": {"version": "1.0"},
            "licenses": [],
            "images": [_lvis_image(folder, number) for folder, number in places],
            "annotations": [{"id": index, **a} for index, a in enumerate(annotations, start=1)],
            "categories": [_lvis_category(i, n) for i, n in enumerate(released("lvis"), start=1)],
        }
        write_json(root / "lvis" / f"lvis_v1_{split}.json", content)


def make_lvis_test(root: Path) -> None:
    """The lists of LVIS' test images, and COCO's test images."""
    for part, numbers in LVIS_TEST.items():
        for number in numbers:
            photo(root / "coco" / "test2017" / f"{name(number)}.jpg", seed=number)
        content = {
            "info": {"version": "1.0"},
            "licenses": [],
            "images": [
                {key: value for key, value in _image("test2017", n).items() if key != "file_name"}
                for n in numbers
            ],
            "categories": [_lvis_category(i, n) for i, n in enumerate(released("lvis"), start=1)],
        }
        write_json(root / "lvis" / f"lvis_v1_image_info_test_{part}.json", content)


def _make_split(folder: Path, split: str, numbers: tuple[int, ...]) -> None:
    ids = blocks([identity for _, identity, _ in SEGMENTS])
    segments = [segment(ids, i, c, crowd) for c, i, crowd in SEGMENTS if i]
    for number in numbers:
        photo(folder / split / f"{name(number)}.jpg", seed=number)
        write_id_png(folder / f"panoptic_{split}" / f"{name(number)}.png", ids)
    images = [_image(split, number) for number in numbers]
    categories = _categories()
    panoptic = [{"segments_info": segments, "file_name": f"{name(n)}.png", "image_id": n} for n in numbers]
    write_json(
        folder / "annotations" / f"panoptic_{split}.json",
        {"info": {}, "licenses": [], "images": images, "annotations": panoptic, "categories": categories},
    )
    things = [s for s in segments if s["category_id"] <= 90]
    instances = [
        {"image_id": number, "id": 100 * number + index, **_mask(ids == s["id"], s)}
        for number in numbers
        for index, s in enumerate(things)
    ]
    write_json(
        folder / "annotations" / f"instances_{split}.json",
        {
            "info": {},
            "licenses": [],
            "images": images,
            "annotations": instances,
            "categories": categories[:THINGS],
        },
    )


def _mask(mask: Any, entry: dict[str, Any]) -> dict[str, Any]:
    form = uncompressed_rle(mask) if entry["iscrowd"] else polygon(mask)
    return {**{key: entry[key] for key in ("category_id", "iscrowd", "bbox", "area")}, "segmentation": form}


def _image(split: str, number: int) -> dict[str, Any]:
    return {
        "license": 2,
        "file_name": f"{name(number)}.jpg",
        "coco_url": f"http://images.cocodataset.org/{split}/{name(number)}.jpg",
        "height": HEIGHT,
        "width": WIDTH,
        "date_captured": "2013-11-21 01:34:01",
        "flickr_url": "",
        "id": number,
    }


def _categories() -> list[dict[str, Any]]:
    words = released("coco_panoptic")
    return [
        {"supercategory": "", "isthing": int(index < THINGS), "id": identity, "name": word}
        for index, (identity, word) in enumerate(zip(CATEGORY_IDS, words, strict=True))
    ]


def _lvis_image(folder: str, number: int) -> dict[str, Any]:
    image = {key: value for key, value in _image(folder, number).items() if key != "file_name"}
    return {**image, "neg_category_ids": [4, 5], "not_exhaustive_category_ids": [1]}


def _lvis_category(identity: int, word: str) -> dict[str, Any]:
    return {
        "id": identity,
        "name": word,
        "synset": f"{word}.n.01",
        "synonyms": [word],
        "def": "",
        "frequency": released("lvis_frequencies")[identity - 1],
        "image_count": 20,
        "instance_count": 30,
    }
