# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import segment_anything.modeling
import torch

from cmpf.encoders.tiny import SAM_WEIGHTS, build_tiny_sam, load_tiny_sam
from cmpf.errors import WeightsError
from cmpf.weights.assets import ASSETS


def test_it_is_segment_anythings_own_class_with_the_sizes_of_its_docstring() -> None:
    sam: Any = build_tiny_sam()
    assert type(sam) is segment_anything.modeling.Sam
    with torch.no_grad():
        embedding = sam.image_encoder(torch.zeros(1, 3, 256, 256))
        points = torch.tensor([[[128.0, 128.0]]]), torch.ones(1, 1)
        sparse, dense = sam.prompt_encoder(points=points, boxes=None, masks=None)
        masks, iou = sam.mask_decoder(
            image_embeddings=embedding,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
    assert embedding.shape == (1, 64, 16, 16)
    assert masks.shape == (1, 3, 64, 64)
    assert iou.shape == (1, 3)


def test_the_shipped_weights_fit_and_are_float32() -> None:
    sam = load_tiny_sam()
    assert not sam.training
    assert {parameter.dtype for parameter in sam.parameters()} == {torch.float32}


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    for name in ("hashes.json", SAM_WEIGHTS):
        shutil.copy(ASSETS / name, tmp_path / name)
    (tmp_path / SAM_WEIGHTS).write_bytes(b"cut short")
    with pytest.raises(WeightsError, match="damaged"):
        load_tiny_sam(folder=tmp_path)
