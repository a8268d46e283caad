# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from itertools import islice

import pytest

from cmpf.data.samplers import (
    Place,
    TrainingSampler,
    augmentation_rng,
    epoch_order,
    inference_share,
)
from cmpf.errors import DatasetError


def batches(count: int, *, start: int = 0, **arguments: int) -> list[list[Place]]:
    options = {"num_samples": 10, "total_batch_size": 4, "seed": 3, **arguments}
    return list(islice(TrainingSampler(**options).batches(start), count))


def drawn(found: list[list[Place]]) -> list[int]:
    return [place.sample for batch in found for place in batch]


def test_every_epoch_holds_every_image_once_in_another_order() -> None:
    stream = drawn(batches(10))  # 40 places, four epochs of ten
    epochs = [stream[i : i + 10] for i in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_places_count_on_from_zero_without_gaps() -> None:
    assert [place.position for batch in batches(6) for place in batch] == list(range(24))


def test_the_order_depends_on_the_seed_alone() -> None:
    assert batches(5) == batches(5)
    assert batches(5) != batches(5, seed=4)


@pytest.mark.parametrize("done", [1, 2, 3, 7, 100])
def test_starting_at_any_place_goes_on_as_if_never_stopped(done: int) -> None:
    assert batches(5, start=4 * done) == batches(done + 5)[done:]


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_divide_the_batches_of_a_single_process_among_them(world_size: int) -> None:
    shares = [batches(6, rank=rank, world_size=world_size) for rank in range(world_size)]
    joined = [[place for part in parts for place in part] for parts in zip(*shares, strict=True)]
    assert joined == batches(6)


def test_a_batch_may_be_larger_than_the_dataset() -> None:
    (batch,) = batches(1, num_samples=3, total_batch_size=7)
    samples = [place.sample for place in batch]
    assert sorted(samples[:3]) == sorted(samples[3:6]) == [0, 1, 2]


def test_one_image_is_enough() -> None:
    assert drawn(batches(2, num_samples=1)) == [0] * 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "the training dataset holds no image"),
        ({"total_batch_size": 0}, "total batch size 0"),
        ({"world_size": 3}, r"total batch size 4 cannot be divided among 3 processes; .*multiple of 3"),
        ({"rank": 2, "world_size": 2}, r"rank 2 of 2 processes: ranks are 0\.\.1"),
        ({"rank": -1}, "rank -1 of 1"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        batches(1, **arguments)


def test_orders_and_augmentations_draw_from_different_streams() -> None:
    first = augmentation_rng(3, 0).permutation(10).tolist()
    assert first == augmentation_rng(3, 0).permutation(10).tolist()
    others = [augmentation_rng(3, 1), augmentation_rng(4, 0)]
    assert first not in [rng.permutation(10).tolist() for rng in others]
    assert first != epoch_order(10, seed=3, epoch=0).tolist()


@pytest.mark.parametrize(("num_samples", "world_size"), [(10, 3), (2, 4), (0, 2), (7, 1), (8, 4)])
def test_inference_shares_cover_each_image_once_and_differ_by_one(num_samples: int, world_size: int) -> None:
    shares = [inference_share(num_samples, rank=r, world_size=world_size) for r in range(world_size)]
    assert [index for share in shares for index in share] == list(range(num_samples))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_an_impossible_inference_rank_is_refused() -> None:
    with pytest.raises(DatasetError, match="rank 1 of 1"):
        inference_share(5, rank=1, world_size=1)
