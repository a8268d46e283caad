# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Every key of the configuration is used by some test, and those that are passed on in groups reach the right part."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_model import tiny_config, tiny_model

from cmpf.cli.experiment import _writers
from cmpf.config import Config
from cmpf.config.keys import KEYS
from cmpf.config.loading import resolve
from cmpf.engine.writers import TensorBoardWriter
from cmpf.factory import build_criterion, build_settings
from cmpf.factory.encoders import build_encoders, build_online_masks
from cmpf.factory.model import build_naming
from cmpf.factory.training import build_configured_optimizer, build_configured_schedule

ROOT = Path(__file__).resolve().parent.parent.parent


def test_every_key_is_set_in_a_test_or_in_a_configuration_that_tests_run() -> None:
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    written = set(re.findall(r"[A-Z0-9_]+(?:\.[A-Z0-9_]+)*", tests))
    for path in (ROOT / "configs/shapes").glob("*.yaml"):
        written |= set(resolve(path).origins)
    assert sorted(set(KEYS) - written) == []


def values_of(part: Any, names: dict[str, Any]) -> dict[str, Any]:
    return {name: getattr(part, name) for name in names}


def configured(keys: dict[str, Any], name: str = "cmpf_tiny") -> Config:
    return tiny_config(name, [part for pair in keys.items() for part in pair])


def test_the_keys_of_the_losses_reach_the_criterion_and_the_matcher() -> None:
    # Distinct values, so that none can stand for another one.
    given = {
        "MODEL.MASK_FORMER.CLASS_WEIGHT": 1.0,
        "MODEL.MASK_FORMER.MASK_WEIGHT": 2.0,
        "MODEL.MASK_FORMER.DICE_WEIGHT": 3.0,
        "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": 0.4,
        "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 50,
        "MODEL.MASK_FORMER.OVERSAMPLE_RATIO": 6.0,
        "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO": 0.7,
    }
    criterion = build_criterion(configured(given), 4)
    own = {
        "weights": {"loss_ce": 1.0, "loss_mask": 2.0, "loss_dice": 3.0},
        "no_object_weight": 0.4,
        "num_points": 50,
        "oversample_ratio": 6.0,
        "importance_sample_ratio": 0.7,
    }
    assert values_of(criterion, own) == own
    matching = {"class_weight": 1.0, "mask_weight": 2.0, "dice_weight": 3.0, "num_points": 50}
    assert values_of(criterion.matcher, matching) == matching


def test_the_keys_of_the_mask_adapter_reach_it_and_its_losses() -> None:
    own = {"class_weight": 3.0, "consistency_weight": 4.0, "detach_truth": False, "mixed": True}
    keys = {
        "MODEL.CMPF.MASK_ADAPTER.CLASS_WEIGHT": 3.0,
        "MODEL.CMPF.MASK_ADAPTER.CONSISTENCY_WEIGHT": 4.0,
        "MODEL.CMPF.MASK_ADAPTER.DETACH_TRUTH": False,
        "MODEL.CMPF.MASK_ADAPTER.TRAINING": "mixed",
        "MODEL.CMPF.MASK_ADAPTER.MASK_THRESHOLD": 0.3,
    }
    cfg = configured(keys, "mask_adapter_tiny")
    assert values_of(build_criterion(cfg, 4), own) == own
    adapter = build_naming(cfg, build_encoders(cfg).clip).mask_adapter
    assert adapter is not None
    assert adapter.mask_threshold == 0.3


def test_the_keys_of_the_text_transfer_reach_it() -> None:
    cfg = tiny_config(
        "maftp_tiny",
        ["MODEL.CMPF.CONTENT_TRANSFER.HEADS", 2, "MODEL.CMPF.CONTENT_TRANSFER.PUBLISHED_LAYOUT", True],
    )
    naming = build_naming(cfg, build_encoders(cfg).clip)
    assert naming.text_transfer is not None
    assert (naming.text_transfer.attention.heads, naming.published_layout) == (2, True)


def test_the_keys_of_inference_reach_its_settings() -> None:
    keys = {
        "MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE": True,
        "TEST.ENSEMBLE.DECODER_SHARE": 0.1,
        "TEST.ENSEMBLE.MAX_OVERLAP": 0.2,
        "TEST.ENSEMBLE.PANOPTIC_OVERLAP_THRESHOLD": 0.3,
        "TEST.ENSEMBLE.SCORE_THRESHOLD": 0.4,
    }
    settings = build_settings(configured(keys))
    assert settings.resize_before
    ensemble = {"decoder_share": 0.1, "max_overlap": 0.2, "overlap_threshold": 0.3, "score_threshold": 0.4}
    assert values_of(settings.mask_ensemble, ensemble) == ensemble


def test_the_keys_of_sams_masks_reach_the_proposer() -> None:
    cfg = tiny_config(overrides=[
        "TEST.ENSEMBLE.POINTS_PER_SIDE", 5, "TEST.ENSEMBLE.COARSE_POINTS_PER_SIDE", 3,
        "TEST.ENSEMBLE.PRED_IOU_THRESH", 0.1, "TEST.ENSEMBLE.STABILITY_THRESH", 0.2,
        "TEST.ENSEMBLE.NMS_THRESH", 0.3, "TEST.ENSEMBLE.MIN_AREA", 40, "TEST.ENSEMBLE.MAX_MASKS", 6,
    ])  # fmt: skip
    own = {
        "points_per_side": 5,
        "coarse_points_per_side": 3,
        "iou_threshold": 0.1,
        "stability_threshold": 0.2,
        "nms_threshold": 0.3,
        "min_area": 40,
        "max_masks": 6,
    }
    assert values_of(build_online_masks(cfg, build_encoders(cfg).sam).proposer, own) == own


def test_the_keys_of_the_optimizer_reach_their_groups() -> None:
    overrides = ["SOLVER.BASE_LR", 1.0, "SOLVER.WEIGHT_DECAY", 0.1, "SOLVER.WEIGHT_DECAY_NORM", 0.2,
                 "SOLVER.WEIGHT_DECAY_EMBED", 0.3, "MODEL.CMPF.CLIP.LR_FACTOR", 0.5]  # fmt: skip
    model = tiny_model("ovrcoat_tiny", overrides)
    optimizer = build_configured_optimizer(tiny_config("ovrcoat_tiny", overrides), model)
    groups = {id(p): (group["lr"], group["weight_decay"])
              for group in optimizer.param_groups for p in group["params"]}  # fmt: skip
    found = {name: groups[id(p)] for name, p in model.named_parameters() if id(p) in groups}
    assert found["decoder.query_content.weight"] == (1.0, 0.3)
    assert {pair for name, pair in found.items() if name.startswith("decoder.") and "norm" in name} == {
        (1.0, 0.2)
    }
    assert found["pixel_decoder.encoder.level_embedding"] == (1.0, 0.1)
    assert {lr for name, (lr, _) in found.items() if "clip" in name} == {0.5}


def test_the_power_of_the_polynomial_schedule_is_the_configured_one() -> None:
    cfg = tiny_config(overrides=["SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR", "SOLVER.POLY_POWER", 0.5,
                                 "SOLVER.MAX_ITER", 4, "SOLVER.WARMUP_ITERS", 0])  # fmt: skip
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = build_configured_schedule(cfg, optimizer)
    for _ in range(3):
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx((1 - 3 / 4) ** 0.5)


@pytest.mark.parametrize("on", [True, False])
def test_tensorboard_is_written_unless_it_is_off(on: bool, tmp_path: Path) -> None:
    cfg = tiny_config(overrides=["LOG.TENSORBOARD", on, "OUTPUT_DIR", str(tmp_path)])
    writers = _writers(cfg, logging.getLogger("test"))
    assert any(isinstance(writer, TensorBoardWriter) for writer in writers) is on
    for writer in writers:
        writer.close()
