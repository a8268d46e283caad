# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Bands of rows, and the best map of a pixel."""

from __future__ import annotations

import pytest
import torch

from cmpf.postprocess import bands
from cmpf.postprocess.bands import best_of, row_bands

CPU = torch.device("cpu")


def test_bands_cover_every_row_once_and_in_order(monkeypatch):
    monkeypatch.setattr(bands, "CPU_FLOATS", 300)
    assert list(row_bands(7, floats_per_row=100, device=CPU)) == [range(0, 3), range(3, 6), range(6, 7)]


def test_a_row_that_is_too_long_is_still_worked_on(monkeypatch):
    monkeypatch.setattr(bands, "CPU_FLOATS", 1)
    assert list(row_bands(2, floats_per_row=1e9, device=CPU)) == [range(0, 1), range(1, 2)]


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
