# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""MODEL.CMPF.PRECISION on a CPU: when bfloat16 is taken, and when its trial sends an encoder back to float32."""

from __future__ import annotations

import logging

import pytest
import torch
from helpers.tiny_model import random_image, tiny_config

from cmpf.config import get_cfg
from cmpf.encoders.clip import CLIP
from cmpf.encoders.clip_factory import build_clip
from cmpf.encoders.sam import build_sam
from cmpf.factory import build_model
from cmpf.factory.encoders import MOST_DIFFERENCE, build_precision


@pytest.mark.parametrize(
    ("wanted", "expected"), [("auto", None), ("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_a_cpu_computes_in_bf16_only_where_that_is_asked_for(
    wanted: str, expected: torch.dtype | None
) -> None:
    cfg = get_cfg(
        "coco/cmpf/convnext_large_eval_coco", ["MODEL.DEVICE", "cpu", "MODEL.CMPF.PRECISION", wanted]
    )
    assert build_precision(cfg) is expected


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
    monkeypatch.setattr(CLIP, "difference_in", lambda self, dtype: 0.5)
    with caplog.at_level(logging.INFO, logger="cmpf"):
        model = build_model(tiny_config(overrides=["MODEL.CMPF.PRECISION", "bf16"]))
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
    assert told[1].startswith("sam/cmpf_tiny: bfloat16; features differ by ")
