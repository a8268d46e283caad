# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.tiny_model import random_image, tiny_config

from cmpf.errors import ConfigError
from cmpf.factory.encoders import build_device, build_encoders, build_precision
from cmpf.inference.mask_proposals import CachedMasks
from cmpf.inference.proposal_cache import ProposalCache


def test_the_device_is_the_configured_one() -> None:
    assert build_device(tiny_config()).type == "cpu"


def test_one_sam_serves_features_and_proposals() -> None:
    encoders = build_encoders(tiny_config())
    assert encoders.mask_source.proposer is not None
    assert encoders.mask_source.proposer.encoder is encoders.sam


def test_compile_wraps_both_frozen_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, *_, **__: compiled.append(type(self).__name__)
    )
    build_encoders(tiny_config(overrides=["MODEL.CMPF.COMPILE", True]))
    assert sorted(compiled) == ["CLIP", "SAMEncoder"]


def test_encoders_compute_in_the_precision_asked_for() -> None:
    batch = [{"image": random_image()}]
    features = {}
    for precision in ("auto", "fp32", "bf16"):
        torch.manual_seed(0)
        encoders = build_encoders(tiny_config(overrides=["MODEL.CMPF.PRECISION", precision]))
        features[precision], _, _ = encoders(batch, with_sam=True)
    dense = {name: found.clip.dense.float() for name, found in features.items()}
    assert torch.equal(dense["auto"], dense["fp32"])  # on a CPU
    assert not torch.equal(dense["bf16"], dense["fp32"])
    # Eight bits of mantissa: one rounding is up to 1 / 256 of a number, and there are some dozen layers.
    torch.testing.assert_close(
        dense["bf16"], dense["fp32"], atol=0.05 * float(dense["fp32"].abs().max()), rtol=0
    )
    assert features["bf16"].sam.dtype is torch.float32


def test_fp32_stays_float32_inside_the_autocast_of_a_training() -> None:
    batch = [{"image": random_image()}]
    encoders = build_encoders(tiny_config(overrides=["MODEL.CMPF.PRECISION", "fp32"]))
    alone, _, _ = encoders(batch, with_sam=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, _, _ = encoders(batch, with_sam=True)
    assert torch.equal(alone.clip.dense, inside.clip.dense)
    assert torch.equal(alone.sam, inside.sam)


@pytest.mark.parametrize(
    ("wanted", "has_bf16", "expected"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, None),
        ("fp32", True, torch.float32),
        ("bf16", True, torch.bfloat16),
    ],
)
def test_on_a_gpu_auto_is_bf16_where_the_gpu_has_it(
    wanted: str, has_bf16: bool, expected: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has_bf16)
    cfg = tiny_config(overrides=["MODEL.CMPF.PRECISION", wanted, "MODEL.DEVICE", "cuda"])
    assert build_precision(cfg) is expected


def test_bf16_on_a_gpu_without_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Old Card")
    cfg = tiny_config(overrides=["MODEL.CMPF.PRECISION", "bf16", "MODEL.DEVICE", "cuda"])
    with pytest.raises(ConfigError, match="PRECISION bf16: Old Card has no bfloat16; use auto or fp32"):
        build_precision(cfg)


def cached(*overrides: object, name: str = "cmpf_tiny") -> ProposalCache:
    """The cache that a config reads."""
    given = ["TEST.ENSEMBLE.SOURCE", "cache", "TEST.ENSEMBLE.CACHE_DIR", "masks", *overrides]
    source = build_encoders(tiny_config(name, given)).mask_source
    assert isinstance(source, CachedMasks)
    return source.cache


def test_cached_masks_need_no_weights_of_the_mask_sam() -> None:
    cache = cached("TEST.ENSEMBLE.SAM_NAME", "vit_h", "TEST.ENSEMBLE.SAM_CHECKPOINT", "")
    assert cache.settings["TEST.ENSEMBLE.SAM_NAME"] == "vit_h"
    assert cache.settings["SAM weights"] is None


def test_cached_masks_must_be_of_the_sam_that_makes_the_features() -> None:
    torch.manual_seed(0)
    random = cached().settings["SAM weights"]
    shipped = cached("MODEL.CMPF.SAM.CHECKPOINT", "", "TEST.ENSEMBLE.SAM_CHECKPOINT", "").settings[
        "SAM weights"
    ]
    assert len(random) == len(shipped) == 64  # SHA-256
    assert random != shipped


def test_every_setting_of_the_masks_is_checked_and_the_command_names_the_datasets() -> None:
    plain = cached()
    assert plain.folder == Path("masks")
    assert "--dataset shapes_val --output masks" in plain.command
    for key, value in {
        **{"POINTS_PER_SIDE": 5, "PRED_IOU_THRESH": 0.1, "STABILITY_THRESH": 0.1, "NMS_THRESH": 0.1},
        **{"MIN_AREA": 7, "MAX_MASKS": 7},
    }.items():
        changed = cached(f"TEST.ENSEMBLE.{key}", value).settings
        assert changed[f"TEST.ENSEMBLE.{key}"] == value != plain.settings[f"TEST.ENSEMBLE.{key}"]
    assert (
        cached("MODEL.MASK_FORMER.SIZE_DIVISIBILITY", 64).settings["MODEL.MASK_FORMER.SIZE_DIVISIBILITY"]
        == 64
    )


def test_without_the_ensemble_there_is_no_source_of_masks() -> None:
    assert build_encoders(tiny_config("no_ensemble")).mask_source is None
