# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The embedded tiny encoders, in one place: architectures, tokenizer, weights."""

from __future__ import annotations

from cmpf.encoders.tiny_clip import (
    CLIP_NAME,
    CLIP_WEIGHTS,
    build_tiny_clip_model,
    load_tiny_clip,
    register_tiny_clip,
    tiny_tokenizer,
)
from cmpf.encoders.tiny_sam import SAM_NAME, SAM_WEIGHTS, build_tiny_sam, load_tiny_sam
from cmpf.weights.assets import ASSETS, expected_hash

__all__ = [
    "ASSETS",
    "CLIP_NAME",
    "CLIP_WEIGHTS",
    "SAM_NAME",
    "SAM_WEIGHTS",
    "build_tiny_clip_model",
    "build_tiny_sam",
    "expected_hash",
    "load_tiny_clip",
    "load_tiny_sam",
    "register_tiny_clip",
    "tiny_tokenizer",
]
