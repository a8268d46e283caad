# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Tiles of rows, and the best map of a pixel."""

from __future__ import annotations

import pytest
import torch

from cmpf.inference import resize
from cmpf.inference.resize import best_of, work_in_tiles

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
