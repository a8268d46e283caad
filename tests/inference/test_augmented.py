# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Test-time augmentation of the real tiny model against a loop of a few lines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.tiny_model import random_image
from PIL import Image

import cmpf
from cmpf.config import get_cfg
from cmpf.data import get_vocabulary
from cmpf.data.datasets.catalog import locate_dataset
from cmpf.errors import ConfigError
from cmpf.factory.evaluation import build_views, inference_over
from cmpf.model import CMPF

SEMANTIC = ("MODEL.MASK_FORMER.TEST.PANOPTIC_ON", False, "MODEL.MASK_FORMER.TEST.INSTANCE_ON", False,
            "MODEL.MASK_FORMER.TEST.MASK_RECALL", False)  # fmt: skip
AUG = ("TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (64, 100), "TEST.AUG.MAX_SIZE", 120)
# Image (H, W) and the sizes of its views: shorter side 64 or 100, the longer one at most 120.
SIZES = {(48, 72): [(64, 96), (80, 120)], (90, 60): [(96, 64), (120, 80)]}


@pytest.fixture(scope="module")
def model() -> CMPF:
    scores = ("MODEL.MASK_FORMER.TEST.SEMANTIC_OUTPUT", "scores")
    return cmpf.load(
        "cmpf_tiny", device="cpu", overrides=[*SEMANTIC, *scores, "TEST.ENSEMBLE.ENABLED", False]
    ).model


def naive(model: CMPF, image: torch.Tensor, *, flips: tuple[bool, ...]) -> torch.Tensor:
    pixels = Image.fromarray(image.permute(1, 2, 0).numpy())
    found = []
    for height, width in SIZES[tuple(image.shape[-2:])]:
        for flip in flips:
            view = np.array(pixels.resize((width, height), Image.Resampling.BILINEAR))
            view = np.fliplr(view) if flip else view
            sample = {"image": torch.from_numpy(view.transpose(2, 0, 1).copy()), "height": 50, "width": 70}
            (result,) = model.infer([sample], get_vocabulary("shapes_val"))
            found.append(np.flip(result["sem_seg"].numpy(), axis=-1) if flip else result["sem_seg"].numpy())
    return torch.from_numpy(np.mean(found, axis=0))


@pytest.mark.parametrize("flip", [True, False])
def test_results_are_the_mean_of_a_naive_loop_over_sizes_and_mirror_images(model: CMPF, flip: bool) -> None:
    cfg = get_cfg("cmpf_tiny", [*SEMANTIC, *AUG, "TEST.AUG.FLIP", flip])
    look = inference_over(model, locate_dataset("shapes_val"), build_views(cfg))
    for size in SIZES:
        images = [random_image(*size, seed=seed) for seed in (0, 1)]
        results = look([{"image": image, "height": 50, "width": 70} for image in images])
        for image, result in zip(images, results, strict=True):
            expected = naive(model, image, flips=(False, True) if flip else (False,))
            torch.testing.assert_close(result["sem_seg"], expected, rtol=0, atol=1e-4)
            assert result.keys() == {"sem_seg"}


def test_without_it_an_image_is_looked_at_as_it_is(model: CMPF) -> None:
    assert build_views(get_cfg("cmpf_tiny")) is None
    batch = [{"image": random_image(64, 96)}]
    words = locate_dataset("shapes_val")
    (result,) = inference_over(model, words, None)(batch)
    assert torch.equal(result["sem_seg"], model.infer(batch, words.vocabulary)[0]["sem_seg"])


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), r"set MODEL\.MASK_FORMER\.TEST\.PANOPTIC_ON False, .*INSTANCE_ON False, .*MASK_RECALL False"),
        ((*SEMANTIC, "MODEL.MASK_FORMER.TEST.INSTANCE_ON", True), r"averaged; set \S*INSTANCE_ON False$"),
        (
            (*SEMANTIC, "TEST.ENSEMBLE.SOURCE", "cache", "TEST.ENSEMBLE.CACHE_DIR", "x"),
            r"set TEST\.ENSEMBLE\.SOURCE onl",
        ),
    ],
)
def test_what_cannot_be_averaged_is_refused_by_name(overrides: tuple[object, ...], expected: str) -> None:
    with pytest.raises(ConfigError, match=rf"TEST\.AUG\.ENABLED.*{expected}"):
        get_cfg("cmpf_tiny", [*overrides, *AUG])
