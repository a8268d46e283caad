# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Every key of the configuration is set by some test, and keys of optional parts reach them."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from helpers.tiny_model import tiny_config, tiny_model

from cmpf.cli.experiment_run import _writers
from cmpf.config.keys import KEYS
from cmpf.config.loading import resolve
from cmpf.engine.writers import TensorBoardWriter
from cmpf.factory import build_criterion
from cmpf.factory.encoders import build_encoders
from cmpf.factory.model import build_naming
from cmpf.factory.training import build_configured_optimizer

ROOT = Path(__file__).resolve().parent.parent.parent


def test_every_key_is_set_in_a_test_or_in_a_configuration_that_tests_run() -> None:
    """By its last part, because tests share the section of several keys."""
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    written = set(re.findall(r"[A-Z0-9_]+", tests))
    set_by_files = {key for path in (ROOT / "configs/shapes").glob("*.yaml") for key in resolve(path).origins}
    assert [key for key in KEYS if key not in set_by_files and key.rpartition(".")[2] not in written] == []


def test_the_keys_of_the_mask_adapter_reach_it_and_its_losses() -> None:
    own = {"class_weight": 3.0, "consistency_weight": 4.0, "detach_truth": False, "mixed": True}
    keys = {
        "MODEL.CMPF.MASK_ADAPTER.CLASS_WEIGHT": 3.0,
        "MODEL.CMPF.MASK_ADAPTER.CONSISTENCY_WEIGHT": 4.0,
        "MODEL.CMPF.MASK_ADAPTER.DETACH_TRUTH": False,
        "MODEL.CMPF.MASK_ADAPTER.TRAINING": "mixed",
        "MODEL.CMPF.MASK_ADAPTER.MASK_THRESHOLD": 0.3,
    }
    cfg = tiny_config("mask_adapter_tiny", [part for pair in keys.items() for part in pair])
    criterion = build_criterion(cfg, 4)
    assert {name: getattr(criterion, name) for name in own} == own
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


def test_the_learning_rate_of_clip_is_a_factor_of_the_decoders() -> None:
    overrides = ["SOLVER.BASE_LR", 1.0, "MODEL.CMPF.CLIP.LR_FACTOR", 0.5]
    model = tiny_model("ovrcoat_tiny", overrides)
    optimizer = build_configured_optimizer(tiny_config("ovrcoat_tiny", overrides), model)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: rates[id(p)] for name, p in model.named_parameters() if id(p) in rates}
    assert {rate for name, rate in found.items() if "clip" in name} == {0.5}
    assert {rate for name, rate in found.items() if "clip" not in name} == {1.0}


@pytest.mark.parametrize("on", [True, False])
def test_tensorboard_is_written_unless_it_is_off(on: bool, tmp_path: Path) -> None:
    cfg = tiny_config(overrides=["LOG.TENSORBOARD", on, "OUTPUT_DIR", str(tmp_path)])
    writers = _writers(cfg, logging.getLogger("test"))
    assert any(isinstance(writer, TensorBoardWriter) for writer in writers) is on
    for writer in writers:
        writer.close()
