# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import pytest
from helpers.tiny_model import tiny_config, tiny_model

from cmpf.build import build_evaluation, build_test_loader
from cmpf.build.evaluation import build_evaluators
from cmpf.data import get_dataset
from cmpf.data.shapeworld.writer import WorldSpec, write_dataset
from cmpf.errors import DatasetError


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ShapeWorld of three validation pictures."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_dataset(tmp_path / "shapeworld", WorldSpec(train=1, val=3), progress=False)
    return tmp_path


def test_every_task_of_shapeworld_is_evaluated_and_the_mode_restored(shapes: Path) -> None:
    cfg = tiny_config(overrides=["DATALOADER.NUM_WORKERS", 0])
    model = tiny_model().train()
    results = build_evaluation(cfg, model)()
    assert sorted(results["shapes_val"]) == ["bbox", "mask_recall", "panoptic", "segm", "sem_seg"]
    for name in ("PQ", "S_PQ", "U_PQ"):
        assert 0 <= results["shapes_val"]["panoptic"][name] <= 100
    assert model.training
    assert not model.encoders.clip.training


def test_only_the_tasks_that_are_on_are_evaluated(shapes: Path) -> None:
    off = ["MODEL.MASK_FORMER.TEST.PANOPTIC_ON", False, "MODEL.MASK_FORMER.TEST.INSTANCE_ON", False,
           "MODEL.MASK_FORMER.TEST.MASK_RECALL", False]  # fmt: skip
    cfg = tiny_config(overrides=off)
    evaluators = build_evaluators(cfg, tiny_model(), get_dataset("shapes_val"))
    assert [type(evaluator).__name__ for evaluator in evaluators] == ["SemanticEvaluator"]


def test_test_pictures_have_the_configured_size_and_batch(shapes: Path) -> None:
    cfg = tiny_config(
        overrides=["DATALOADER.NUM_WORKERS", 0, "TEST.IMS_PER_BATCH", 2, "INPUT.MIN_SIZE_TEST", 96]
    )
    batches = list(build_test_loader(cfg, get_dataset("shapes_val")))
    assert [len(batch) for batch in batches] == [2, 1]
    assert batches[0][0]["image"].shape == (3, 96, 96)
    assert (batches[0][0]["height"], batches[0][0]["width"]) == (128, 128)


def test_a_missing_dataset_is_found_out_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(DatasetError, match="shapes_val: not on disk"):
        build_evaluation(tiny_config(), tiny_model())
