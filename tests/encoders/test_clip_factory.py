# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""CLIP by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from helpers.encoders import CONVNEXT, TEXT
from open_clip import factory, pretrained
from safetensors.torch import save_file

from cmpf.encoders import tiny
from cmpf.encoders.clip_factory import _variant, build_clip, check_clip_name, clip_names
from cmpf.errors import ModelNameError, WeightsError

CONFIG = {"embed_dim": 24, "vision_cfg": CONVNEXT, "text_cfg": TEXT}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A small model that OpenCLIP knows during the test."""
    (tmp_path / "convnext_small_test.json").write_text(json.dumps(CONFIG))
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    open_clip.add_model_config(tmp_path / "convnext_small_test.json")
    return "convnext_small_test"


def model_of(config: dict[str, Any]) -> Any:
    return open_clip.CLIP(**config)


def test_all_convnext_and_modified_resnet_names_work_and_nothing_else() -> None:
    names = clip_names()
    resnets = ["RN50", "RN101", "RN50x4", "RN50x16", "RN50x64"]
    for name in [*resnets, *(f"{resnet}-quickgelu" for resnet in resnets)]:
        assert name in names
    for name in open_clip.list_models():
        if name.startswith("convnext"):
            assert name in names
        elif not name.startswith(("RN", tiny.CLIP_NAME)):
            assert name not in names, name
    assert "cmpf_tiny" in names
    check_clip_name("convnext_large_d_320")


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-L-14-336", "coca_ViT-B-32", "xlm-roberta-base-ViT-B-32"])
def test_a_vit_is_refused_by_name_with_all_that_works(name: str) -> None:
    with pytest.raises(
        ModelNameError, match=rf"CLIP '{name}'.*not a ViT.*What works: .*RN50x64, .*convnext_base"
    ):
        build_clip(name=name, pretrained="")


@pytest.mark.parametrize(
    ("name", "near"),
    [("convnext_large_d_32O", "convnext_large_d_320"), ("rn50x64", "RN50x64"), ("cmpf-tiny", "cmpf_tiny")],
)
def test_an_unknown_name_gets_the_nearest_one(name: str, near: str) -> None:
    with pytest.raises(ModelNameError, match=rf"CLIP '{name}' is unknown, did you mean {near}"):
        build_clip(name=name, pretrained="")


def test_a_name_like_no_other_gets_the_whole_list() -> None:
    with pytest.raises(ModelNameError, match=r"CLIP 'zzzz' is unknown\. What works: RN101"):
        build_clip(name="zzzz", pretrained="")


@pytest.mark.parametrize("name", ["RN50", "RN101", "RN50x4", "RN50x16", "RN50x64"])
def test_openai_weights_select_the_quickgelu_variant(name: str) -> None:
    assert _variant(name, "openai") == f"{name}-quickgelu"
    assert _variant(f"{name}-quickgelu", "openai") == f"{name}-quickgelu"
    assert _variant(name, "") == name
    assert open_clip.get_model_config(f"{name}-quickgelu")["quick_gelu"] is True


def test_other_tags_leave_the_name_alone() -> None:
    assert _variant("convnext_large_d_320", "laion2b_s29b_b131k_ft_soup") == "convnext_large_d_320"


def test_random_weights_need_no_file_and_no_network(monkeypatch: pytest.MonkeyPatch, small: str) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("random weights must not be downloaded")

    monkeypatch.setattr(pretrained, "hf_hub_download", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    clip = build_clip(name=small, pretrained="")
    assert clip.name == "clip/convnext_small_test"
    assert clip.embed_dim == 24
    assert not any(parameter.requires_grad for parameter in clip.parameters())
    assert clip.encode_text(["a cat"]).shape == (1, 24)


@pytest.mark.parametrize("name", ["own.safetensors", "own.pt"])
def test_a_path_gives_the_weights_of_the_file(tmp_path: Path, small: str, name: str) -> None:
    source = model_of(CONFIG)
    path = tmp_path / name
    if path.suffix == ".pt":
        torch.save({"state_dict": source.state_dict()}, path)  # as OpenCLIP's own training saves it
    else:
        save_file(source.state_dict(), path)
    clip = build_clip(name=small, pretrained=str(path))
    assert torch.equal(clip.model.visual.head.mlp.fc1.weight, source.visual.head.mlp.fc1.weight)


def test_weights_of_another_model_or_a_damaged_file_are_an_error(tmp_path: Path, small: str) -> None:
    other = model_of({**CONFIG, "embed_dim": 16})
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 not much")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    for name in ("other.safetensors", "cut.pt", "empty.safetensors"):
        with pytest.raises(
            WeightsError, match=rf"{name}: not weights of CLIP {small}, or damaged.*PRETRAINED"
        ):
            build_clip(name=small, pretrained=str(tmp_path / name))


def test_an_unknown_tag_gets_the_nearest_one_and_the_list() -> None:
    with pytest.raises(
        WeightsError, match=r"'laion2b_s29b_b131k_ft_sup' is neither a file nor one of OpenCLIP's tags"
    ):
        build_clip(name="convnext_large_d_320", pretrained="laion2b_s29b_b131k_ft_sup")
    with pytest.raises(WeightsError, match=r"did you mean openai\? Tags: openai; .* random weights"):
        build_clip(name="RN50x64-quickgelu", pretrained="opanai")
    with pytest.raises(WeightsError, match=r"'/no/such/file\.pt' is neither a file"):
        build_clip(name="RN50x64", pretrained="/no/such/file.pt")


def test_a_tag_that_cannot_be_downloaded_says_what_to_save_where_and_which_option(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("CMPF_CACHE", str(tmp_path))
    with pytest.raises(WeightsError) as caught:
        build_clip(name="convnext_large_d_320", pretrained="laion2b_s29b_b131k_ft_soup")
    message = str(caught.value)
    source = (
        "laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup/resolve/main/open_clip_model.safetensors"
    )
    place = tmp_path / "clip_convnext_large_d_320_laion2b_s29b_b131k_ft_soup.safetensors"
    assert f"Save https://huggingface.co/{source} as {place}" in message
    assert f"set MODEL.CMPF.CLIP.PRETRAINED {place}" in message
    assert 'set it to "" for random weights' in message


def test_a_tag_is_downloaded_into_the_cache_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small: str
) -> None:
    source = model_of(CONFIG)
    save_file(source.state_dict(), tmp_path / "published.safetensors")
    asked: list[dict[str, Any]] = []

    def download(**kwargs: Any) -> str:
        asked.append(kwargs)
        return str(tmp_path / "published.safetensors")

    monkeypatch.setitem(pretrained._PRETRAINED, small, {"soup": {"hf_hub": "someone/model/"}})
    monkeypatch.setattr(pretrained, "hf_hub_download", download)
    monkeypatch.setenv("CMPF_CACHE", str(tmp_path / "cache"))
    clip = build_clip(name=small, pretrained="soup")
    assert torch.equal(clip.model.token_embedding.weight, source.token_embedding.weight)
    monkeypatch.delenv("CMPF_CACHE")
    build_clip(name=small, pretrained="soup")
    assert [call["cache_dir"] for call in asked] == [str(tmp_path / "cache" / "hub"), None]
    assert {call["repo_id"] for call in asked} == {"someone/model"}


def test_the_tiny_clip_is_built_with_random_weights_or_those_of_a_file(tmp_path: Path) -> None:
    first = build_clip(name="cmpf_tiny", pretrained="")
    save_file(first.weights(), tmp_path / "tiny.safetensors")
    second = build_clip(name="cmpf_tiny", pretrained=str(tmp_path / "tiny.safetensors"))
    assert first.weights_hash == second.weights_hash
    assert second.name == "clip/cmpf_tiny"
    assert second.encode_text(["a dotted star"]).shape == (1, second.embed_dim)
    with pytest.raises(WeightsError, match="'openai' is neither a file nor 'cmpf_tiny', the only tag"):
        build_clip(name="cmpf_tiny", pretrained="openai")


def test_the_tiny_tag_loads_the_weights_that_cmpf_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build_tiny_clip_model()
    monkeypatch.setattr(tiny, "load_tiny_clip", lambda: model)
    assert build_clip(name="cmpf_tiny", pretrained="cmpf_tiny").model is model
