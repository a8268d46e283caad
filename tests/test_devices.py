# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Devices other than CPU and CUDA (mps, xpu), as far as a machine without one can tell.

The meta device stands for them. It computes sizes only, so that code which asks for numbers, names CUDA or leaves a
tensor on the CPU ends in an error.
"""

from __future__ import annotations

import pytest
import torch
from helpers.tiny_model import random_image, tiny_config, tiny_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cmpf.common import tensors
from cmpf.config import get_cfg
from cmpf.errors import ConfigError
from cmpf.factory import build_model
from cmpf.inference.panoptic import panoptic_inference
from cmpf.types import ClassEmbeddings

META = torch.device("meta")


class _Seen(TorchDispatchMode):
    """Types of everything that is computed on the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):  # type: ignore[no-untyped-def]
        found = function(*arguments, **(keywords or {}))
        self.types |= {x.dtype for x in tree_leaves(found) if isinstance(x, Tensor) and x.is_meta}
        return found


@pytest.mark.parametrize("wanted", ["no_ensemble", "cmpf_tiny"])
def test_the_network_runs_on_a_device_that_knows_neither_cuda_nor_float64(wanted: str) -> None:
    model = tiny_model(wanted).eval()
    words = model.class_embeddings(model.train_vocabulary)
    model.to(META)
    classes = ClassEmbeddings(words.matrix.to(META), words.class_of_row.to(META), words.num_classes)
    seen = _Seen()
    with torch.no_grad(), seen:
        features, _, _ = model.encoders([{"image": random_image()}] * 2, with_sam=model.uses_sam)
        outputs = model.decode(features, classes)
        logits, valid = model.naming(model.encoders.clip, features.clip.dense, outputs["pred_masks"], classes)
    assert {x.device for x in (outputs["pred_logits"], outputs["pred_masks"], logits, valid)} == {META}
    assert torch.float32 in seen.types
    assert torch.float64 not in seen.types


def test_results_are_the_same_where_the_device_has_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    mask_cls = torch.randn(6, 4, generator=generator).log_softmax(-1)
    masks = torch.randn(6, 8, 8, generator=generator)
    is_thing = torch.tensor([True, False, True])

    def results() -> tuple[object, ...]:
        ids, segments = panoptic_inference(
            mask_cls, masks, is_thing=is_thing, object_mask_threshold=0.1, overlap_threshold=0.1
        )
        return ids.tolist(), segments

    expected = results()
    monkeypatch.setattr(tensors, "WITHOUT_FLOAT64", ("cpu",))
    assert results() == expected


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("xpu:1", r"MODEL.DEVICE xpu:1: PyTorch .* sees no xpu device here; use auto or cpu"),
        ("mps", "sees no mps device here"),
        ("cuda", "sees no cuda device here"),
    ],
)
def test_a_device_that_is_not_here_is_refused_before_anything_is_built(
    device: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for backend in (torch.cuda, torch.xpu, torch.backends.mps):
        monkeypatch.setattr(backend, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=message):
        build_model(tiny_config(overrides=["MODEL.DEVICE", device]))


def test_a_number_beyond_the_devices_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
    monkeypatch.setattr(torch.xpu, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"MODEL.DEVICE xpu:2: there are 2 here, xpu:0 is the first"):
        build_model(get_cfg("shapes/cmpf_tiny", ["MODEL.DEVICE", "xpu:2"]))
