# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import logging
import os
import signal
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.panoptic import TinyPanoptic, write_tiny_panoptic

from cmpf.data import loader
from cmpf.data.datasets.readers import read_coco_panoptic
from cmpf.data.loader import SkippedImages, TrainLoader, build_test_loader, build_train_loader
from cmpf.data.mapper import DatasetMapper, PanopticTargets
from cmpf.data.sampling import StreamItem, TrainingSampler, augmentation_rng, epoch_order, inference_shard
from cmpf.data.transforms.geometric import (
    LabeledImage,
    LargeScaleJitter,
    RandomHorizontalFlip,
    ResizeShortestEdge,
)
from cmpf.errors import DatasetError, ImageError
from cmpf.types import Sample


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPanoptic:
    return write_tiny_panoptic(tmp_path, count=5)


@pytest.fixture
def samples(tiny: TinyPanoptic) -> list[Sample]:
    return read_coco_panoptic(**tiny.reader_arguments)


def train_loader(samples: list[Sample], **options: Any) -> TrainLoader:
    jitter = LargeScaleJitter(size=32, min_scale=0.5, max_scale=2.0)
    mapper = DatasetMapper(
        augmentations=[RandomHorizontalFlip(), jitter], target=PanopticTargets(), image_pad=128
    )
    arguments: dict[str, Any] = {"mapper": mapper, "total_batch_size": 2, "seed": 1, "num_workers": 0}
    return build_train_loader(samples, **{**arguments, **options})


def inference_mapper() -> DatasetMapper:
    return DatasetMapper(
        augmentations=[ResizeShortestEdge(short_side=12, max_side=100)], target=None, image_pad=128
    )


def content(batches: list[list[Sample]]) -> list[list[tuple[Any, ...]]]:
    """Batches in a form that == compares."""
    return [
        [
            (
                s["image_id"],
                s["image"].tolist(),
                s["targets"]["labels"].tolist(),
                s["targets"]["masks"].tolist(),
            )
            for s in batch
        ]
        for batch in batches
    ]


def taken(loader: TrainLoader, count: int) -> list[list[tuple[Any, ...]]]:
    return content(list(islice(loader, count)))


def test_batches_are_lists_of_samples_with_targets(samples: list[Sample]) -> None:
    (batch,) = islice(train_loader(samples), 1)
    assert len(batch) == 2
    assert all(sample["image"].shape == (3, 32, 32) for sample in batch)
    assert all("masks" in sample["targets"] for sample in batch)


def test_the_number_of_workers_changes_no_batch(samples: list[Sample]) -> None:
    alone = taken(train_loader(samples), 7)
    assert taken(train_loader(samples, num_workers=1), 7) == alone
    assert taken(train_loader(samples, num_workers=2), 7) == alone


def test_the_same_image_is_augmented_differently_each_time(samples: list[Sample]) -> None:
    images = [sample[1] for batch in taken(train_loader(samples[:1]), 4) for sample in batch]
    assert len({str(labeled) for labeled in images}) == 8


@pytest.mark.parametrize(("before", "after"), [(0, 0), (2, 0), (0, 2)])
@pytest.mark.parametrize("stop", [0, 1, 4])
def test_resuming_gives_the_batches_of_the_uninterrupted_run(
    samples: list[Sample], before: int, after: int, stop: int
) -> None:
    expected = taken(train_loader(samples), 7)
    first = train_loader(samples, num_workers=before)
    assert taken(first, stop) == expected[:stop]
    second = train_loader(samples, num_workers=after)
    second.load_state_dict(first.state_dict())
    assert taken(second, 7 - stop) == expected[stop:]


def test_batches_prepared_in_advance_do_not_count(samples: list[Sample]) -> None:
    loader = train_loader(samples, num_workers=2)
    batches = iter(loader)
    next(batches)
    next(batches)
    assert loader.state_dict()["position"] == 4


def test_iterating_again_goes_on(samples: list[Sample]) -> None:
    loader = train_loader(samples)
    assert taken(loader, 3) + taken(loader, 2) == taken(train_loader(samples), 5)


def test_ranks_share_the_batches_of_one_process(samples: list[Sample]) -> None:
    alone = taken(train_loader(samples, total_batch_size=4), 3)
    ranks = [
        taken(train_loader(samples, total_batch_size=4, rank=rank, world_size=2), 3) for rank in range(2)
    ]
    assert [first + second for first, second in zip(*ranks, strict=True)] == alone


def test_a_checkpoint_of_one_process_resumes_on_two(samples: list[Sample]) -> None:
    alone = train_loader(samples)
    expected = taken(train_loader(samples), 4)
    taken(alone, 2)
    shares = []
    for rank in range(2):
        loader = train_loader(samples, rank=rank, world_size=2)
        loader.load_state_dict(alone.state_dict())
        shares.append(taken(loader, 2))
    assert [first + second for first, second in zip(*shares, strict=True)] == expected[2:]


def test_the_state_holds_plain_values(samples: list[Sample], tmp_path: Path) -> None:
    state = train_loader(samples).state_dict()
    torch.save(state, tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == state


def test_resuming_with_another_seed_or_dataset_warns(
    samples: list[Sample], caplog: pytest.LogCaptureFixture
) -> None:
    state = train_loader(samples).state_dict()
    with caplog.at_level(logging.WARNING):
        train_loader(samples).load_state_dict(state)
        assert caplog.text == ""
        train_loader(samples[:4], seed=9).load_state_dict(state)
    assert "trained with seed 1, now it is 9" in caplog.text
    assert "trained with num_samples 5, now it is 4" in caplog.text


@pytest.mark.parametrize("num_workers", [0, 2])
def test_nothing_is_drawn_from_the_global_generators(samples: list[Sample], num_workers: int) -> None:
    state = torch.get_rng_state()
    taken(train_loader(samples, num_workers=num_workers), 2)
    list(build_test_loader(samples, mapper=inference_mapper(), num_workers=num_workers))
    assert torch.equal(torch.get_rng_state(), state)


class TellProcess:
    """An augmentation that writes into the image who runs it."""

    def __call__(self, labeled: LabeledImage, rng: np.random.Generator) -> LabeledImage:
        labeled.image[0, 0] = [
            torch.get_num_threads(),
            signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
            os.getppid() == int(os.environ["MAIN_PROCESS"]),
        ]
        return labeled


def test_workers_use_one_thread_and_leave_ctrl_c_to_the_main_process(
    samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAIN_PROCESS", str(os.getpid()))
    mapper = DatasetMapper(augmentations=[TellProcess()], target=None, image_pad=128)
    for batch in build_test_loader(samples, mapper=mapper, num_workers=2):
        assert batch[0]["image"][:, 0, 0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_damaged_image_ends_the_loop_with_its_name_in_one_line(
    tiny: TinyPanoptic, samples: list[Sample], num_workers: int
) -> None:
    (tiny.folder / "images" / "4.png").write_text("no image")
    with pytest.raises(ImageError) as caught:
        taken(train_loader(samples, num_workers=num_workers), 3)
    assert str(caught.value).startswith(str(tiny.folder / "images" / "4.png"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 2, 10])
def test_testing_gives_each_image_once_in_order(
    samples: list[Sample], num_workers: int, batch_size: int
) -> None:
    loader = build_test_loader(
        samples, mapper=inference_mapper(), num_workers=num_workers, batch_size=batch_size
    )
    for _ in range(2):
        batches = list(loader)
        assert len(batches) == len(loader) == -(-5 // batch_size)
        assert [sample["image_id"] for batch in batches for sample in batch] == [1, 2, 3, 4, 5]
        assert all(sample["image"].shape == (3, 12, 16) for batch in batches for sample in batch)


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_test_ranks_divide_the_images_without_doubles(samples: list[Sample], world_size: int) -> None:
    found = [
        sample["image_id"]
        for rank in range(world_size)
        for batch in build_test_loader(
            samples, mapper=inference_mapper(), num_workers=0, rank=rank, world_size=world_size
        )
        for sample in batch
    ]
    assert found == [1, 2, 3, 4, 5]


def test_an_empty_test_set_gives_no_batch() -> None:
    loader = build_test_loader([], mapper=inference_mapper(), num_workers=0)
    assert len(loader) == 0
    assert list(loader) == []


def test_numbers_that_do_not_fit_are_refused_before_the_first_batch(samples: list[Sample]) -> None:
    with pytest.raises(DatasetError, match="-1 workers"):
        train_loader(samples, num_workers=-1)
    with pytest.raises(DatasetError, match="holds no image"):
        train_loader([])
    with pytest.raises(DatasetError, match="cannot be divided among 2"):
        train_loader(samples, total_batch_size=3, world_size=2)
    with pytest.raises(DatasetError, match="batch size 0"):
        build_test_loader(samples, mapper=inference_mapper(), num_workers=0, batch_size=0)
    with pytest.raises(DatasetError, match="-2 workers"):
        build_test_loader(samples, mapper=inference_mapper(), num_workers=-2)


@pytest.mark.parametrize("pin", [True, False])
def test_memory_is_pinned_where_that_is_asked_for(
    samples: list[Sample], pin: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[bool] = []
    plain = loader.DataLoader

    def watched(*args: Any, pin_memory: bool, **options: Any) -> Any:
        given.append(pin_memory)
        return plain(*args, **options)  # without a GPU there is nothing to pin for

    monkeypatch.setattr(loader, "DataLoader", watched)
    next(iter(train_loader(samples, pin_memory=pin)))
    next(iter(build_test_loader(samples, mapper=inference_mapper(), num_workers=0, pin_memory=pin)))
    assert given == [pin, pin]


@pytest.mark.gpu
def test_pinned_samples_come_out_whole(samples: list[Sample]) -> None:
    pinned = next(iter(train_loader(samples, pin_memory=True, num_workers=1)))
    assert all(sample["image"].is_pinned() and sample["targets"]["masks"].is_pinned() for sample in pinned)
    assert content([pinned]) == content([next(iter(train_loader(samples)))])


def batches(count: int, *, start: int = 0, **arguments: int) -> list[list[StreamItem]]:
    options = {"num_samples": 10, "total_batch_size": 4, "seed": 3, **arguments}
    return list(islice(TrainingSampler(**options).batches(start), count))


def drawn(found: list[list[StreamItem]]) -> list[int]:
    return [item.sample_index for batch in found for item in batch]


def test_every_epoch_holds_every_image_once_in_another_order() -> None:
    stream = drawn(batches(10))  # 40 items, four epochs of ten
    epochs = [stream[i : i + 10] for i in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_positions_count_on_from_zero_without_gaps() -> None:
    assert [item.position for batch in batches(6) for item in batch] == list(range(24))


def test_the_order_depends_on_the_seed_alone() -> None:
    assert batches(5) == batches(5)
    assert batches(5) != batches(5, seed=4)


@pytest.mark.parametrize("done", [1, 2, 3, 7, 100])
def test_starting_at_any_place_goes_on_as_if_never_stopped(done: int) -> None:
    assert batches(5, start=4 * done) == batches(done + 5)[done:]


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_divide_the_batches_of_a_single_process_among_them(world_size: int) -> None:
    shares = [batches(6, rank=rank, world_size=world_size) for rank in range(world_size)]
    joined = [[item for part in parts for item in part] for parts in zip(*shares, strict=True)]
    assert joined == batches(6)


def test_a_batch_may_be_larger_than_the_dataset() -> None:
    (batch,) = batches(1, num_samples=3, total_batch_size=7)
    samples = [item.sample_index for item in batch]
    assert sorted(samples[:3]) == sorted(samples[3:6]) == [0, 1, 2]


def test_one_image_is_enough_and_so_are_batches_of_one_and_the_seed_zero() -> None:
    assert drawn(batches(2, num_samples=1)) == [0] * 8
    assert sorted(drawn(batches(10, total_batch_size=1, seed=0))) == list(range(10))


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
    shares = [inference_shard(num_samples, rank=r, world_size=world_size) for r in range(world_size)]
    assert [index for share in shares for index in share] == list(range(num_samples))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_an_impossible_inference_rank_is_refused() -> None:
    with pytest.raises(DatasetError, match="rank 1 of 1"):
        inference_shard(5, rank=1, world_size=1)


# Images that cannot be read.


def test_an_unreadable_image_is_skipped_for_the_next_one_and_named_once(
    samples: list[Sample], caplog: pytest.LogCaptureFixture
) -> None:
    Path(samples[2]["file_name"]).write_bytes(b"no image")
    loader = train_loader(samples, skip_unreadable=True, total_batch_size=5)
    with caplog.at_level(logging.WARNING):
        batches = [batch for batch, _ in zip(loader, range(3), strict=False)]
    names = [sorted(sample["file_name"] for sample in batch) for batch in batches]
    # Each of the five images is drawn once an epoch; number 3 stands in for number 2.
    assert names == [sorted(samples[i]["file_name"] for i in (0, 1, 3, 3, 4))] * 3
    assert [r.getMessage() for r in caplog.records if "skipped an image (1 so far)" in r.getMessage()] != []
    assert caplog.text.count(samples[2]["file_name"]) == 1


def test_too_many_unreadable_images_stop_and_name_the_dataset_damaged(samples: list[Sample]) -> None:
    for sample in samples[1:3]:
        Path(sample["file_name"]).write_bytes(b"no image")
    message = r"This is image 2 of 5 that cannot be read, more than 0\.1%: the dataset is damaged"
    with pytest.raises(DatasetError, match=message):
        next(iter(train_loader(samples, skip_unreadable=True, total_batch_size=5)))


def test_a_thousandth_of_the_images_may_be_skipped() -> None:
    skipped = SkippedImages(3000)
    for index in (5, 5, 7, 9):
        skipped.add(index, DatasetError("x"))
    with pytest.raises(DatasetError, match="image 4 of 3,000"):
        skipped.add(11, DatasetError("x"))


def test_without_skipping_the_first_unreadable_image_is_the_error(samples: list[Sample]) -> None:
    Path(samples[2]["file_name"]).write_bytes(b"no image")
    with pytest.raises(ImageError, match=samples[2]["file_name"]):
        next(iter(train_loader(samples, total_batch_size=5)))
