# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The evaluation that test_loop runs in one and in two processes; spawned processes import it by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch.distributed as dist
from helpers.cityscapes_truth import NAMES as STREET_NAMES
from helpers.cityscapes_truth import random_street
from helpers.evaluation_data import (
    panoptic_output,
    panoptic_sample,
    random_instances,
    random_panoptic,
    semantic_sample,
    shaken,
)
from pycocotools import mask as coco_mask

from cmpf.evaluation import (
    CityscapesEvaluator,
    Evaluator,
    InstanceEvaluator,
    LVISEvaluator,
    MaskRecallEvaluator,
    PanopticEvaluator,
    Results,
    SemanticEvaluator,
    evaluate,
)
from cmpf.types import ModelResult, Sample

Image = Callable[[Path, int], tuple[Sample, ModelResult]]
CLASSES = 4
NAMES = [f"class {i}" for i in range(CLASSES)]
SEEN = [True, False, True, False]


def random_image(folder: Path, number: int) -> tuple[Sample, ModelResult]:
    """Ground truth and prediction of an image, both determined by its number."""
    generator = np.random.default_rng(number)
    ids, infos = random_panoptic(generator, size=(32, 40), classes=CLASSES, crowds=True)
    guess, guess_infos = shaken(generator, ids, infos, classes=CLASSES)
    truth_labels = generator.integers(0, CLASSES, ids.shape).astype(np.uint8)
    masks = [ids == info["id"] for info in infos]
    instances = random_instances(generator, masks, [i["category_id"] for i in infos], classes=CLASSES)
    sample: Sample = {
        **semantic_sample(folder, truth_labels, image_id=number),
        **panoptic_sample(folder, ids, infos, image_id=number),
        "annotations": [
            {
                "category_id": info["category_id"],
                "iscrowd": info["iscrowd"],
                "segmentation": coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))),
            }
            for info, mask in zip(infos, masks, strict=True)
        ],
    }
    output: ModelResult = {
        **panoptic_output(guess, guess_infos),
        "sem_seg": instances.pred_classes.new_tensor(np.roll(truth_labels, 1, axis=0)),
        "instances": instances,
        "proposals": instances.pred_masks,
    }
    return sample, output


def lvis_image(folder: Path, number: int) -> tuple[Sample, ModelResult]:
    """As `image`, with what LVIS knows of an image."""
    sample, output = random_image(folder, number)
    present = {annotation["category_id"] for annotation in sample["annotations"]}
    negative = sorted(set(range(CLASSES)) - present)[:1]
    return {**sample, "neg_category_ids": negative, "not_exhaustive_category_ids": [number % CLASSES]}, output


def results_of(folder: Path, numbers: list[int]) -> dict[str, Results]:
    """All evaluators on the given images, in batches of two; those that report one task in runs of their own."""
    flags = {"class_names": NAMES, "seen": SEEN}
    usual = [
        PanopticEvaluator(is_thing=[True, True, True, False], **flags),
        SemanticEvaluator(ignore_label=255, **flags),
        InstanceEvaluator(**flags),
        MaskRecallEvaluator(ignore_label=255, **flags),
    ]
    results = {
        "usual": run(folder, numbers, random_image, usual),
        "lvis": run(folder, numbers, lvis_image, [LVISEvaluator(frequencies="rccf", **flags)]),
    }
    if find_spec("cityscapesscripts"):  # an extra
        judge = CityscapesEvaluator(class_names=STREET_NAMES)
        results["cityscapes"] = run(folder / "gtFine", numbers, random_street, [judge])
    return results


def run(folder: Path, numbers: list[int], make: Image, evaluators: Sequence[Evaluator]) -> Results:
    """Results of evaluators on the images of the given numbers."""
    pairs = {number: make(folder, number) for number in numbers}
    number_of = {pair[0]["image_id"]: number for number, pair in pairs.items()}
    ordered = [pairs[number][0] for number in numbers]
    return evaluate(
        lambda batch: [pairs[number_of[sample["image_id"]]][1] for sample in batch],
        [ordered[i : i + 2] for i in range(0, len(ordered), 2)],
        evaluators,
        progress=False,
    )


def one_process(rank: int, folder: Path, shares: list[list[int]]) -> None:
    """What a spawned process does: evaluates its share and writes down what it was told."""
    rendezvous = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=len(shares))
    own = folder / f"files{rank}"
    own.mkdir()
    (folder / f"results{rank}.txt").write_text(repr(results_of(own, shares[rank])))
    dist.destroy_process_group()
