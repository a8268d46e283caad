# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.detectron2_host import SMALL, needs
from helpers.tiny_model import tiny_config

from cmpf import factory
from cmpf.config import Config, get_cfg, with_overrides
from cmpf.errors import TrainingError
from cmpf.evaluation import Results

d2 = needs("cmpf.detectron2")
OWN = Path(__file__).resolve().parents[1] / "data" / "own_dataset" / "fruit_val.yaml"
ASSETS = Path(factory.__file__).parent.parent / "assets"
SHORT = (
    *("SOLVER.MAX_ITER", 2, "SOLVER.WARMUP_ITERS", 1),
    *("MODEL.MASK_FORMER.DEC_LAYERS", 5, "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 5),
)


def small_config(folder: Path, *overrides: object) -> Config:
    return tiny_config("fcclip_tiny", [*SMALL, *SHORT, "OUTPUT_DIR", str(folder), *overrides])


def same(ours: Results | None, theirs: Results | None) -> int:
    """Compares every metric; how many there were."""
    assert ours is not None
    assert theirs is not None
    assert ours.keys() == theirs.keys()
    count = 0
    for dataset, tasks in ours.items():
        for task, metrics in tasks.items():
            for name, value in metrics.items():
                assert theirs[dataset][task][name] == pytest.approx(value, abs=1e-9, nan_ok=True), name
                count += 1
    return count


def test_the_shipped_weights_evaluate_as_in_the_native_engine(shapeworld: Path, tmp_path: Path) -> None:
    weights = ("MODEL.WEIGHTS", str(ASSETS / "cmpf_tiny_decoder.safetensors"))
    overrides = (*weights, "MODEL.DEVICE", "cpu", "NUM_THREADS", 1, "OUTPUT_DIR", str(tmp_path))
    cfg = get_cfg("cmpf_tiny", overrides)
    native = factory.build_evaluation(cfg, factory.build_model(cfg))()
    theirs = d2.run(cfg, resume=False, eval_only=True)
    assert native["shapes_val"]["panoptic"]["PQ"] > 5
    assert same(native, theirs) > 100


def test_augmented_semantic_results_are_those_of_the_native_engine(shapeworld: Path, tmp_path: Path) -> None:
    tasks = [f"MODEL.MASK_FORMER.TEST.{key}" for key in ("PANOPTIC_ON", "INSTANCE_ON", "MASK_RECALL")]
    overrides = [part for key in tasks for part in (key, False)]
    overrides += ["TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (64, 96), "OUTPUT_DIR", str(tmp_path)]
    overrides += ["MODEL.WEIGHTS", str(ASSETS / "cmpf_tiny_decoder.safetensors"), "MODEL.DEVICE", "cpu"]
    cfg = get_cfg("no_ensemble", overrides)
    native = factory.build_evaluation(cfg, factory.build_model(cfg))()
    plain = with_overrides(cfg, {"TEST.AUG.ENABLED": False})
    assert native["shapes_val"]["sem_seg"]["mIoU"] > 5
    assert native != factory.build_evaluation(plain, factory.build_model(plain))()
    assert same(native, d2.run(cfg, resume=False, eval_only=True)) > 20


def test_other_results_than_the_expected_ones_are_left_to_the_command(
    shapeworld: Path, tmp_path: Path
) -> None:
    cfg = small_config(tmp_path, "TEST.EXPECTED_RESULTS", [("panoptic", "PQ", 100, 0)])
    assert d2.run(cfg, resume=False, eval_only=False) is not None
    assert (tmp_path / "results.json").is_file()


def test_a_dataset_of_ones_own_is_trained_on_and_evaluated(tmp_path: Path) -> None:
    datasets = ("DATASETS.TRAIN", [f"file:{OWN}"], "DATASETS.TEST", [f"file:{OWN}"])
    results = d2.run(small_config(tmp_path / "run", *datasets), resume=False, eval_only=False)
    assert results is not None
    assert results.keys() == {"fruit_val"}
    assert "PQ" in results["fruit_val"]["panoptic"]


def test_a_run_leaves_weights_that_give_its_results_in_both_engines(shapeworld: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)  # of the encoders, which no checkpoint holds
    results = d2.run(small_config(tmp_path), resume=False, eval_only=False)
    cfg = small_config(tmp_path, "MODEL.WEIGHTS", str(tmp_path / "model_final.pth"))
    torch.manual_seed(0)
    same(results, d2.run(cfg, resume=False, eval_only=True))
    torch.manual_seed(0)
    same(results, factory.build_evaluation(cfg, factory.build_model(cfg))())


def test_a_second_run_in_the_same_folder_must_say_resume(shapeworld: Path, tmp_path: Path) -> None:
    without = ("DATASETS.TEST", ())
    assert d2.run(small_config(tmp_path, *without), resume=False, eval_only=False) is None
    with pytest.raises(
        TrainingError, match=r"holds checkpoints of an earlier run\. Go on with it by --resume"
    ):
        d2.run(small_config(tmp_path, *without), resume=False, eval_only=False)
    longer = ("SOLVER.MAX_ITER", 3)
    d2.run(small_config(tmp_path, *without, *longer), resume=True, eval_only=False)
    assert torch.load(tmp_path / "model_final.pth")["iteration"] == 2  # the third, counted from 0


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("SOLVER.ACCUMULATION_STEPS", 2), "SOLVER.ACCUMULATION_STEPS 2"),
        (("SOLVER.EMA.ENABLED", True), "SOLVER.EMA.ENABLED"),
    ],
)
def test_what_detectron2s_loop_lacks_is_an_obstacle_to_training(
    tmp_path: Path, overrides: tuple[object, ...], expected: str
) -> None:
    cfg = small_config(tmp_path, *overrides)
    assert d2.obstacle(cfg).startswith(expected)
    assert d2.obstacle(cfg, eval_only=True) == ""
    with pytest.raises(TrainingError, match=r"Detectron2's loop.*; use --engine native"):
        d2.run(cfg, resume=False, eval_only=False)


def test_checkpoints_of_the_native_engine_are_an_obstacle(tmp_path: Path) -> None:
    cfg = small_config(tmp_path)
    assert d2.obstacle(cfg) == ""
    (tmp_path / "last_checkpoint").write_text("model_0000100.safetensors")
    assert d2.obstacle(cfg) == f"{tmp_path} holds checkpoints of the native engine"
    (tmp_path / "last_checkpoint").write_text("model_0000099.pth")
    assert d2.obstacle(cfg) == ""
