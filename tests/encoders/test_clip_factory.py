# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""CLIP by name, tag and file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from helpers.encoders import (
    CONVNEXT_CONFIG,
    RESNET_CONFIG,
    activation,
    new_model,
    random_images,
    register_convnext,
    register_resnet,
)
from open_clip import pretrained
from open_clip.transformer import QuickGELU
from safetensors.torch import save_file

from cmpf.encoders import clip_factory, tiny
from cmpf.encoders.clip_factory import (
    build_clip,
    check_clip_name,
    clip_names,
    source_of,
    tag_record,
    variant_for,
)
from cmpf.errors import ModelNameError, WeightsError


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    return register_convnext(monkeypatch, tmp_path)


@pytest.fixture
def small_resnet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    return register_resnet(monkeypatch, tmp_path)


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


# Channels of res2 and res5 and the width of the joint space, from the papers of CLIP and ConvNeXt: a ResNet of width w
# has 4w and 32w channels, RN50x4 w = 80, x16 96, x64 128.
SIZES = {
    "RN50": (256, 2048, 1024),
    "RN101": (256, 2048, 512),
    "RN50x4": (320, 2560, 640),
    "RN50x16": (384, 3072, 768),
    "RN50x64": (512, 4096, 1024),
    "convnext_base": (128, 1024, 512),
    "convnext_base_w": (128, 1024, 640),
    "convnext_base_w_320": (128, 1024, 640),
    "convnext_large": (192, 1536, 768),
    "convnext_large_d": (192, 1536, 768),
    "convnext_large_d_320": (192, 1536, 768),
    "convnext_xxlarge": (384, 3072, 1024),
    "convnext_xxlarge_320": (384, 3072, 1024),
}
SIZES |= {f"{name}-quickgelu": sizes for name, sizes in SIZES.items() if name.startswith("RN")}


# A QuickGELU variant differs in the text tower only; RN50x64's is built with its weights' tag below.
@pytest.mark.parametrize("name", [*(n for n in SIZES if not n.endswith("-quickgelu")), "RN50-quickgelu"])
def test_every_published_convolutional_clip_is_built_by_its_name(name: str) -> None:
    with torch.device("meta"):
        clip = build_clip(name=name, pretrained="")
    assert (clip.channels["res2"], clip.channels["res5"], clip.embed_dim) == SIZES[name]
    assert clip.dense_channels == clip.channels["res5"]
    assert clip.name == f"clip/{name}"
    assert (activation(clip.model) is QuickGELU) == name.endswith("-quickgelu")


def test_the_table_of_sizes_has_all_bases_larges_xxlarges_and_resnets() -> None:
    kinds = ("convnext_base", "convnext_large", "convnext_xxlarge", "RN")
    assert {name for name in clip_names() if name.startswith(kinds)} == set(SIZES)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["RN50", "convnext_tiny"])
def test_a_published_size_runs_with_random_weights(name: str) -> None:
    clip = build_clip(name=name, pretrained="")
    features = clip(random_images(1, 3, 64, 96))
    assert features.dense.shape == (1, clip.dense_channels, 2, 3)
    embeddings, valid = clip.embed_masks(features.dense, torch.ones(1, 2, 8, 12))
    assert embeddings.shape == (1, 2, clip.embed_dim)
    assert embeddings.isfinite().all()
    assert valid.all()
    assert clip.encode_text(["a cat"]).shape == (1, clip.embed_dim)


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


def test_rn50x64_with_openai_weights_is_built_with_quickgelu(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[str, Path]] = []
    monkeypatch.setattr(clip_factory, "_download", lambda *_: Path("published.safetensors"))
    monkeypatch.setattr(clip_factory, "_load", lambda model, name, path: loaded.append((name, path)))
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("error")
        clip = build_clip(name="RN50x64", pretrained="openai")
    assert loaded == [("RN50x64-quickgelu", Path("published.safetensors"))]
    assert clip.name == "clip/RN50x64-quickgelu"
    gelus = [block.mlp.gelu for block in clip.model.transformer.resblocks]
    assert len(gelus) == 12
    assert all(type(gelu) is QuickGELU for gelu in gelus)


def test_what_is_a_tag_and_a_file_is_the_tag(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small_resnet: str
) -> None:
    published, own = new_model(RESNET_CONFIG), new_model(RESNET_CONFIG)
    save_file(published.state_dict(), tmp_path / "published.safetensors")
    torch.save(own.state_dict(), tmp_path / "openai")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretrained, "hf_hub_download", lambda **_: str(tmp_path / "published.safetensors"))
    for text, source in (("openai", published), ("./openai", own)):
        clip = build_clip(name=small_resnet, pretrained=text)
        assert torch.equal(clip.model.token_embedding.weight, source.token_embedding.weight)
        assert clip.name.endswith("-quickgelu") == (text == "openai")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_program_such_as_openais_own_file_is_refused_with_the_reason(
    tmp_path: Path, small_resnet: str
) -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    torch.jit.save(torch.jit.trace(Model(), torch.zeros(1)), tmp_path / "RN50x64.pt")
    with pytest.raises(WeightsError) as caught:
        build_clip(name=f"{small_resnet}-quickgelu", pretrained=str(tmp_path / "RN50x64.pt"))
    message = str(caught.value)
    assert "RN50x64.pt: a TorchScript archive" in message
    assert "it is a program, and reading it would run it" in message
    assert 'to the tag "openai"' in message
    assert "https://huggingface.co/someone/rn/resolve/main/open_clip_model.safetensors" in message


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
    source = new_model(CONVNEXT_CONFIG)
    path = tmp_path / name
    if path.suffix == ".pt":
        torch.save({"state_dict": source.state_dict()}, path)  # as OpenCLIP's own training saves it
    else:
        save_file(source.state_dict(), path)
    clip = build_clip(name=small, pretrained=str(path))
    assert torch.equal(clip.model.visual.head.mlp.fc1.weight, source.visual.head.mlp.fc1.weight)


def test_every_file_that_fills_a_models_clip_can_be_named_as_its_weights(tmp_path: Path, small: str) -> None:
    # Of a training checkpoint with arrays, a list of one logit_scale and a number of OpenAI's.
    source = new_model(CONVNEXT_CONFIG)
    state = {f"module.{name}": value.numpy() for name, value in source.state_dict().items()}
    state["module.logit_scale"] = state["module.logit_scale"].reshape(1)
    state["module.context_length"] = np.int64(77)
    torch.save({"model": state, "iteration": np.int64(7)}, tmp_path / "training.pth")
    clip = build_clip(name=small, pretrained=str(tmp_path / "training.pth"))
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in clip.weights().items())


def test_weights_of_another_model_or_a_damaged_file_are_an_error(tmp_path: Path, small: str) -> None:
    other = new_model({**CONVNEXT_CONFIG, "embed_dim": 16})
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
    assert f"Save https://huggingface.co/{source} as {place}, or set" in message
    assert 'set MODEL.CMPF.CLIP.PRETRAINED to "" for random weights' in message


@pytest.mark.parametrize("suffix", ["", "-quickgelu"])
def test_a_file_that_was_saved_as_the_message_says_is_used_for_the_tag(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small_resnet: str, suffix: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("CMPF_CACHE", str(tmp_path / "cache"))
    with pytest.raises(WeightsError) as caught:
        build_clip(name=small_resnet + suffix, pretrained="openai")
    place = tmp_path / "cache" / "clip_RNsmall_openai.safetensors"
    assert f"as {place}, or" in str(caught.value)
    source = new_model(RESNET_CONFIG)
    place.parent.mkdir(exist_ok=True)
    save_file(source.state_dict(), place)
    clip = build_clip(name=small_resnet + suffix, pretrained="openai")
    assert clip.name == "clip/RNsmall-quickgelu"
    assert torch.equal(clip.model.token_embedding.weight, source.token_embedding.weight)


def test_a_tag_is_downloaded_into_the_cache_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small: str
) -> None:
    source = new_model(CONVNEXT_CONFIG)
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


@pytest.mark.parametrize("name", ["RN50", "RN101", "RN50x4", "RN50x16", "RN50x64"])
def test_openai_weights_select_the_quickgeluvariant_for(name: str) -> None:
    assert variant_for(name, "openai") == f"{name}-quickgelu"
    assert variant_for(f"{name}-quickgelu", "openai") == f"{name}-quickgelu"
    assert variant_for(name, "") == name
    assert open_clip.get_model_config(f"{name}-quickgelu")["quick_gelu"] is True


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
    assert activation(quick.model) is QuickGELU
    assert caplog.text == ""


def test_without_weights_the_name_says_the_activation_with_a_warning_where_that_is_unlikely(
    small_resnet: str, caplog: pytest.LogCaptureFixture
) -> None:
    quick = build_clip(name=f"{small_resnet}-quickgelu", pretrained="")
    assert activation(quick.model) is QuickGELU
    assert caplog.text == ""
    plain = build_clip(name=small_resnet, pretrained="")
    assert activation(plain.model) is torch.nn.GELU
    assert len(caplog.records) == 1
    assert "(openai) were trained with QuickGELU: for those name RNsmall-quickgelu" in caplog.text
