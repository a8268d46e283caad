# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""MODEL.CMPF.PRECISION auto on a CPU: where bfloat16 is taken, and where its trial sends an encoder back to float32."""

from __future__ import annotations

import logging

import pytest
import torch
from helpers.tiny_model import random_image, tiny_config

from cmpf.config import get_cfg
from cmpf.encoders.clip import CLIP
from cmpf.encoders.clip_factory import build_clip
from cmpf.encoders.frozen import bfloat16_is_fast
from cmpf.encoders.sam import build_sam
from cmpf.factory import build_model, encoders
from cmpf.factory.encoders import MOST_DIFFERENCE, build_precision


@pytest.mark.parametrize(
    ("config", "wanted", "fast", "expected"),
    [
        ("coco/cmpf/convnext_large_eval_coco", "auto", True, torch.bfloat16),
        ("coco/cmpf/convnext_large_eval_coco", "auto", False, None),
        ("coco/cmpf/convnext_large_eval_coco", "fp32", True, torch.float32),
        ("shapes/cmpf_tiny", "auto", True, None),
        ("shapes/cmpf_tiny", "bf16", False, torch.bfloat16),
    ],
)
def test_auto_is_bf16_on_a_cpu_that_is_fast_in_it_but_for_tiny_encoders(
    config: str, wanted: str, fast: bool, expected: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "bfloat16_is_fast", lambda: fast)
    cfg = get_cfg(config, ["MODEL.DEVICE", "cpu", "MODEL.CMPF.PRECISION", wanted])
    assert build_precision(cfg) is expected


def test_a_processor_or_a_pytorch_without_bf16_products_is_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def found(avx512: bool, amx: bool) -> bool:
        bfloat16_is_fast.cache_clear()
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
        return bfloat16_is_fast()

    assert not found(False, False)
    assert found(False, True) == found(True, False) == torch.ops.mkldnn._is_mkldnn_bf16_supported()
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    bfloat16_is_fast.cache_clear()
    assert not bfloat16_is_fast()
    bfloat16_is_fast.cache_clear()


def test_features_of_the_shipped_encoders_in_bf16_are_within_what_is_allowed() -> None:
    for part in (
        build_clip(name="cmpf_tiny", pretrained=""),
        build_sam(name="cmpf_tiny", checkpoint=""),
        build_sam(name="vit_t", checkpoint="random"),
    ):
        assert 1e-4 < part.difference_in(torch.bfloat16) < MOST_DIFFERENCE


def test_features_that_are_no_numbers_differ_infinitely() -> None:
    sam = build_sam(name="cmpf_tiny", checkpoint="")
    sam.sam.image_encoder.neck[0].weight.fill_(torch.nan)
    assert sam.difference_in(torch.bfloat16) == float("inf")


def test_an_encoder_that_bf16_spoils_goes_back_to_float32_with_a_warning_and_the_other_one_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(encoders, "build_precision", lambda cfg: torch.bfloat16)
    monkeypatch.setattr(CLIP, "difference_in", lambda self, dtype: 0.5)
    with caplog.at_level(logging.INFO, logger="cmpf"):
        model = build_model(tiny_config())
    found, _, _ = model.encoders([{"image": random_image()}], with_sam=True)
    for part in (model.encoders.clip, model.encoders.sam):
        part.compute_in(torch.float32)
    exact, _, _ = model.encoders([{"image": random_image()}], with_sam=True)
    assert torch.equal(found.clip.dense, exact.clip.dense)
    assert not torch.equal(found.sam, exact.sam)
    told = [record.getMessage() for record in caplog.records if "float32" in record.getMessage()]
    assert told[0] == (
        "clip/cmpf_tiny: float32, because features in bfloat16 differ by 50 % of the largest number; at most 3 % "
        "is allowed"
    )
    assert told[1].startswith("sam/cmpf_tiny: bfloat16; features differ by 0.")
