# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Tags of OpenCLIP and the activation of their weights."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from helpers.open_clip_models import (
    RESNET_CONFIG,
    activation,
    new_model,
    register_convnext,
    register_resnet,
)
from open_clip import pretrained
from open_clip.transformer import QuickGELU
from safetensors.torch import save_file

from cmpf.encoders.clip_factory import build_clip, clip_names, source_of, tag_record, variant_for
from cmpf.errors import WeightsError


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    return register_convnext(monkeypatch, tmp_path)


@pytest.fixture
def small_resnet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    return register_resnet(monkeypatch, tmp_path)


@pytest.mark.parametrize("name", ["RN50", "RN101", "RN50x4", "RN50x16", "RN50x64"])
def test_openai_weights_select_the_quickgeluvariant_for(name: str) -> None:
    assert variant_for(name, "openai") == f"{name}-quickgelu"
    assert variant_for(f"{name}-quickgelu", "openai") == f"{name}-quickgelu"
    assert variant_for(name, "") == name
    assert open_clip.get_model_config(f"{name}-quickgelu")["quick_gelu"] is True


def test_other_tags_leave_the_name_alone() -> None:
    assert variant_for("convnext_large_d_320", "laion2b_s29b_b131k_ft_soup") == "convnext_large_d_320"


def test_the_variant_has_the_tags_of_the_plain_name_and_a_safe_file() -> None:
    record = tag_record("RN50x64-quickgelu", "openai")
    assert record == tag_record("RN50x64", "openai")
    assert source_of(record) == (
        "https://huggingface.co/timm/resnet50x64_clip.openai/resolve/main/open_clip_model.safetensors"
    )
    assert source_of(tag_record("RN50x64", "no such tag")) == ""
    assert source_of(tag_record("RN50x64", "")) == ""


def test_quickgelu_of_the_variant_is_x_times_sigmoid_of_1_702_x(small_resnet: str, tmp_path: Path) -> None:
    save_file(new_model(RESNET_CONFIG).state_dict(), tmp_path / "published.safetensors")
    texts = {}
    for name in (small_resnet, f"{small_resnet}-quickgelu"):
        clip = build_clip(name=name, pretrained=str(tmp_path / "published.safetensors"))
        gelu = clip.model.transformer.resblocks[0].mlp.gelu
        x = torch.linspace(-3, 3, 7)
        expected = x * torch.sigmoid(1.702 * x) if "quick" in name else torch.nn.functional.gelu(x)
        torch.testing.assert_close(gelu(x), expected)
        texts[name] = clip.encode_text(["a cat"])
        full = clip.model.encode_text(open_clip.tokenize(["a cat"]))
        torch.testing.assert_close(texts[name], full, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(*texts.values(), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "quick", "message"),
    [
        ("RNsmall-quickgelu", False, "trained with GELU, but CLIP RNsmall-quickgelu computes QuickGELU"),
        ("convnext_small_test", True, "trained with QuickGELU, but CLIP convnext_small_test computes GELU"),
    ],
)
@pytest.mark.usefixtures("small_resnet")
def test_weights_of_another_activation_are_an_error(
    monkeypatch: pytest.MonkeyPatch, small: str, name: str, quick: bool, message: str
) -> None:
    base = name.removesuffix("-quickgelu")
    monkeypatch.setitem(pretrained._PRETRAINED, base, {"odd": {"hf_hub": "a/b/", "quick_gelu": quick}})
    with pytest.raises(WeightsError, match=rf"'odd': these weights were {message} and would give wrong"):
        build_clip(name=name, pretrained="odd")


def test_no_tag_of_a_name_that_works_has_another_activation() -> None:
    names = clip_names()
    pairs = [(name, tag) for name, tag in open_clip.list_pretrained() if name in names]
    assert len(pairs) > 20
    for name, tag in pairs:
        quick = bool(pretrained.get_pretrained_cfg(name, tag).get("quick_gelu"))
        assert variant_for(name, tag).endswith("-quickgelu") == quick


def test_a_file_is_read_as_the_name_says_with_a_warning_where_that_is_unlikely(
    tmp_path: Path, small_resnet: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "own.safetensors"
    save_file(new_model(RESNET_CONFIG).state_dict(), path)
    plain = build_clip(name=small_resnet, pretrained=str(path))
    assert activation(plain.model) is torch.nn.GELU
    assert "(openai) were trained with QuickGELU: for those name RNsmall-quickgelu" in caplog.text
    caplog.clear()
    quick = build_clip(name=f"{small_resnet}-quickgelu", pretrained=str(path))
    build_clip(name=small_resnet, pretrained="")
    assert activation(quick.model) is QuickGELU
    assert caplog.text == ""
