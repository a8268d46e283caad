# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Every dataset of the table as people have it after preparation: real folders, file names, ids and bit depths.

Each image has a void strip of two rows, and below it two classes, left and right.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from helpers.evaluation_data import write_ids
from PIL import Image
from pycocotools import mask as coco_mask

SIZE = (12, 16)
Classes = tuple[tuple[int, int], tuple[int, int]]  # (id in the files, class index) of left and right
SPLITS = {"train": "training", "val": "validation"}


def _halves(size: tuple[int, int], left: int, right: int, void: int) -> np.ndarray:
    labels = np.full(size, right, dtype=np.int64)
    labels[:, : size[1] // 2] = left
    labels[:2] = void
    return labels


def _write_image(path: Path, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def _write_labels(path: Path, labels: np.ndarray, ignore: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels.astype(np.uint16 if ignore > 255 else np.uint8)).save(path)


@dataclass(frozen=True, kw_only=True)
class Names:
    """File names of one image, below the folder of the dataset."""

    image_id: int | str
    image: str
    listed: str  # in the JSON file
    png: str
    labels: str | None = None


def _write_panoptic(
    base: Path,
    images: Sequence[Names],
    *,
    size: tuple[int, int],
    annotations: str,
    pngs: str,
    classes: Classes,
    ignore: int = 255,
    instances: str | None = None,
    instance_ids: Callable[[int], Any] | None = None,
) -> None:
    """Writes one panoptic dataset; the left class is a thing.

    Args:
        instances: JSON file of things. instance_ids: place of an image -> its id there; None = the same id.
    """
    content: dict[str, Any] = {"images": [], "annotations": []}
    objects: dict[str, Any] = {"images": [], "annotations": []}
    (left, left_index), (right, right_index) = classes
    for place, names in enumerate(images):
        ids = _halves(size, 1001, 2002, 0)
        _write_image(base / names.image, size)
        (base / pngs / names.png).parent.mkdir(parents=True, exist_ok=True)
        write_ids(base / pngs / names.png, ids)
        if names.labels:
            _write_labels(base / names.labels, _halves(size, left_index, right_index, ignore), ignore)
        image = {"file_name": names.listed, "height": size[0], "width": size[1]}
        segments = [
            {"id": i, "category_id": c, "iscrowd": 0, "area": int((ids == i).sum())}
            for i, c in ((1001, left), (2002, right))
        ]
        content["images"].append({"id": names.image_id, **image})
        content["annotations"].append(
            {"image_id": names.image_id, "file_name": names.png, "segments_info": segments}
        )
        number = instance_ids(place) if instance_ids else names.image_id
        rle = coco_mask.encode(np.asfortranarray((ids == 1001).astype(np.uint8)))
        shape = {"size": list(size), "counts": rle["counts"].decode("ascii")}
        objects["images"].append({"id": number, **image})
        objects["annotations"].append(
            {"id": place + 1, "image_id": number, "category_id": left, "iscrowd": 0, "segmentation": shape}
        )
    categories = [{"id": left, "name": "left", "isthing": 1}, {"id": right, "name": "right", "isthing": 0}]
    _write_json(base / annotations, {**content, "categories": categories})
    if instances:
        _write_json(base / instances, {**objects, "categories": categories[:1]})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _coco(root: Path, split: str, size: tuple[int, int]) -> None:
    stems = [f"{number:012d}" for number in (139, 285)]
    _write_panoptic(
        root / "coco",
        [
            Names(
                image_id=int(s),
                image=f"{split}2017/{s}.jpg",
                listed=f"{s}.jpg",
                png=f"{s}.png",
                labels=f"panoptic_semseg_{split}2017/{s}.png",
            )
            for s in stems
        ],
        size=size,
        annotations=f"annotations/panoptic_{split}2017.json",
        pngs=f"panoptic_{split}2017",
        classes=((90, 79), (200, 132)),  # toothbrush, the last thing; rug-merged, the last stuff
        instances=f"annotations/instances_{split}2017.json",
    )
    for s in stems:
        labels = _halves(size, 0, 170, 255)
        _write_labels(root / "coco" / "stuffthingmaps_detectron2" / f"{split}2017" / f"{s}.png", labels, 255)


def _ade20k(root: Path, split: str, size: tuple[int, int]) -> None:
    stems = [f"ADE_{split}_0000000{number}" for number in (1, 2)]
    _write_panoptic(
        root / "ADEChallengeData2016",
        [
            Names(
                image_id=s,
                image=f"images/{SPLITS[split]}/{s}.jpg",
                listed=f"{s}.jpg",
                png=f"{s}.png",
                labels=f"annotations_detectron2/{SPLITS[split]}/{s}.png",
            )
            for s in stems
        ],
        size=size,
        annotations=f"ade20k_panoptic_{split}.json",
        pngs=f"ade20k_panoptic_{split}",
        classes=((7, 7), (149, 149)),
        instances=f"ade20k_instance_{split}.json",
        instance_ids=lambda place: place + 1,
    )


def _cityscapes(root: Path, split: str, size: tuple[int, int]) -> None:
    stems = ["bonn_000000_000019", "lindau_000001_000019"]
    _write_panoptic(
        root / "cityscapes",
        [
            Names(
                image_id=s,
                image=f"leftImg8bit/{split}/{s.split('_')[0]}/{s}_leftImg8bit.png",
                listed=f"{s}_gtFine_leftImg8bit.png",
                png=f"{s}_gtFine_panoptic.png",
                labels=f"gtFine/{split}/{s.split('_')[0]}/{s}_gtFine_labelTrainIds.png",
            )
            for s in stems
        ],
        size=size,
        annotations=f"gtFine/cityscapes_panoptic_{split}.json",
        pngs=f"gtFine/cityscapes_panoptic_{split}",
        classes=((26, 13), (11, 2)),  # label ids of car and building -> train ids
    )


def _mapillary(root: Path, split: str, size: tuple[int, int]) -> None:
    stems = ["-0ZbZvyr", "zzDq9Xc"]
    _write_panoptic(
        root / "mapillary_vistas",
        [
            Names(
                image_id=s,
                image=f"{SPLITS[split]}/images/{s}.jpg",
                listed=f"{s}.jpg",
                png=f"{s}.png",
                labels=f"{SPLITS[split]}/labels/{s}.png",
            )
            for s in stems
        ],
        size=size,
        annotations=f"{SPLITS[split]}/panoptic/panoptic_2018.json",
        pngs=f"{SPLITS[split]}/panoptic",
        classes=((1, 0), (65, 64)),
        ignore=65,
    )


def _bdd(root: Path, size: tuple[int, int]) -> None:
    stems = ["7d06fefd-f7be05a6", "7d15b18b-1e0d6e3f"]
    _write_panoptic(
        root / "bdd100k",
        [
            Names(image_id=s, image=f"images/10k/val/{s}.jpg", listed=f"{s}.jpg", png=f"{s}.png")
            for s in stems
        ],
        size=size,
        annotations="jsons/pan_seg_val_cocofmt.json",
        pngs="jsons/pan_seg/masks/val",
        classes=((35, 34), (1, 0)),
    )
    for s in stems:
        labels = _halves(size, 13, 18, 255)
        _write_labels(root / "bdd100k" / "labels" / "sem_seg" / "masks" / "val" / f"{s}.png", labels, 255)


def _write_semantic(
    base: Path, images: str, labels: str, *, size: tuple[int, int], last: int, ignore: int = 255
) -> None:
    for stem in ("2008_000002", "2008_000008"):
        _write_image(base / images / f"{stem}.jpg", size)
        ending = ".tif" if ignore > 255 else ".png"
        _write_labels(base / labels / f"{stem}{ending}", _halves(size, 0, last, ignore), ignore)


def _pascal_and_full(root: Path, split: str, size: tuple[int, int]) -> None:
    part = SPLITS[split]
    context, voc, full = root / "pascal_ctx_d2", root / "pascal_voc_d2", root / "ADE20K_2021_17_01"
    images = f"images/{part}"
    _write_semantic(context, images, f"annotations_ctx459/{part}", size=size, last=458, ignore=65535)
    _write_semantic(context, images, f"annotations_ctx59/{part}", size=size, last=58)
    _write_semantic(voc, images, f"annotations_pascal21/{part}", size=size, last=20)
    _write_semantic(voc, images, f"annotations_pascal20/{part}", size=size, last=19)
    own, labels = f"images_detectron2/{part}", f"annotations_detectron2/{part}"
    _write_semantic(full, own, labels, size=size, last=846, ignore=65535)


def _lvis(root: Path, split: str) -> None:
    """The first image lies in train2017, whatever the split."""
    base = root / "coco"
    images, objects = [], []
    for place, path in enumerate(
        (base / "train2017" / "000000000139.jpg", base / f"{split}2017" / "000000000285.jpg")
    ):
        width, height = Image.open(path).size
        images.append(
            {
                "id": int(path.stem),
                "coco_url": f"http://images.cocodataset.org/{path.parent.name}/{path.name}",
                "height": height,
                "width": width,
                "neg_category_ids": [1203],
                "not_exhaustive_category_ids": [1],
            }
        )
        square = [1.0, 1.0, 5.0, 1.0, 5.0, 5.0, 1.0, 5.0]
        objects.append(
            {
                "id": place + 1,
                "image_id": int(path.stem),
                "category_id": 1 + 1201 * place,
                "segmentation": [square],
                "bbox": [1.0, 1.0, 4.0, 4.0],
                "area": 16.0,
            }
        )
    categories = [{"id": i, "name": f"c{i}", "frequency": "rcf"[i % 3]} for i in range(1, 1204)]
    content = {"images": images, "annotations": objects, "categories": categories}
    _write_json(root / "lvis" / f"lvis_v1_{split}.json", content)


def _lvis_test(root: Path, part: str, number: int, size: tuple[int, int]) -> None:
    """Lists images alone; test-dev and test-challenge share COCO's folder of test images."""
    images = []
    for identity in (number, number + 1):
        path = root / "coco" / "test2017" / f"{identity:012d}.jpg"
        _write_image(path, size)
        url = f"http://images.cocodataset.org/test2017/{path.name}"
        images.append({"id": identity, "coco_url": url, "height": size[0], "width": size[1]})
    categories = [{"id": i, "name": f"c{i}"} for i in range(1, 1204)]
    content = {"info": {}, "licenses": [], "images": images, "categories": categories}
    _write_json(root / "lvis" / f"lvis_v1_image_info_test_{part}.json", content)


def write_prepared_trees(root: Path, *, size: tuple[int, int] = SIZE) -> Path:
    """Writes all datasets of the table but ShapeWorld below a root, two images each, and returns the root.

    Args:
        size: (H, W) of all images.
    """
    for split in SPLITS:
        for write in (_coco, _ade20k, _cityscapes, _mapillary, _pascal_and_full):
            write(root, split, size)
    _bdd(root, size)
    for split in SPLITS:
        _lvis(root, split)
    for part, number in (("dev", 16), ("challenge", 63)):
        _lvis_test(root, part, number, size)
    return root
