# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Resizing masks, whole and by tiles of rows, also of images that are too large to hold all masks."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import cmpf
from cmpf.common.regions import select_instances
from cmpf.common.tensors import masks_to_boxes
from cmpf.inference import MaskRows, instance_inference, prediction, resize, restore_size
from cmpf.inference.mask_sequence import MaskSequence, mask_sequence
from cmpf.inference.resize import argmax_channels, resize_rows, source_rows, work_in_tiles


def test_the_padding_is_cut_before_the_output_size_is_made():
    # Stride-4 masks of an 8 x 8 padded input, whose right half is padding with huge logits.
    masks = torch.tensor([[[[1.0, 99.0], [1.0, 99.0]]]])
    upsampled = F.interpolate(masks, size=(8, 8), mode="bilinear")[..., :6, :2]
    restored = restore_size(masks, padded=(8, 8), unpadded=(6, 2), output=(3, 1))
    torch.testing.assert_close(restored, F.interpolate(upsampled, size=(3, 1), mode="bilinear"))
    assert restored.flatten().tolist() == pytest.approx([1.0] * 3)


def test_masks_of_the_right_size_stay_as_they_are():
    masks = torch.randn(2, 3, 4, 5)
    assert torch.equal(restore_size(masks, padded=(4, 5), unpadded=(4, 5), output=(4, 5)), masks)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((8, 10), (32, 40)),
        ((31, 17), (9, 23)),
        ((5, 5), (5, 9)),
        ((1, 1), (7, 7)),
        ((100, 3), (1, 3)),
        ((77, 4), (76, 4)),
    ],
)
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_tiles_put_together_are_the_whole_resize(source, target, step):
    maps = torch.randn(3, *source, generator=torch.Generator().manual_seed(0))
    tiles = []
    for first in range(0, target[0], step):
        rows = range(first, min(first + step, target[0]))
        tile = source_rows(rows, source=source[0], target=target[0])
        assert 0 <= tile.start < tile.stop <= source[0]
        part = maps[:, tile.start : tile.stop]
        tiles.append(resize_rows(part, rows, tile=tile, source=source[0], target=target))
    wanted = F.interpolate(maps[None], size=target, mode="bilinear")[0]
    # torch finds positions in float32: at row 76 they are off by up to 1e-5 rows.
    torch.testing.assert_close(torch.cat(tiles, dim=1), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("sizes", [(192, 480), (48, 192), (5, 33), (1, 7), (300, 301), (64, 427)])
@pytest.mark.parametrize("first", [0, 3])
def test_rows_that_lie_alike_are_made_together_as_each_is_by_itself(sizes, first):
    source, target = sizes
    maps = torch.randn(2, source, 6, generator=torch.Generator().manual_seed(1))
    rows = range(first, target)
    tile = source_rows(rows, source=source, target=target)
    with torch.no_grad():
        made = resize_rows(
            maps[:, tile.start : tile.stop], rows, tile=tile, source=source, target=(target, 6)
        )
    for row in rows:
        position = max(0.0, (row + 0.5) * (source / target) - 0.5)
        above, below = int(position), min(int(position) + 1, source - 1)
        wanted = torch.lerp(maps[:, above], maps[:, below], position - int(position))
        torch.testing.assert_close(made[:, row - first], wanted, atol=1e-6, rtol=0)


def test_a_tile_needs_little_more_than_its_share_of_rows():
    assert source_rows(range(400, 440), source=256, target=1024) == range(99, 111)  # 40 / 4 + 2


@pytest.mark.parametrize("output", [(120, 150), (50, 61), (200, 301), (1, 1)])
def test_rows_of_some_masks_are_those_of_all_masks_restored(output):
    masks = torch.randn(6, 32, 40, generator=torch.Generator().manual_seed(0))
    sizes = {"padded": (128, 160), "unpadded": (120, 150), "output": output}
    wanted = restore_size(masks[None], **sizes)[0]
    tiles, chosen = MaskRows(masks, **sizes), torch.tensor([4, 0, 4])
    assert tiles.shape == (6, *output)
    for first in range(0, output[0], 17):
        rows = range(first, min(first + 17, output[0]))
        got = tiles.chosen(chosen).rows(rows)
        torch.testing.assert_close(got, wanted[chosen, rows.start : rows.stop], atol=1e-4, rtol=0)


def test_masks_of_the_output_size_are_read_as_they_are():
    masks = torch.randn(3, 5, 7)
    tiles = MaskRows.of(masks)
    assert MaskRows.of(tiles) is tiles
    assert torch.equal(tiles.chosen(torch.tensor([2, 1])).rows(range(1, 4)), masks[[2, 1], 1:4])
    assert tiles.floats_per_row == 7


CPU = torch.device("cpu")


def tiles_of(height: int, floats_per_row: float) -> list[range]:
    done: list[range] = []
    work_in_tiles(height, done.append, floats_per_row=floats_per_row, device=CPU)
    return done


def test_tiles_cover_every_row_once_and_in_order(monkeypatch):
    monkeypatch.setattr(resize, "CPU_FLOATS", 300)
    assert tiles_of(7, 100) == [range(0, 3), range(3, 6), range(6, 7)]


def test_a_row_that_is_too_long_is_still_worked_on(monkeypatch):
    monkeypatch.setattr(resize, "CPU_FLOATS", 1)
    assert tiles_of(2, 1e9) == [range(0, 1), range(1, 2)]


def test_rows_that_need_nothing_are_one_tile():
    assert tiles_of(5, 0) == [range(0, 5)]


class Memory:
    """Work that fails for tiles of more than `limit` rows."""

    def __init__(self, limit: int, error: RuntimeError) -> None:
        self.limit, self.error = limit, error
        self.done: list[range] = []

    def __call__(self, rows: range) -> None:
        if len(rows) > self.limit:
            raise self.error
        self.done.append(rows)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_where_memory_runs_out_the_same_rows_come_again_in_smaller_tiles(error, caplog):
    memory = Memory(3, error)
    work_in_tiles(20, memory, floats_per_row=1, device=CPU)
    # 20 rows, 10, 5 do not fit; 5 // 2 = 2 do.
    assert memory.done == [range(first, first + 2) for first in range(0, 20, 2)]
    assert caplog.messages == [
        f"out of memory with {rows} rows of an image at once; retrying with {rows // 2}"
        for rows in (20, 10, 5)
    ]


def test_a_single_row_that_does_not_fit_is_an_error():
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        work_in_tiles(4, Memory(0, torch.OutOfMemoryError("full")), floats_per_row=1, device=CPU)


def test_another_error_is_not_taken_for_lack_of_memory():
    with pytest.raises(RuntimeError, match="a shape is wrong"):
        work_in_tiles(4, Memory(1, RuntimeError("a shape is wrong")), floats_per_row=1, device=CPU)


@pytest.mark.parametrize("count", [1, 2, 300])
def test_the_best_map_is_that_of_argmax_and_the_first_among_equals(count):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(-5, 5, (count, 13, 17), generator=generator).float()
    assert torch.equal(argmax_channels(maps), maps.argmax(dim=0))


def test_maps_that_carry_a_graph_are_fine():
    assert argmax_channels(torch.ones(2, 3, 3, requires_grad=True)).sum() == 0


def test_where_a_value_is_no_number_the_index_is_still_a_valid_one():
    maps = torch.full((3, 2, 2), float("nan"))
    assert ((argmax_channels(maps) >= 0) & (argmax_channels(maps) < 3)).all()


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
    array = (masks.chosen(queries).rows(range(123)) > 0).numpy()
    sequence = mask_sequence(masks, queries, masks_to_boxes(torch.from_numpy(array)))
    assert np.array_equal(np.asarray(sequence), array)
    assert sequence.shape == array.shape == (4, 123, 200)
    assert np.array_equal(sequence[-1], array[3])
    assert all(np.array_equal(one, other) for one, other in zip(sequence, array, strict=True))
    for places in ([2, 0], slice(1, 3), np.array([True, False, False, True])):
        assert np.array_equal(np.asarray(sequence[places]), array[places])
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    assert (
        select_instances(sequence, scores, 0.3, 0.7) == select_instances(array, scores, 0.3, 0.7) == [0, 1, 3]
    )


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
    monkeypatch.setattr(prediction, "MAX_PLOT_PIXELS", 200_000)  # 700,700 pixels: every second row and column
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
