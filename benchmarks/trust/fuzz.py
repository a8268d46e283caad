# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Fuzzes the readers of files: valid files with random changes must be read or rejected with a CMPFError in time."""

from __future__ import annotations

import copy
import io
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks.trust.kills import ToyModel
from benchmarks.trust.trials import Trial, timed
from cmpf import weights
from cmpf.config import get_cfg
from cmpf.data.datasets.custom import read_dataset_file
from cmpf.data.datasets.readers import read_coco_instances, read_coco_panoptic
from cmpf.data.vocabulary import Vocabulary
from cmpf.evaluation.prediction_files.instances import score_instances
from cmpf.formats.image import read_image, read_image_size
from cmpf.formats.label_map import read_labels, read_panoptic_ids
from cmpf.formats.masks import encode_mask, to_rle

Random = np.random.Generator
UNUSUAL_VALUES = (
    None, True, -1, 0, 7.9, 1e300, -1e300, 10**400, math.nan, math.inf, "", "7", "\n", "x" * 5000, [], {}, [[]],
    {"id": 1},
    "../../etc/passwd", "2001-99-99", "\x00",
)  # fmt: skip


def mutated_bytes(content: bytes, random: Random) -> bytes:
    """Changes bytes at random, or removes, repeats or truncates a part."""
    data = bytearray(content)
    kind = int(random.integers(5))
    if kind == 0:
        return bytes(data[: int(random.integers(len(data) + 1))])
    if kind == 1:
        a, b = sorted(int(v) for v in random.integers(0, len(data) + 1, 2))
        return bytes(data[:a] + data[b:])
    if kind == 2:
        a, b = sorted(int(v) for v in random.integers(0, len(data) + 1, 2))
        return bytes(data[:b] + data[a:])
    for _ in range(1 if kind == 3 else int(random.integers(1, 30))):
        position = int(random.integers(min(len(data), 200) if random.random() < 0.5 else len(data)))
        data[position] = int(random.integers(256))
    return bytes(data)


def mutated_tree(tree: Any, random: Random) -> Any:
    """Replaces a random value of a JSON tree by an unusual one, or removes or repeats it."""
    tree = copy.deepcopy(tree)
    node, path = tree, []
    while isinstance(node, dict | list) and node:
        key = (
            list(node)[int(random.integers(len(node)))]
            if isinstance(node, dict)
            else int(random.integers(len(node)))
        )
        path.append((node, key))
        node = node[key]
    node, key = path[int(random.integers(len(path)))]
    if random.random() < 0.2:
        del node[key]
    elif random.random() < 0.1 and isinstance(node, list):
        node.append(copy.deepcopy(node[key]))
    else:
        node[key] = UNUSUAL_VALUES[int(random.integers(len(UNUSUAL_VALUES)))]
    return tree


def fuzz(inputs: int, *, seed: int = 0) -> list[Trial]:
    """Runs a trial for each kind of file.

    Args:
        inputs: total number of inputs.
        seed: seed of the random changes.
    """
    with tempfile.TemporaryDirectory() as folder:
        makers = [
            _images,
            _label_maps,
            _configs,
            _dataset_files,
            _annotations,
            _results,
            _masks,
            _weights,
            _vocabularies,
        ]
        count = math.ceil(inputs / len(makers))
        trials = []
        for index, make in enumerate(makers):
            trial = Trial(f"fuzz: {make.__name__.strip('_').replace('_', ' ')}")
            random = np.random.default_rng([seed, index])
            attempt = make(Path(folder), random)
            with timed(trial):
                for number in range(count):
                    attempt(trial, f"{trial.name} {number}")
            trials.append(trial)
        return trials


Attempt = Callable[[Trial, str], None]


def _images(folder: Path, random: Random) -> Attempt:
    pixels = random.integers(0, 255, (40, 56, 3), np.uint8)
    files = []
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "ICO", "TGA", "EPS"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        files.append(buffer.getvalue())
    path = folder / "image.jpg"

    def attempt(trial: Trial, what: str) -> None:
        path.write_bytes(mutated_bytes(files[int(random.integers(len(files)))], random))
        image: Any = trial.attempt(what, lambda: read_image(path, max_pixels=10**7))
        if image is not None and (image.dtype != np.uint8 or image.ndim != 3):
            trial.findings.append(f"{what}: gives {image.dtype}")
        trial.attempt(what, lambda: read_image_size(path))

    return attempt


def _label_maps(folder: Path, random: Random) -> Attempt:
    files = []
    for image in (random.integers(0, 9, (30, 40), np.uint8), random.integers(0, 9, (30, 40, 3), np.uint8)):
        for kind in ("PNG", "TIFF"):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, kind)
            files.append(buffer.getvalue())
    path = folder / "labels.png"

    def attempt(trial: Trial, what: str) -> None:
        path.write_bytes(mutated_bytes(files[int(random.integers(len(files)))], random))
        trial.attempt(what, lambda: (read_labels if random.random() < 0.5 else read_panoptic_ids)(path))

    return attempt


def _configs(folder: Path, random: Random) -> Attempt:
    text = get_cfg("cmpf_tiny").dump().encode()
    path = folder / "config.yaml"

    def attempt(trial: Trial, what: str) -> None:
        # Only a part of the file, so that single mutations matter and files are read quickly.
        begin = text.index(b"\nSOLVER:") + 1
        path.write_bytes(mutated_bytes(text[begin : begin + 700], random))
        trial.attempt(what, lambda: get_cfg(path))

    return attempt


def _dataset_files(folder: Path, random: Random) -> Attempt:
    content = {
        "name": "mine", "task": "panoptic", "images": "images", "annotations": "a.json",
        "vocabulary": ["cat", "sky, heaven"], "things": ["cat"], "label_map": {7: 0, 8: 1}, "ignore_label": 255,
        "test_size": [64, 96],
    }  # fmt: skip
    path = folder / "mine.yaml"

    def attempt(trial: Trial, what: str) -> None:
        tree = mutated_tree(content, random) if random.random() < 0.6 else content
        text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in tree.items()).encode()
        path.write_bytes(text if tree is not content else mutated_bytes(text, random))
        trial.attempt(what, lambda: read_dataset_file(path))

    return attempt


def coco_trees(random: Random) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """COCO files of one image with one cat: instances, the same as panoptic annotations, and predictions."""
    mask = np.zeros((20, 30), np.bool_)
    mask[4:12, 5:20] = True
    box, area = [5, 4, 15, 8], 120
    images = [{"id": 1, "file_name": "a.png", "height": 20, "width": 30}]
    categories = [{"id": 3, "name": "cat", "isthing": 1}, {"id": 9, "name": "sky", "isthing": 0}]
    common = {"image_id": 1, "category_id": 3, "bbox": box}
    instance = {**common, "id": 1, "iscrowd": 0, "area": area, "segmentation": encode_mask(mask)}
    polygon = {**instance, "id": 2, "segmentation": [[5.0, 4.0, 20.0, 4.0, 20.0, 12.0]]}
    info = [{"id": 1, "category_id": 3, "iscrowd": 0, "area": area, "bbox": box}]
    panoptic = [{"image_id": 1, "file_name": "a.png", "segments_info": info}]
    results = [{**common, "score": 0.5, "segmentation": encode_mask(mask)}]
    head = {"images": images, "categories": categories}
    return {**head, "annotations": [instance, polygon]}, {**head, "annotations": panoptic}, results


def _annotations(folder: Path, random: Random) -> Attempt:
    instances, panoptic, _ = coco_trees(random)
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(folder / "a.png")
    path = folder / "coco.json"
    classes = {"class_of_id": {3: 0, 9: 1}, "vocabulary": Vocabulary(classes=[["cat"], ["sky"]])}

    def attempt(trial: Trial, what: str) -> None:
        kind = random.random() < 0.5
        path.write_text(json.dumps(mutated_tree(panoptic if kind else instances, random)), encoding="utf-8")
        arguments: Any = {"images": folder, "annotations": path, **classes}
        if kind:
            trial.attempt(what, lambda: read_coco_panoptic(**arguments, panoptic=folder))
        else:
            trial.attempt(what, lambda: read_coco_instances(**arguments))

    return attempt


def _results(folder: Path, random: Random) -> Attempt:
    """Prediction files; metrics outside of 0..100 are findings."""
    truth, _, results = coco_trees(random)
    gt_json, pred_json = folder / "gt.json", folder / "pred.json"

    def attempt(trial: Trial, what: str) -> None:
        wrong_truth = random.random() < 0.5
        gt_json.write_text(
            json.dumps(mutated_tree(truth, random) if wrong_truth else truth), encoding="utf-8"
        )
        pred_json.write_text(
            json.dumps(results if wrong_truth else mutated_tree(results, random)), encoding="utf-8"
        )
        scores: Any = trial.attempt(
            what, lambda: score_instances(gt_json=gt_json, pred_json=pred_json, iou_type="segm", lvis=False)
        )
        for value in () if scores is None else scores["segm"].values():
            if not math.isnan(value) and not 0 <= value <= 100:
                trial.findings.append(f"{what}: {value} percent")

    return attempt


def _masks(folder: Path, random: Random) -> Attempt:
    def attempt(trial: Trial, what: str) -> None:
        mask = random.random((12, 17)) < random.random()
        rle = encode_mask(mask)
        rle["counts"] = mutated_bytes(rle["counts"].encode(), random)
        valid = trial.attempt(what, lambda: to_rle(rle, height=12, width=17, where="x"))
        if valid is not None:
            from pycocotools import mask as coco_mask

            if not set(np.unique(coco_mask.decode(valid)).tolist()) <= {0, 1}:
                trial.findings.append(f"{what}: pixels other than 0 and 1")

    return attempt


def _weights(folder: Path, random: Random) -> Attempt:
    model = ToyModel(1.0)
    weights.save(model, folder / "w.safetensors", metadata={"config": "SEED: 1"})
    torch.save(model.state_dict(), folder / "w.pth")
    save_file(model.state_dict(), folder / "plain.safetensors")
    files = [(folder / name).read_bytes() for name in ("w.safetensors", "w.pth", "plain.safetensors")]

    def attempt(trial: Trial, what: str) -> None:
        place = int(random.integers(len(files)))
        path = folder / ("mutated.pth" if place == 1 else "mutated.safetensors")
        path.write_bytes(mutated_bytes(files[place], random))
        trial.attempt(what, lambda: weights.load(model, path))
        if not all(bool(value.isfinite().all()) for value in model.state_dict().values()):
            trial.findings.append(f"{what}: weights that are not finite were accepted")
            model.load_state_dict(ToyModel(1.0).state_dict())

    return attempt


def _vocabularies(folder: Path, random: Random) -> Attempt:
    text = b"# isthing: 1 0 1\n1:cat,kitten\n2:sky\n3:dog, puppy\n"
    path = folder / "words.txt"

    def attempt(trial: Trial, what: str) -> None:
        path.write_bytes(mutated_bytes(text, random))
        trial.attempt(what, lambda: Vocabulary.from_file(path))

    return attempt
