# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Images so large that masks are not held at their size."""

from __future__ import annotations

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
from cmpf.inference.mask_sequence import MaskSequence, mask_sequence


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
    sequence = mask_sequence(masks, queries, masks_to_boxes(torch.from_numpy(array)))
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


# In a process of its own, whose peak nothing else has raised.
MEASURED = """
import resource, sys
import numpy as np
import torch
from PIL import Image
import cmpf
from cmpf.shapeworld.scene import generate_scene

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

words = "red circle; blue square; green triangle; yellow star; sky; grass"
folder, height, width, task, formats = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
tasks = ["panoptic", "instance"] if task == "some" else "all"
seg = cmpf.load("cmpf_tiny", device="cpu")
seg.predict(np.full((480, 640, 3), 90, np.uint8), words, task=tasks)
before = peak()
scene = generate_scene(20, size=512, seen_only=False).image
scene = np.tile(scene, (-(-height // 512), -(-width // 512), 1))[:height, :width]
Image.fromarray(scene).save(f"{folder}/large.jpg", quality=85)
del scene
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew: that of the picture itself does not count
found = seg.predict(f"{folder}/large.jpg", words, task=tasks)
found.save(f"{folder}/out", formats.split())
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) * 1024, before, torch.version.cuda is None)
"""
MEASURABLE = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak"
)


def measured(folder: Path, *arguments: object) -> tuple[int, int, bool]:
    """Bytes at the peak, those of the loaded model, and whether this PyTorch is small, without CUDA."""
    command = [sys.executable, "-c", MEASURED, str(folder), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, model, small = done.stdout.split()
    return int(peak), int(model), small == "True"


@MEASURABLE
def test_an_image_of_24_megapixels_takes_less_than_1_2_gb_with_program_and_model(tmp_path: Path) -> None:
    peak, model, small = measured(tmp_path, 4000, 6000, "some", "overlay coco")
    assert peak < (1.2e9 if small else model + 0.3e9)


@pytest.mark.slow
@MEASURABLE
def test_an_image_of_81_megapixels_takes_less_than_2_gb_above_the_model(tmp_path: Path) -> None:
    """All results and files, with SAM's masks: it once took 19.8 GB."""
    formats = "overlay coco panoptic semantic instances"
    peak, model, _ = measured(tmp_path, 9000, 9000, "all", formats)
    assert peak - model < 2e9
