# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Images that are segmented tile by tile: how they are cut, and how what was found in the tiles becomes one result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

import cmpf
from cmpf.errors import CMPFError, ImageError
from cmpf.inference import resize
from cmpf.inference.settings import Selection, Tiling
from cmpf.inference.tile_grid import Tile, intersection, tile_grid
from cmpf.inference.tile_results import InstanceMerger, PanopticMerger
from cmpf.inference.tiles import TileMerger, blend_weights
from cmpf.predictor import Predictor
from cmpf.shapeworld.scene import generate_scene
from cmpf.types import InstanceResult

WORDS = "red circle; blue square; green triangle; yellow star; sky; grass"


def test_tiles_are_evenly_spread_and_overlap_at_least_as_asked() -> None:
    # 250 px in tiles of 100 that share 25: 1 + ceil((250 - 100) / 75) = 3, which begin at 0, 75 and 150.
    (row,) = tile_grid((90, 250), Tiling(tile=100, overlap=0.25))
    assert [(tile.columns.start, tile.columns.stop) for tile in row] == [(0, 100), (75, 175), (150, 250)]
    assert [tile.rows for tile in row] == [range(90)] * 3
    # Neighbors meet in the middle of what they share: (75 + 100) // 2 = 87, (150 + 175) // 2 = 162.
    assert [tile.own_columns for tile in row] == [range(87), range(87, 162), range(162, 250)]


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("size", [(64, 64), (65, 700), (301, 257), (1, 5000)])
def test_every_pixel_is_owned_by_one_tile(size: tuple[int, int], overlap: float) -> None:
    owners = np.zeros(size, dtype=int)
    rows = tile_grid(size, Tiling(tile=64, overlap=overlap))
    for tile in (tile for row in rows for tile in row):
        assert tile.size == (min(64, size[0]), min(64, size[1]))
        owners[tile.own_rows.start : tile.own_rows.stop, tile.own_columns.start : tile.own_columns.stop] += 1
    assert (owners == 1).all()
    starts = [tile.columns.start for tile in rows[0]]
    assert all(b - a <= 64 - round(64 * overlap) for a, b in pairwise(starts))


def test_boxes_that_only_touch_have_no_intersection() -> None:
    assert intersection((0, 0, 4, 6), (3, 5, 8, 8)) == (3, 5, 4, 6)
    assert intersection((0, 0, 4, 6), (4, 0, 8, 6)) is None
    assert intersection((0, 0, 4, 6), (0, 6, 4, 8)) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tile": 32}, "tile must be a whole number of pixels from 64, got 32"),
        ({"tile": 100.0}, "tile must be a whole number of pixels from 64, got 100.0"),
        ({"tile": 100, "overlap": 0.6}, "overlap must be a share of the tile from 0 to 0.5, got 0.6"),
        ({"tile": 100, "overlap": "0.2"}, "overlap must be a share of the tile from 0 to 0.5, got '0.2'"),
    ],
)
def test_impossible_tiles_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(CMPFError, match=message):
        Tiling(**values)


def strip(*columns: tuple[int, int], side: int) -> list[Tile]:
    """Tiles of one row of pixels, which meet in the middle of what they share."""
    seams = [0, *((a[1] + b[0]) // 2 for a, b in pairwise(columns)), side]
    return [
        Tile(range(1), range(1), range(*span), range(seams[i], seams[i + 1]))
        for i, span in enumerate(columns)
    ]


def instances(tile: Tile, *found: tuple[int, int, int, float]) -> InstanceResult:
    """Instances (first and last column in the image, class, score) of a tile."""
    masks = torch.zeros(len(found), *tile.size, dtype=torch.bool)
    for mask, (first, last, _, _) in zip(masks, found, strict=True):
        mask[:, first - tile.columns.start : last + 1 - tile.columns.start] = True
    return InstanceResult(
        pred_masks=masks,
        pred_boxes=torch.zeros(len(found), 4),
        scores=torch.tensor([score for *_, score in found]),
        pred_classes=torch.tensor([label for _, _, label, _ in found], dtype=torch.int64),
    )


def joined(tiles: Sequence[Tile], *found: Sequence[tuple[int, int, int, float]]) -> list[tuple[Any, ...]]:
    """(first and last column, class, score) of each instance of the image."""
    merger = InstanceMerger((1, tiles[-1].columns.stop))
    for tile, own in zip(tiles, found, strict=True):
        merger.add(tile, instances(tile, *own), None)
    result = merger.result()
    rows = []
    for mask, box, score, label in zip(
        result.lazy_masks,
        result.pred_boxes.tolist(),
        result.scores.tolist(),
        result.pred_classes.tolist(),
        strict=True,
    ):
        columns = np.flatnonzero(mask[0])
        assert box == [columns[0], 0, columns[-1] + 1, 1]
        rows.append((int(columns[0]), int(columns[-1]), label, pytest.approx(score)))
    return rows


TWO = strip((0, 12), (8, 20), side=20)  # they share columns 8..11 and meet at 10


def test_an_object_across_a_border_is_one_instance() -> None:
    # Of its columns 5..14 the first tile sees 5..11, seven at 0.9, the second 8..14, seven at 0.5.
    assert joined(TWO, [(5, 11, 3, 0.9)], [(8, 14, 3, 0.5)]) == [(5, 14, 3, 0.7)]


def test_an_object_that_both_tiles_see_whole_counts_once() -> None:
    assert joined(TWO, [(9, 10, 3, 0.8)], [(9, 10, 3, 0.6)]) == [(9, 10, 3, 0.7)]


def test_objects_of_two_classes_or_in_two_places_stay_two() -> None:
    assert len(joined(TWO, [(5, 11, 3, 0.9)], [(8, 14, 2, 0.5)])) == 2
    # In what they share, 8..11: the first has 8 and 9, the second 8..11. IoU 2 / 4 is not above one half.
    assert len(joined(TWO, [(5, 9, 3, 0.9)], [(8, 14, 3, 0.5)])) == 2
    assert len(joined(TWO, [(8, 8, 3, 0.9)], [(10, 10, 3, 0.5)])) == 2


def test_a_sliver_at_the_end_of_a_tile_is_left_to_the_neighbor() -> None:
    # Columns 10 and 11 are the last of the first tile and belong to the second, which sees that it is another class.
    assert joined(TWO, [(10, 11, 5, 0.9)], [(10, 16, 3, 0.5)]) == [(10, 16, 3, 0.5)]
    assert joined(TWO, [(2, 9, 3, 0.5)], [(8, 9, 5, 0.9)]) == [(2, 9, 3, 0.5)]
    # At the end of the image nobody sees more.
    assert joined(TWO, [], [(18, 19, 3, 0.5)]) == [(18, 19, 3, 0.5)]


def test_an_object_in_many_tiles_is_one_instance() -> None:
    tiles = strip((0, 12), (8, 20), (16, 28), side=28)
    found = joined(tiles, [(2, 11, 1, 0.6)], [(8, 19, 1, 0.6)], [(16, 25, 1, 0.6)])
    assert found == [(2, 25, 1, 0.6)]


def test_without_an_object_the_result_is_empty_but_well_formed() -> None:
    result = InstanceMerger((1, 20)).result()
    assert (len(result), result.pred_boxes.shape, len(result.lazy_masks)) == (0, (0, 4), 0)
    assert (result.scores.dtype, result.of_sam.dtype) == (torch.float32, torch.bool)


def test_masks_of_one_tile_are_never_joined() -> None:
    # Both have the IoU 1 with the neighbor's in columns 8..11; the first pair in the order of the masks is taken.
    assert len(joined(TWO, [(5, 11, 3, 0.9), (6, 11, 3, 0.8)], [(8, 14, 3, 0.5)])) == 2


def panoptic(tiles: Sequence[Tile], *rows: tuple[list[int], dict[int, tuple[int, bool]]]) -> Any:
    """Ids of the image, and (class, area, score) of each segment."""
    merger = PanopticMerger((1, tiles[-1].columns.stop))
    for tile, (ids, segments) in zip(tiles, rows, strict=True):
        infos: Any = [
            {"id": i, "category_id": label, "isthing": thing, "score": 0.1 * i}
            for i, (label, thing) in segments.items()
        ]
        merger.add(tile, torch.tensor([ids], dtype=torch.int32), infos)
    ids, found = merger.result()
    return ids[0].tolist(), [(s["id"], s["category_id"], s["area"], pytest.approx(s["score"])) for s in found]


def test_things_across_a_border_are_one_segment_and_stuff_of_a_class_is() -> None:
    tiles = strip((0, 6), (4, 10), side=10)  # they share columns 4 and 5 and meet at 5
    first = [1, 1, 0, 2, 2, 2], {1: (7, False), 2: (3, True)}
    second = [5, 5, 5, 4, 4, 0], {4: (7, False), 5: (3, True)}
    ids, segments = panoptic(tiles, first, second)
    assert ids == [1, 1, 0, 2, 2, 2, 2, 1, 1, 0]
    # Stuff: 2 px of 0.1 and 2 of 0.4; the thing: columns 3 and 4 of 0.2, columns 5 and 6 of 0.5.
    assert segments == [(1, 7, 4, 0.25), (2, 3, 4, 0.35)]


def test_things_that_do_not_agree_where_tiles_meet_stay_two() -> None:
    tiles = strip((0, 6), (4, 10), side=10)
    ids, segments = panoptic(
        tiles, ([1, 1, 1, 1, 1, 0], {1: (3, True)}), ([0, 1, 1, 1, 1, 1], {1: (3, True)})
    )
    assert ids == [1, 1, 1, 1, 1, 2, 2, 2, 2, 2]
    assert len(segments) == 2


def test_segments_that_own_no_pixel_are_gone() -> None:
    tiles = strip((0, 6), (4, 10), side=10)
    ids, segments = panoptic(tiles, ([0, 0, 0, 0, 0, 9], {9: (3, True)}), ([0, 0, 0, 0, 0, 0], {}))
    assert (ids, segments) == ([0] * 10, [])


class Scores:
    """Score maps (K, H, W) of a tile, as SemanticScores gives them."""

    device = torch.device("cpu")
    floats_per_row = 1.0

    def __init__(self, maps: torch.Tensor) -> None:
        self._maps = maps
        self.classes = len(maps)

    def rows(self, rows: range) -> torch.Tensor:
        return self._maps[:, rows.start : rows.stop]


def settings(predictor: Predictor, **changes: Any) -> Any:
    return replace(
        predictor.model.settings, **{"panoptic": False, "instance": False, "semantic": True, **changes}
    )


@pytest.mark.parametrize("floats", [resize.CPU_FLOATS, 1], ids=["all rows at once", "row by row"])
def test_semantic_labels_are_those_of_the_mean_scores(
    seg: Predictor, floats: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against sums over the whole image, which the merger never has; rows of tiles of every overlap."""
    monkeypatch.setattr(resize, "CPU_FLOATS", floats)
    generator = torch.Generator().manual_seed(0)
    for size, overlap in (((150, 200), 0.25), ((64, 131), 0.5), ((200, 64), 0.0), ((40, 50), 0.25)):
        rows = tile_grid(size, Tiling(tile=64, overlap=overlap))
        merger = TileMerger(rows, size, settings(seg))
        total, shares = torch.zeros(5, *size), torch.zeros(size)
        for tile in merger.tiles():
            maps = torch.rand(5, *tile.size, generator=generator)
            merger.add(tile, {"semantic_scores": Scores(maps)})
            distance = [torch.tensor([min(i + 0.5, n - i - 0.5) for i in range(n)]) for n in tile.size]
            weight = distance[0][:, None] * distance[1]
            tile.crop(total.permute(1, 2, 0)).add_((weight * maps).permute(1, 2, 0))
            tile.crop(shares).add_(weight)
        assert torch.equal(merger.result()["sem_seg"].long(), (total / shares).argmax(dim=0))


def test_pixels_that_no_class_is_sure_of_are_background_by_the_mean_score(seg: Predictor) -> None:
    for minimum, label in ((0.5, 1), (0.51, -1)):
        selection = Selection(background=True, min_semantic_score=minimum)
        merger = TileMerger([TWO], (1, 20), settings(seg, selection=selection))
        for tile in TWO:
            merger.add(
                tile, {"semantic_scores": Scores(torch.tensor([0.25, 0.5])[:, None, None].expand(2, 1, 12))}
            )
        assert merger.result()["sem_seg"].tolist() == [[label] * 20]


def test_of_all_tiles_together_the_best_instances_are_kept(seg: Predictor) -> None:
    changes = {"semantic": False, "instance": True, "selection": Selection(max_instances=2)}
    merger = TileMerger([TWO], (1, 20), settings(seg, **changes))
    merger.add(TWO[0], {"instances": instances(TWO[0], (0, 2, 1, 0.8), (4, 6, 1, 0.7))})
    merger.add(TWO[1], {"instances": instances(TWO[1], (14, 16, 1, 0.9))})
    assert merger.result()["instances"].scores.tolist() == pytest.approx([0.9, 0.8])


def test_a_pixel_counts_by_its_distance_to_the_end_of_the_tile() -> None:
    assert blend_weights(4).tolist() == [0.5, 1.5, 1.5, 0.5]
    assert blend_weights(3).tolist() == [0.5, 1.5, 0.5]


@pytest.fixture(scope="module")
def seg() -> Predictor:
    return cmpf.load("cmpf_tiny", device="cpu", overrides=["TEST.ENSEMBLE.ENABLED", False])


def scene(seed: int) -> np.ndarray:
    return generate_scene(seed, size=256, seen_only=False).image


@pytest.mark.parametrize("task", ["all", "semantic"])
def test_an_image_of_one_tile_is_segmented_as_without_tiles(seg: Predictor, task: str) -> None:
    plain, tiled = (seg.predict(scene(20), WORDS, task=task, **more) for more in ({}, {"tile": 256}))
    assert np.array_equal(plain.semantic, tiled.semantic)
    if task == "all":
        assert np.array_equal(plain.panoptic, tiled.panoptic)
        assert plain.segments == tiled.segments
        assert np.array_equal(plain.instances.masks, np.asarray(tiled.instances.masks))
        assert np.array_equal(plain.instances.boxes, tiled.instances.boxes)


def test_tiles_that_cut_no_object_give_the_instances_of_each(seg: Predictor) -> None:
    both = np.concatenate([scene(20), scene(21)], axis=1)
    tiled = seg.predict(both, WORDS, tile=256, overlap=0.0, batch_size=2)
    found = [seg.predict(scene(seed), WORDS) for seed in (20, 21)]
    expected = []
    for place, one in enumerate(found):
        for box, score, label in zip(
            one.instances.boxes, one.instances.scores, one.instances.labels, strict=True
        ):
            expected.append(
                (round(float(score), 4), int(label), *(box + [256 * place, 0, 256 * place, 0]).tolist())
            )
    assert len(expected) > 2
    got = [
        (round(float(score), 4), int(label), *box.tolist())
        for box, score, label in zip(
            tiled.instances.boxes, tiled.instances.scores, tiled.instances.labels, strict=True
        )
    ]
    assert sorted(got) == sorted(expected)
    assert np.array_equal(tiled.semantic, np.concatenate([one.semantic for one in found], axis=1))
    assert (tiled.panoptic > 0).sum() == sum((one.panoptic > 0).sum() for one in found)


def test_batches_of_tiles_give_what_single_tiles_do(seg: Predictor) -> None:
    image = np.concatenate([scene(20), scene(21)], axis=1)
    one, four = (seg.predict(image, WORDS, tile=200, batch_size=n) for n in (1, 4))
    assert (one.semantic != four.semantic).mean() < 1e-3
    assert [(s.category, s.isthing) for s in one.segments] == [(s.category, s.isthing) for s in four.segments]
    assert len(one.instances) == len(four.instances)


def test_objects_that_every_tile_cuts_are_found_once(seg: Predictor) -> None:
    """A star and a square of 100 pixels in the middle of 448, and tiles of 256 that share 64: columns 192..255."""
    image = scene(20)
    wide = np.concatenate([image[:, :1].repeat(96, 1), image, image[:, -1:].repeat(96, 1)], axis=1)
    whole, tiled = (seg.predict(wide, WORDS, **more) for more in ({}, {"tile": 256}))
    for found in (whole, tiled):
        assert sorted(found.names[label] for label in found.instances.labels) == [
            "blue square",
            "yellow star",
        ]
        assert found.summary() == {"sky": 1, "grass": 1, "yellow star": 1, "blue square": 1}
    for label, mask, box in zip(
        tiled.instances.labels, tiled.instances.masks, tiled.instances.boxes, strict=True
    ):
        (other,) = (
            m for m, one in zip(whole.instances.masks, whole.instances.labels, strict=True) if one == label
        )
        assert (mask & other).sum() / (mask | other).sum() > 0.85
        assert box[0] < 256
        assert box[2] > 192
    assert (whole.semantic != tiled.semantic).mean() < 0.02


def test_an_image_that_is_too_large_is_refused_before_it_is_decoded(seg: Predictor) -> None:
    with pytest.raises(
        ImageError, match=r"256 x 256 \(H x W\) is more than 60,000 pixels; make it smaller or raise"
    ):
        seg.predict(scene(20), WORDS, max_pixels=60_000)
