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
from cmpf.data.loader import TrainLoader, build_test_loader, build_train_loader
from cmpf.data.mapper import DatasetMapper
from cmpf.data.targets import PanopticTargets
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
