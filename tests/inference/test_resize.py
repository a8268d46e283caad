# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Resizing masks, whole and by tiles of rows."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cmpf.inference import MaskRows, restore_size
from cmpf.inference.resize import resize_rows, source_rows


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
