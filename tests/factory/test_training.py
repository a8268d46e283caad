# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers.panoptic import write_tiny_panoptic
from helpers.tiny_model import tiny_config, tiny_model, training_sample

from cmpf.config import Config
from cmpf.data import (
    InstanceTargets,
    LargeScaleJitter,
    PadToMultiple,
    PanopticTargets,
    RandomCrop,
    RandomHorizontalFlip,
    RandomShortestEdge,
    SemanticTargets,
    SSDColorJitter,
    get_dataset,
)
from cmpf.engine.evaluations import image_drawer, target_segments
from cmpf.engine.writers import Writer
from cmpf.errors import ConfigError, ImageError
from cmpf.factory import build_model, build_test_loader, build_trainer, encoders
from cmpf.factory.encoders import loader_workers
from cmpf.factory.training import (
    build_configured_optimizer,
    build_configured_schedule,
    build_learning_rate,
    build_train_loader,
    build_train_mapper,
)

TRUTH = {"panoptic": "panoptic.json", "semantic": "semantic", "instance": "instances.json"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset of three images of 24 x 32 with ground truth of every kind."""
    write_tiny_panoptic(tmp_path, count=3, crowd=True)
    return tmp_path


def dataset_name(folder: Path, task: str, **more: Any) -> str:
    content = {
        "name": f"tiny_{task}",
        "task": task,
        "images": "images",
        "annotations": TRUTH[task],
        "vocabulary": ["cat", "dog", "grass"],
    }
    path = folder / f"{task}.yaml"
    path.write_text(yaml.safe_dump({**content, **more}))
    return f"file:{path}"


def config(name: str, *overrides: object) -> Config:
    sizes = ("INPUT.IMAGE_SIZE", 64, "INPUT.MIN_SIZE_TRAIN", "(24, 48)", "INPUT.CROP.SIZE", "(20, 40)")
    batch = ("SOLVER.IMS_PER_BATCH", 2, "DATASETS.TRAIN", (name,))
    return tiny_config(overrides=[*sizes, *batch, *overrides])


def kinds(name: str, *overrides: object) -> list[type]:
    mapper = build_train_mapper(config(name, *overrides), get_dataset(name))
    return [type(augmentation) for augmentation in mapper.augmentations]


@pytest.mark.parametrize(("task", "target"), [("panoptic", PanopticTargets), ("instance", InstanceTargets)])
def test_segments_and_objects_are_jittered(folder: Path, task: str, target: type) -> None:
    name = dataset_name(folder, task)
    assert kinds(name) == [RandomHorizontalFlip, LargeScaleJitter]
    for overrides, shared in (((), False), (("INPUT.SHARED_CROP_OFFSET", True), True)):
        _, jitter = build_train_mapper(config(name, *overrides), get_dataset(name)).augmentations
        assert isinstance(jitter, LargeScaleJitter)
        assert jitter.shared_offset is shared
    assert isinstance(build_train_mapper(config(name), get_dataset(name)).target, target)
    batch = next(iter(build_train_loader(config(name))))
    assert [sample["image"].shape for sample in batch] == [(3, 64, 64)] * 2
    labels = {label for sample in batch for label in sample["targets"]["labels"].tolist()}
    assert labels <= ({0, 1, 2} if task == "panoptic" else {0, 1})


def test_queries_that_start_at_masks_of_sam_are_not_trained_with_those_of_a_cache(folder: Path) -> None:
    cached = ("TEST.ENSEMBLE.SOURCE", "cache", "TEST.ENSEMBLE.CACHE_DIR", str(folder))
    name = dataset_name(folder, "panoptic")
    with pytest.raises(ConfigError, match=r"PROPOSAL_QUERIES.*train with TEST\.ENSEMBLE\.SOURCE online"):
        build_train_loader(config(name, "MODEL.CMPF.PROPOSAL_QUERIES.ENABLED", True, *cached))


def test_classes_are_cropped_colored_flipped_and_padded(folder: Path) -> None:
    name = dataset_name(folder, "semantic")
    assert kinds(name) == [
        RandomShortestEdge,
        RandomCrop,
        SSDColorJitter,
        RandomHorizontalFlip,
        PadToMultiple,
    ]
    mapper = build_train_mapper(config(name), get_dataset(name))
    assert isinstance(mapper.target, SemanticTargets)
    loader = iter(build_train_loader(config(name)))
    for _ in range(4):
        for sample in next(loader):
            # crops of 20 x 40, or less where the short side is 24, are padded to multiples of 32
            assert sample["image"].shape == (3, 32, 64)
            assert sample["targets"]["masks"].shape[1:] == (32, 64)
            assert not sample["targets"]["masks"][:, 20:].any()


def test_each_part_of_the_semantic_rule_can_be_switched_off(folder: Path) -> None:
    name = dataset_name(folder, "semantic")
    off = ("INPUT.CROP.ENABLED", False, "INPUT.COLOR_AUG_SSD", False, "INPUT.RANDOM_FLIP", "none")
    assert kinds(name, *off) == [RandomShortestEdge, PadToMultiple]


def test_the_keys_of_the_semantic_rule_reach_its_parts(folder: Path) -> None:
    name = dataset_name(folder, "semantic", ignore_label=255)
    given = (
        *("INPUT.MIN_SIZE_TRAIN", "(24, 30)", "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"),
        *("INPUT.MAX_SIZE_TRAIN", 50, "INPUT.CROP.TYPE", "relative_range", "INPUT.CROP.SIZE", "(0.5, 0.75)"),
        *("INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", 0.6, "INPUT.SIZE_DIVISIBILITY", 24),
    )
    mapper = build_train_mapper(config(name, *given), get_dataset(name))
    resize, cut, _, _, padding = mapper.augmentations
    assert isinstance(resize, RandomShortestEdge)
    assert (resize.short_sides, resize.max_side, resize.sampling) == ((24, 30), 50, "range")
    assert isinstance(cut, RandomCrop)
    assert (cut.kind, cut.crop_size, cut.max_class_share) == ("relative_range", (0.5, 0.75), 0.6)
    assert isinstance(padding, PadToMultiple)
    assert (padding.divisor, padding.at_least) == (96, (0, 0))  # 24 and the model's 32 both divide 96


def test_label_map_and_ignore_label_of_the_dataset_are_used(folder: Path) -> None:
    # The files hold 0 cat, 1 dog, 2 grass, 255 void: dogs become class 0, void and cats are ignored.
    name = dataset_name(folder, "semantic", label_map={1: 0, 2: 1, 255: 2}, ignore_label=0)
    batch = next(iter(build_train_loader(config(name, "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", 1.0))))
    labels = {label for sample in batch for label in sample["targets"]["labels"].tolist()}
    assert {1} <= labels <= {0, 1, 2}


def test_an_image_that_cannot_be_read_stops_the_training_or_is_skipped(folder: Path) -> None:
    name = dataset_name(folder, "panoptic")
    sorted((folder / "images").iterdir())[0].write_bytes(b"no image")

    def read(on_error: str) -> list[Any]:
        loader = iter(build_train_loader(config(name, "DATALOADER.ON_ERROR", on_error)))
        return [next(loader) for _ in range(3)]

    assert [len(batch) for batch in read("skip")] == [2, 2, 2]
    with pytest.raises(ImageError, match="not an image"):
        read("stop")


def test_a_second_training_dataset_is_not_ignored_in_silence(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = dataset_name(folder, "panoptic")
    build_train_loader(config(name, "DATASETS.TRAIN", (name, "shapes_train")))
    assert "DATASETS.TRAIN: only the first dataset is used, not shapes_train" in caplog.text


def test_equal_seeds_give_equal_batches(folder: Path) -> None:
    name = dataset_name(folder, "semantic")
    first, second, other = (next(iter(build_train_loader(config(name, "SEED", seed)))) for seed in (1, 1, 2))
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(a["image"], b["image"]) for a, b in zip(first, other, strict=True))


def test_processes_share_a_training_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = dataset_name(folder, "panoptic")
    whole = next(iter(build_train_loader(config(name))))
    parts = []
    monkeypatch.setattr("cmpf.common.distributed.world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr("cmpf.common.distributed.rank", lambda rank=rank: rank)
        parts += next(iter(build_train_loader(config(name))))
    assert [sample["file_name"] for sample in parts] == [sample["file_name"] for sample in whole]
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(parts, whole, strict=True))


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_a_test_dataset_without_duplicates(
    folder: Path, monkeypatch: pytest.MonkeyPatch, world: int
) -> None:
    dataset = get_dataset(dataset_name(folder, "panoptic"))
    shares = []
    monkeypatch.setattr("cmpf.common.distributed.world_size", lambda: world)
    for rank in range(world):
        monkeypatch.setattr("cmpf.common.distributed.rank", lambda rank=rank: rank)
        loader = build_test_loader(config(dataset.name), dataset)
        shares.append([sample["image_id"] for batch in loader for sample in batch])
    # 3 images: 2 + 1, or one each and none for the last process
    assert [len(share) for share in shares] == ([2, 1] if world == 2 else [1, 1, 1, 0])
    assert sorted(chain(*shares)) == sorted(sample["image_id"] for sample in dataset.samples)


@pytest.mark.parametrize(("reference", "rate"), [(0, 1e-3), (4, 1e-3), (8, 5e-4), (2, 2e-3)])
def test_the_learning_rate_follows_the_batch_where_that_is_asked_for(
    folder: Path, reference: int, rate: float, caplog: pytest.LogCaptureFixture
) -> None:
    given = ("SOLVER.BASE_LR", 1e-3, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.REFERENCE_BATCH_SIZE", reference)
    with caplog.at_level("INFO"):
        assert build_learning_rate(config("shapes_train", *given)) == pytest.approx(rate)
    assert ("SOLVER.REFERENCE_BATCH_SIZE" in caplog.text) == (reference in (8, 2))


def test_the_keys_of_training_reach_the_trainer(folder: Path, tmp_path: Path) -> None:
    name = dataset_name(folder, "panoptic")
    cfg = config(
        name,
        *("SOLVER.ACCUMULATION_STEPS", 2, "SOLVER.EMA.ENABLED", True, "SOLVER.AMP.ENABLED", True),
        *("SOLVER.AMP.DTYPE", "bf16", "LOG.PICTURES", 1, "DATASETS.TEST", "()", "SOLVER.MAX_ITER", 1),
        *("OUTPUT_DIR", str(tmp_path / "run"), "MODEL.CMPF.COMPILE", False, "SOLVER.EMA.DECAY", 0.0),
    )
    heard: list[str] = []

    class Eyes(Writer):
        def images(self, iteration: int, images: Any) -> None:
            heard.extend(images)

    trainer = build_trainer(cfg, build_model(cfg), writers=[Eyes()])
    assert trainer.step.precision.dtype is torch.bfloat16
    assert trainer.train().finished
    assert heard == ["training/image_0"]
    state = torch.load(tmp_path / "run" / "training_0000001.pt", weights_only=True)
    assert state["average"]["steps"] == 1
    saved = state["average"]["average"]["decoder.level_embedding.weight"]
    assert torch.equal(saved, trainer.model.decoder.level_embedding.weight)  # a decay of 0 keeps no average


def test_only_layers_of_norms_and_embeddings_have_a_weight_decay_of_their_own(folder: Path) -> None:
    decays = (
        "SOLVER.WEIGHT_DECAY",
        0.05,
        "SOLVER.WEIGHT_DECAY_NORM",
        0.01,
        "SOLVER.WEIGHT_DECAY_EMBED",
        0.02,
    )
    cfg = config("shapes_train", *decays)
    model = build_model(cfg)
    optimizer = build_configured_optimizer(cfg, model)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: decay[id(p)] for name, p in model.named_parameters() if id(p) in decay}
    levels = {name: value for name, value in found.items() if "level_embedding" in name}
    assert levels == {
        "pixel_decoder.encoder.level_embedding": 0.05,
        "sam_branch.encoder.level_embedding": 0.05,
        "decoder.level_embedding.weight": 0.02,
    }
    assert {found["decoder.query_content.weight"], found["decoder.query_position.weight"]} == {0.02}
    assert {value for name, value in found.items() if "norm" in name} == {0.01}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        # warm-up 0.5, 0.75, 1 times ((4 - i) / 4) ** 2
        ({"LR_SCHEDULER_NAME": "WarmupPolyLR", "POLY_POWER": 2}, [0.5, 0.75 * 0.5625, 0.25]),
        # times cosine 1, 0.853553, 0.5
        ({"LR_SCHEDULER_NAME": "WarmupCosineLR"}, [0.5, 0.75 * 0.853553391, 0.5]),
        ({"LR_SCHEDULER_NAME": "WarmupMultiStepLR", "STEPS": (2,), "GAMMA": 0.3}, [0.5, 0.75, 0.3]),
    ],
)
def test_the_keys_of_the_schedule_reach_it(keys: dict[str, Any], expected: list[float]) -> None:
    keys = {"MAX_ITER": 4, "STEPS": (), "WARMUP_ITERS": 2, "WARMUP_FACTOR": 0.5} | keys
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    overrides = [part for key, value in keys.items() for part in (f"SOLVER.{key}", value)]
    schedule = build_configured_schedule(config("shapes_train", *overrides), optimizer)
    found = []
    for _ in expected:
        found.append(schedule.learning_rate)
        schedule.step()
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("name", ["WarmupMultiStepLR", "WarmupCosineLR"])
def test_steps_after_the_end_of_a_training_are_warned_about(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    given = ("SOLVER.LR_SCHEDULER_NAME", name, "SOLVER.STEPS", (10, 20, 30), "SOLVER.MAX_ITER", 20)
    weights = torch.nn.Parameter(torch.zeros(1))
    build_configured_schedule(config("shapes_train", *given), torch.optim.SGD([weights], lr=1.0))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == (name == "WarmupMultiStepLR")
    assert all("SOLVER.STEPS [20, 30] are never reached" in warning for warning in warnings)


def test_a_resumed_training_says_which_settings_are_others_than_before(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = dataset_name(folder, "panoptic")
    own = ["DATASETS.TRAIN", [name], "DATASETS.TEST", [], "OUTPUT_DIR", str(tmp_path / "run")]

    def trainer(*changes: object) -> Any:
        cfg = tiny_config("fcclip_tiny", [*own, *changes])
        return build_trainer(cfg, build_model(cfg), writers=[])

    torch.manual_seed(0)
    trainer("SOLVER.IMS_PER_BATCH", 2).save()
    torch.manual_seed(0)
    assert trainer("SOLVER.IMS_PER_BATCH", 2, "SOLVER.CHECKPOINT_PERIOD", 7).resume()
    assert "SOLVER.CHECKPOINT_PERIOD 100 -> 7" in caplog.text
    assert "IMS_PER_BATCH" not in caplog.text
    torch.manual_seed(0)
    assert trainer("SOLVER.IMS_PER_BATCH", 3, "SOLVER.MAX_ITER", 9).resume()
    assert "different settings: " in caplog.text
    assert "SOLVER.IMS_PER_BATCH 2 -> 3" in caplog.text
    assert "SOLVER.MAX_ITER 300 -> 9" in caplog.text


@pytest.mark.parametrize(
    ("device", "cores", "processes", "expected"),
    [
        ("cuda", 16, 1, 8),  # enough
        ("cuda", 64, 16, 3),  # 64 / 16 = 4 cores a process, one of them for the process itself
        ("cuda", 1, 1, 0),
        ("cuda", 4, 8, 0),  # more processes than cores
        ("cpu", 16, 1, 1),
        ("cpu", 1, 1, 0),
    ],
)
def test_minus_one_shares_out_the_cores(
    device: str, cores: int, processes: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "usable_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    cfg = tiny_config(overrides=["DATALOADER.NUM_WORKERS", -1, "MODEL.DEVICE", device])
    assert loader_workers(cfg) == expected


def test_a_given_number_is_taken() -> None:
    assert loader_workers(tiny_config(overrides=["DATALOADER.NUM_WORKERS", 5])) == 5


def test_targets_become_segments_and_the_last_of_two_shows() -> None:
    masks = torch.zeros(2, 2, 3, dtype=torch.bool)
    masks[0, :, :2] = True
    masks[1, 0, 1:] = True
    ids, segments = target_segments({"labels": torch.tensor([4, 9]), "masks": masks})
    assert ids.tolist() == [[1, 2, 2], [1, 1, 0]]
    assert segments == [{"id": 1, "category_id": 4}, {"id": 2, "category_id": 9}]


def test_targets_and_predictions_stand_side_by_side() -> None:
    model = tiny_model("cmpf_tiny")
    before = {name: value.clone() for name, value in model.trained_state_dict().items()}
    draw = image_drawer(model, count=2)
    batch = [training_sample(64, 96, seed=i, targets=i) for i in range(3)]
    images = draw(batch)
    assert list(images) == ["training/image_0", "training/image_1"]
    for image in images.values():
        assert image.dtype == np.uint8
        height, width, _ = image.shape
        assert width / height == pytest.approx(3, rel=0.01)  # two images of 64 x 96, enlarged
    # The first image has no target: its left half is the image itself, not the same as with a segment on it.
    halves = [np.hsplit(image, 2)[0] for image in images.values()]
    assert not np.array_equal(halves[0], halves[1])
    assert all(torch.equal(before[name], value) for name, value in model.trained_state_dict().items())
