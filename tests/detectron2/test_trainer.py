# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.detectron2_host import SMALL, host_config, needs
from helpers.tiny_model import tiny_config

import cmpf
from cmpf import factory
from cmpf.engine.optimizer import build_optimizer
from cmpf.engine.schedule import build_schedule
from cmpf.engine.seeding import seed_everything
from cmpf.errors import TrainingError
from cmpf.evaluation import Results

d2 = needs("cmpf.detectron2")
hooks = needs("detectron2.engine.hooks")
STEPS = 4
SHORT = (
    *("SOLVER.MAX_ITER", STEPS, "SOLVER.WARMUP_ITERS", 2, "SOLVER.CHECKPOINT_PERIOD", 2),
    *("MODEL.MASK_FORMER.DEC_LAYERS", 5, "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 5),
)


def trained(folder: Path, *overrides: object, resume: bool = False, steps: int = STEPS) -> Any:
    """A trainer of Detectron2 after some iterations."""
    seed_everything(5)
    trainer = d2.Trainer(host_config([*SHORT, "OUTPUT_DIR", str(folder), *overrides]))
    trainer.resume_or_load(resume=resume)
    trainer.max_iter = steps
    trainer.train()
    return trainer


def by_hand() -> dict[str, torch.Tensor]:
    """The same training in a loop of a few lines: the weights that it ends with."""
    cfg = tiny_config("fcclip_tiny", [*SMALL, *SHORT])
    seed_everything(5)
    model = factory.build_model(cfg)
    solver = cfg.SOLVER
    optimizer = build_optimizer(
        model, lr=solver.BASE_LR, weight_decay=0.05, weight_decay_norm=0.0, weight_decay_embed=0.0
    )
    schedule = build_schedule(
        "WarmupCosineLR", optimizer, max_iter=STEPS, steps=(), gamma=0.1, warmup_iters=2, warmup_factor=0.05
    )
    # In the engines' order; in another one the norm differs in its last bit.
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    batches = iter(factory.build_train_loader(cfg))
    for _ in range(STEPS):
        losses = model.losses(next(batches))
        optimizer.zero_grad()
        sum(losses.values()).backward()  # type: ignore[union-attr]
        torch.nn.utils.clip_grad_norm_(parameters, 0.1)
        optimizer.step()
        schedule.step()
    return model.trained_state_dict()


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def test_default_trainer_trains_shapeworld_to_the_weights_of_a_loop_by_hand(
    shapeworld: Path, tmp_path: Path
) -> None:
    trainer = trained(tmp_path, "DATASETS.TEST", ())
    expected = by_hand()
    found = trainer.model.state_dict()
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    assert (tmp_path / "model_final.pth").is_file()


def test_it_evaluates_with_our_evaluators_and_keeps_the_best(shapeworld: Path, tmp_path: Path) -> None:
    trainer = trained(tmp_path, "MODEL.MASK_FORMER.TEST.MASK_RECALL", False, "LOG.PERIOD", 2)
    results: Results = trainer._last_eval_results
    assert results.keys() == {"panoptic", "segm", "bbox", "sem_seg"}
    assert 0 <= results["panoptic"]["PQ"] <= 100
    assert "U_PQ" in results["panoptic"]
    best = torch.load(tmp_path / "model_best.pth")
    assert best["model"].keys() == trainer.model.state_dict().keys()
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"  # from there a training goes on
    written = {key: value for line in metrics(tmp_path) for key, value in line.items()}
    assert written["shapes_val/panoptic/PQ"] == pytest.approx(results["panoptic"]["PQ"])
    # The form of the other loop's, and the iterations of LOG.PERIOD 2.
    expected = {
        "iteration",
        "total_loss",
        "loss_ce",
        "loss_ce_0",
        "loss_dice_1",
        "lr",
        "grad_norm",
        "data_time",
    }
    expected |= {"time", "eta_seconds", "max_mem_mb"}
    assert expected <= written.keys()
    assert [line["iteration"] for line in metrics(tmp_path) if "lr" in line] == [2, 4]
    assert {task: values.keys() for task, values in json.loads((tmp_path / "results.json").read_text())[
        "shapes_val"
    ].items()} == {task: values.keys() for task, values in results.items()}  # fmt: skip


def test_the_folder_of_a_run_is_a_model_like_any_other(shapeworld: Path, tmp_path: Path) -> None:
    trainer = trained(tmp_path, "DATASETS.TEST", ())
    seed_everything(5)  # of the encoders, which no checkpoint holds
    model = cmpf.load(str(tmp_path), device="cpu").model
    assert {name: torch.equal(value, trainer.model.state_dict()[name]) for name, value in
            model.trained_state_dict().items()} == dict.fromkeys(trainer.model.state_dict(), True)  # fmt: skip
    cfg = tiny_config("fcclip_tiny", [*SMALL, *SHORT, "OUTPUT_DIR", str(tmp_path), "DATASETS.TEST", ()])
    native = factory.build_trainer(cfg, factory.build_model(cfg), writers=[])
    for begin in (native.resume, native.train):
        with pytest.raises(TrainingError, match=r"Detectron2's loop \(model_final\.pth\).*--engine detec"):
            begin()


def test_other_settings_of_a_resumed_training_are_said(
    shapeworld: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained(tmp_path, "DATASETS.TEST", (), steps=2)
    assert "other settings" not in caplog.text
    trained(tmp_path, "DATASETS.TEST", (), "SOLVER.IMS_PER_BATCH", 1, resume=True, steps=2)
    assert "resumed with different settings: SOLVER.IMS_PER_BATCH 2 -> 1" in caplog.text


def test_a_stopped_training_goes_on_where_it_was(shapeworld: Path, tmp_path: Path) -> None:
    first = trained(tmp_path, "DATASETS.TEST", (), steps=2)
    second = trained(tmp_path, "DATASETS.TEST", (), resume=True)
    assert (first.start_iter, second.start_iter) == (0, 2)
    # Four batches of two: the second run took the third and fourth, not the first and second again.
    assert second.data_loader.state_dict()["position"] == 8
    assert second.scheduler.state_dict()["iteration"] == 4


def test_training_starts_from_weights_that_the_configuration_names(shapeworld: Path, tmp_path: Path) -> None:
    before = trained(tmp_path / "a", "DATASETS.TEST", ()).model.state_dict()
    trainer = d2.Trainer(
        host_config(
            [*SHORT, "MODEL.WEIGHTS", str(tmp_path / "a" / "model_final.pth"), "OUTPUT_DIR", str(tmp_path)]
        )
    )
    trainer.resume_or_load(resume=False)
    assert all(torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())
    assert trainer.start_iter == 0


def test_only_so_many_checkpoints_are_kept(shapeworld: Path, tmp_path: Path) -> None:
    trained(tmp_path, "DATASETS.TEST", (), "SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.CHECKPOINTS_KEPT", 2)
    # The newest two, and the one that Detectron2 writes at the end in any case.
    numbered = sorted(path.name for path in tmp_path.glob("model_*.pth"))
    assert numbered == ["model_0000002.pth", "model_0000003.pth", "model_final.pth"]


def test_mixed_precision_is_left_out_on_a_cpu(shapeworld: Path, tmp_path: Path) -> None:
    cfg = host_config([*SHORT, "SOLVER.AMP.ENABLED", True, "OUTPUT_DIR", str(tmp_path)])
    trainer = d2.Trainer(cfg)
    assert not trainer.cfg.SOLVER.AMP.ENABLED
    assert cfg.SOLVER.AMP.ENABLED
    assert not hasattr(trainer._trainer, "grad_scaler")


def test_gradients_are_not_clipped_where_the_configuration_says_so(shapeworld: Path) -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    for enabled, expected in ((True, 0.1), (False, 100.0)):
        optimizer = d2.Trainer.build_optimizer(host_config(["SOLVER.CLIP_GRADIENTS.ENABLED", enabled]), layer)
        layer.weight.grad = torch.full((1, 1), 100.0)
        optimizer.step()
        assert layer.weight.grad.item() == pytest.approx(expected)  # CLIP_VALUE of the shapes configs is 0.1


def test_the_learning_rate_is_scaled_with_the_batch_where_asked_for(shapeworld: Path) -> None:
    cfg = host_config(["SOLVER.REFERENCE_BATCH_SIZE", 8])
    optimizer = d2.Trainer.build_optimizer(cfg, torch.nn.Linear(1, 1))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * 2 / 8)  # batch of 2


def test_of_several_datasets_results_come_by_name(shapeworld: Path, tmp_path: Path) -> None:
    cfg = host_config([*SHORT, "DATASETS.TEST", ("shapes_val", "shapes_train"), "OUTPUT_DIR", str(tmp_path)])
    trainer = d2.Trainer(cfg)
    best = next(hook for hook in trainer._hooks if isinstance(hook, hooks.BestCheckpointer))
    assert best._val_metric == "shapes_val/panoptic/PQ"
    results = d2.Trainer.test(cfg, trainer.model)
    assert results.keys() == {"shapes_val", "shapes_train"}
