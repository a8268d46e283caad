# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Draws the fruit bowl data set of this folder, which GETTING_STARTED.md uses: python draw.py FOLDER"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from pycocotools import mask as coco_mask

SIZE, SCALE = 96, 4  # pixels; drawn four times as large
THINGS, STUFF = ("apple", "pear", "lemon", "plum"), ("table", "wall")
CLASSES = (*THINGS, *STUFF)
COLORS = {"apple": (196, 38, 40), "pear": (150, 176, 52), "lemon": (240, 206, 48), "plum": (88, 40, 108)}
TABLES = ((150, 104, 62), (176, 132, 84), (112, 78, 52), (188, 168, 140))
WALLS = ((206, 214, 220), (170, 192, 186), (222, 206, 184), (146, 160, 182))
IMAGES = {"train": 8, "val": 4}


@dataclass(frozen=True)
class Fruit:
    """One fruit: class, center, radius, all in drawn pixels."""

    name: str
    x: float
    y: float
    r: float


def outline(fruit: Fruit) -> Image.Image:
    """Its mask, as an image of one channel."""
    mask = Image.new("L", (SIZE * SCALE, SIZE * SCALE))
    draw = ImageDraw.Draw(mask)
    x, y, r = fruit.x, fruit.y, fruit.r
    wide = {"apple": 1.0, "pear": 0.92, "lemon": 1.12, "plum": 0.8}[fruit.name]
    draw.ellipse((x - wide * r, y - r * 0.92, x + wide * r, y + r * 0.92), fill=255)
    if fruit.name == "pear":
        draw.ellipse((x - 0.55 * r, y - 1.75 * r, x + 0.55 * r, y - 0.2 * r), fill=255)
        draw.polygon([(x - 0.9 * r, y - 0.1 * r), (x - 0.5 * r, y - 1.1 * r),
                      (x + 0.5 * r, y - 1.1 * r), (x + 0.9 * r, y - 0.1 * r)], fill=255)  # fmt: skip
    if fruit.name == "lemon":
        draw.ellipse((x + 0.9 * r, y - 0.25 * r, x + 1.35 * r, y + 0.25 * r), fill=255)
    return mask


def paint(image: Image.Image, fruit: Fruit, mask: Image.Image) -> None:
    """The fruit with a shadow below, darker at its rim, with a highlight and a stalk."""
    x, y, r = fruit.x, fruit.y, fruit.r
    shadow = Image.new("L", image.size)
    ImageDraw.Draw(shadow).ellipse((x - 1.1 * r, y + 0.6 * r, x + 1.3 * r, y + 1.15 * r), fill=110)
    image.paste((20, 16, 14), mask=shadow.filter(ImageFilter.GaussianBlur(6)))
    base = np.array(COLORS[fruit.name], dtype=np.float64)
    rows, columns = np.mgrid[: image.height, : image.width]
    light = np.hypot(columns - x + 0.4 * r, rows - y + 0.4 * r) / (1.6 * r)
    shaded = np.clip(base * (1.22 - 0.6 * np.clip(light, 0, 1.4))[..., None], 0, 255).astype(np.uint8)
    image.paste(Image.fromarray(shaded), mask=mask)
    draw = ImageDraw.Draw(image)
    glow = (x - 0.5 * r, y - 0.55 * r, x - 0.22 * r, y - 0.33 * r)
    draw.ellipse(glow, fill=tuple(int(0.45 * c + 0.55 * 255) for c in COLORS[fruit.name]))
    if fruit.name in ("apple", "pear"):
        top = y - (1.7 if fruit.name == "pear" else 0.85) * r
        draw.line((x, top + 0.1 * r, x + 0.12 * r, top - 0.25 * r), fill=(74, 50, 30), width=6)


def scene(rng: np.random.Generator) -> tuple[Image.Image, np.ndarray, list[str]]:
    """An image, segment numbers (H, W) from 0, and the class of each segment."""
    side = SIZE * SCALE
    edge = int(side * rng.uniform(0.34, 0.5))
    table, wall = TABLES[rng.integers(4)], WALLS[rng.integers(4)]
    image = Image.new("RGB", (side, side), wall)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, edge, side, side), fill=table)
    for y in range(edge + 18, side, 46):  # boards
        draw.line(
            (0, y, side, y + int(rng.integers(-6, 7))), fill=tuple(int(0.8 * c) for c in table), width=3
        )
    numbers = np.ones((side, side), dtype=np.int64)  # the wall
    numbers[edge:] = 0
    names = ["table", "wall"]
    kinds = rng.permutation(THINGS)[: rng.integers(2, 5)].tolist() + [str(rng.choice(THINGS))]
    columns = (rng.permutation(len(kinds)) + rng.uniform(0.25, 0.75, len(kinds))) / len(kinds)
    for name, column in zip(kinds, columns, strict=True):
        r = side * rng.uniform(0.09, 0.13)
        fruit = Fruit(name, side * (0.08 + 0.84 * column), rng.uniform(edge + 0.7 * r, side - 1.2 * r), r)
        mask = outline(fruit)
        paint(image, fruit, mask)
        numbers[np.asarray(mask) > 127] = len(names)
        names.append(name)
    small = image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    noisy = np.asarray(small).astype(np.float64) + rng.normal(0, 3, (SIZE, SIZE, 1))
    half = SCALE // 2
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)), numbers[half::SCALE, half::SCALE], names


def write_split(folder: Path, split: str, rng: np.random.Generator) -> None:
    """Images, panoptic PNGs and JSON, label maps and instances JSON of one split."""
    for name in (f"images/{split}", f"panoptic_{split}", f"labels/{split}"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    images, panoptic, instances = [], [], []
    for image_id in range(1, IMAGES[split] + 1):
        image, numbers, names = scene(rng)
        stem = f"bowl_{image_id:02d}"
        image.save(folder / f"images/{split}/{stem}.jpg", quality=90)
        images.append({"id": image_id, "file_name": f"{stem}.jpg", "height": SIZE, "width": SIZE})
        ids, classes, segments = np.zeros((SIZE, SIZE), np.int64), np.zeros((SIZE, SIZE), np.uint8), []
        for number in np.unique(numbers).tolist():
            category = CLASSES.index(names[number])
            mask = numbers == number
            identity = int(rng.integers(1, 2**24))
            ids[mask], classes[mask] = identity, category
            box = coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)))
            common = {"category_id": category + 1, "iscrowd": 0, "area": int(mask.sum())}
            common["bbox"] = [int(side) for side in box]
            segments.append({"id": identity, **common})
            if names[number] in THINGS:
                packed = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
                mask_json = {"size": [SIZE, SIZE], "counts": packed["counts"].decode()}
                instance = {"id": len(instances) + 1, "image_id": image_id, "segmentation": mask_json}
                instances.append({**instance, **common})
        colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
        Image.fromarray(colors).save(folder / f"panoptic_{split}/{stem}.png", optimize=True)
        Image.fromarray(classes).save(folder / f"labels/{split}/{stem}.png", optimize=True)
        panoptic.append({"image_id": image_id, "file_name": f"{stem}.png", "segments_info": segments})
    everything = [
        {"id": i, "name": name, "isthing": int(name in THINGS)} for i, name in enumerate(CLASSES, 1)
    ]
    for kind, entries, categories in (
        ("panoptic", panoptic, everything),
        ("instances", instances, everything[: len(THINGS)]),
    ):
        content = {"images": images, "annotations": entries, "categories": categories}
        (folder / f"{kind}_{split}.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    generator = np.random.default_rng(7)
    for split_name in IMAGES:
        write_split(Path(sys.argv[1]), split_name, generator)
