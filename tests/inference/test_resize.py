# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Resizing masks, whole and by tiles of rows."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cmpf.inference import MaskRows, resize, restore_size
from cmpf.inference.resize import best_of, resize_rows, source_rows, work_in_tiles


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
        got = tiles.rows(rows, chosen)
        torch.testing.assert_close(got, wanted[chosen, rows.start : rows.stop], atol=1e-4, rtol=0)


def test_masks_of_the_output_size_are_read_as_they_are():
    masks = torch.randn(3, 5, 7)
    tiles = MaskRows.of(masks)
    assert MaskRows.of(tiles) is tiles
    assert torch.equal(tiles.rows(range(1, 4), torch.tensor([2, 1])), masks[[2, 1], 1:4])
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
        f"out of memory with {rows} rows of an image at once; going on with {rows // 2}"
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
    assert torch.equal(best_of(maps), maps.argmax(dim=0))


def test_maps_that_carry_a_graph_are_fine():
    assert best_of(torch.ones(2, 3, 3, requires_grad=True)).sum() == 0


def test_where_a_value_is_no_number_the_index_is_still_a_valid_one():
    maps = torch.full((3, 2, 2), float("nan"))
    assert ((best_of(maps) >= 0) & (best_of(maps) < 3)).all()
