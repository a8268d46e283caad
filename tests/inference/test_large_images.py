# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Images so large that masks are not held at their size."""

from __future__ import annotations

import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import cmpf
from cmpf.common.regions import worth_showing
from cmpf.common.tensors import masks_to_boxes
from cmpf.inference import MaskRows, instance_inference, prediction
from cmpf.inference.mask_sequence import MaskSequence


def rows(queries: int, output: tuple[int, int]) -> MaskRows:
    logits = torch.randn(queries, 16, 24, generator=torch.Generator().manual_seed(0))
    return MaskRows(logits, padded=(64, 96), unpadded=(60, 90), output=output)


def test_masks_made_when_they_are_read_are_those_that_would_have_been_held() -> None:
    masks = rows(6, (123, 200))
    classes = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    held = instance_inference(classes, masks, topk=10)
    lazy = instance_inference(classes, masks, topk=10, held_pixels=1)
    assert held.lazy_masks is None
    assert (len(held.pred_masks), len(lazy.pred_masks)) == (10, 0)
    assert np.array_equal(np.asarray(lazy.lazy_masks), held.pred_masks.numpy())
    for name in ("pred_boxes", "scores", "pred_classes"):
        assert torch.equal(getattr(lazy, name), getattr(held, name))
    assert torch.equal(held.pred_boxes, masks_to_boxes(held.pred_masks))


def test_a_sequence_of_masks_reads_as_an_array() -> None:
    masks = rows(6, (123, 200))
    queries = torch.tensor([4, 1, 1, 5])
    array = (masks.rows(range(123), queries) > 0).numpy()
    sequence = MaskSequence(masks, queries, masks_to_boxes(torch.from_numpy(array)))
    assert np.array_equal(np.asarray(sequence), array)
    assert sequence.shape == array.shape == (4, 123, 200)
    assert np.array_equal(sequence[-1], array[3])
    assert all(np.array_equal(one, other) for one, other in zip(sequence, array, strict=True))
    for places in ([2, 0], slice(1, 3), np.array([True, False, False, True])):
        assert np.array_equal(np.asarray(sequence[places]), array[places])
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    assert worth_showing(sequence, scores, 0.3, 0.7) == worth_showing(array, scores, 0.3, 0.7) == [0, 1, 3]


def test_a_prediction_of_a_large_image_saves_what_one_of_a_small_image_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cmpf import predictor

    image = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    seg = cmpf.load("cmpf_tiny", device="cpu", overrides=["TEST.ENSEMBLE.ENABLED", False])
    held = seg.predict(image, ["red circle", "sky"], min_score=0, nms=1, multi_label=True)
    monkeypatch.setattr(predictor, "HELD_PIXELS", 1)
    lazy = seg.predict(image, ["red circle", "sky"], min_score=0, nms=1, multi_label=True)
    assert isinstance(held.instances.masks, np.ndarray)
    assert isinstance(lazy.instances.masks, MaskSequence)
    held.save(tmp_path / "held", ["coco", "instances", "panoptic"])
    lazy.save(tmp_path / "lazy", ["coco", "instances", "panoptic"])
    for path in sorted((tmp_path / "held").glob("*.json")) + sorted((tmp_path / "held").glob("*.png")):
        assert path.read_bytes() == (tmp_path / "lazy" / path.name).read_bytes()
    for task in ("panoptic", "semantic", "instance"):
        assert lazy.plot(task).tobytes() == held.plot(task).tobytes()
    above = lazy.above(0.5).instances
    assert len(above) == len(held.above(0.5).instances)


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_an_image_of_many_pixels_is_drawn_smaller(monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    image = np.random.default_rng(0).integers(0, 255, (700, 1001, 3), np.uint8)
    seg = cmpf.load("cmpf_tiny", device="cpu", overrides=["TEST.ENSEMBLE.ENABLED", False])
    found = replace(seg.predict(image, ["red circle", "sky"]), source="x")
    monkeypatch.setattr(prediction, "DRAWN_PIXELS", 200_000)  # 700,700 pixels: every second row and column
    assert found.plot(task).size == (640, 447) or found.plot(task).size == (501, 350)


# In a process of its own, whose peak nothing else has raised: an image of 81 megapixels, which once took 19.8 GB.
MEASURED = """
import resource, sys
import numpy as np
import cmpf
seg = cmpf.load("cmpf_tiny", device="cpu")
seg.predict(np.full((64, 96, 3), 90, np.uint8), ["red circle", "sky", "grass"])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
side = int(sys.argv[1])
rows = np.linspace(0, 255, side).astype(np.uint8)
image = np.broadcast_to(rows[:, None, None], (side, side, 3)).copy()
found = seg.predict(image, ["red circle", "sky", "grass"])
found.save(sys.argv[2], ["overlay", "coco", "panoptic", "semantic"], name="large")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20)
"""


@pytest.mark.skipif(not hasattr(resource, "RUSAGE_SELF"), reason="this system does not tell the peak")
def test_memory_follows_the_image_and_not_its_masks(tmp_path: Path) -> None:
    """At 6 megapixels: less than 0.5 GiB; a hundred held masks alone would be 0.6."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, "2500", str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 0.5  # GiB
