# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""From the name of a published model and an empty cache to a saved overlay, against servers on this machine."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers.encoders import register_convnext, register_resnet, small_sam
from helpers.weights_server import WeightsServer, published_file, weights_server
from PIL import Image
from torch import Tensor

import cmpf
from cmpf.cli import main
from cmpf.config import config_root, get_cfg
from cmpf.encoders import sam as sam_module
from cmpf.encoders.clip_factory import variant_for
from cmpf.errors import ConfigError, WeightsError
from cmpf.factory.model import build_network
from cmpf.model import CMPF
from cmpf.weights import Parts, read_contents, read_metadata, save, to_published, zoo_entries
from cmpf.weights.download import hash_record_path, partial_path
from cmpf.weights.key_mapping import OWN_FROZEN_PREFIX
from cmpf.weights.zoo import published_file as place_of
from cmpf.weights.zoo import small_file
from cmpf.weights.zoo_entries import zoo

WORDS = "cup; spoon; table"
# The published arithmetic with few channels and queries; names of weights are the published ones all the same.
SMALL = {
    "INPUT": {"MIN_SIZE_TEST": 64, "MAX_SIZE_TEST": 96},
    "MODEL": {
        "DEVICE": "cpu",
        "SEM_SEG_HEAD": {"CONVS_DIM": 64, "MASK_DIM": 64, "TRANSFORMER_ENC_LAYERS": 1, "DIM_FEEDFORWARD": 32},
        "MASK_FORMER": {"HIDDEN_DIM": 64, "DEC_LAYERS": 10, "NUM_OBJECT_QUERIES": 6, "DIM_FEEDFORWARD": 32},
    },
}
METHODS = (
    "cmpf_r50x64",
    "fcclip_r50",
    "mask_adapter_fcclip",
    "maftp_convnext_base",
    "ovrcoat_convnext_large",
)


def predict_command(photo: Path, name: str) -> list[str]:
    return [
        "predict",
        str(photo),
        "--model",
        name,
        "--vocabulary",
        WORDS,
        "--output",
        str(photo.parent / "out"),
    ]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WeightsServer]:
    with weights_server(monkeypatch) as server:
        yield server


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache."""
    monkeypatch.setenv("CMPF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)).save(
        tmp_path / "coffee.png"
    )
    return tmp_path / "coffee.png"


@pytest.fixture
def small_zoo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path) -> None:
    """The zoo's entries of METHODS around small encoders."""
    from open_clip import pretrained

    resnet, convnext = register_resnet(monkeypatch, tmp_path), register_convnext(monkeypatch, tmp_path)
    monkeypatch.setitem(pretrained._PRETRAINED, convnext, {"laion": {"hf_hub": "someone/convnext/"}})
    monkeypatch.setattr(sam_module, "_architecture", lambda _: small_sam().sam)
    monkeypatch.setattr(sam_module, "_hash_prefix", lambda _: None)
    entries = {}
    for name in METHODS:
        entry = zoo()[name]
        config: dict[str, Any] = {
            "_BASE_": str(config_root() / entry.config),
            **yaml.safe_load(yaml.safe_dump(SMALL)),
        }
        quick = "r50" in name
        clip = (
            {"NAME": resnet, "PRETRAINED": "openai"} if quick else {"NAME": convnext, "PRETRAINED": "laion"}
        )
        config["MODEL"]["CMPF"] = {"CLIP": clip, "MASK_ADAPTER": {"DIM": 16}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config))
        entries[name] = {**entry.model_dump(exclude_defaults=True), "config": str(tmp_path / f"{name}.yaml")}
        entries[name].pop("size", None)  # of the file in full size
    (tmp_path / "zoo.yaml").write_text(yaml.safe_dump(entries))
    monkeypatch.setattr(zoo_entries, "ZOO_FILE", str(tmp_path / "zoo.yaml"))


def random_model(name: str) -> CMPF:
    """The network of an entry with random weights."""
    entry = zoo()[name]
    clip = get_cfg(entry.config).MODEL.CMPF.CLIP
    changes = {
        **entry.overrides,
        "MODEL.CMPF.CLIP.NAME": variant_for(clip.NAME, clip.PRETRAINED),
        "MODEL.CMPF.CLIP.PRETRAINED": "",
        "MODEL.CMPF.SAM.CHECKPOINT": "random",
    }
    torch.manual_seed(len(name))
    return build_network(get_cfg(entry.config, [part for pair in changes.items() for part in pair]))


def published_state(model: CMPF, *, encoders: bool = True) -> dict[str, Tensor]:
    """All weights under the published names, with what the method's authors leave in their files beside them."""
    trained = {n: v for n, v in model.trained_state_dict().items() if not n.startswith(OWN_FROZEN_PREFIX)}
    clip = dict(model.encoders.clip.weights()) if encoders else {}
    sam = dict(model.encoders.sam.weights()) if encoders and model.encoders.sam is not None else {}
    state = to_published(Parts(trained=trained, clip=clip, sam=sam))
    return {**state, "criterion.empty_weight": torch.ones(134)}


@pytest.mark.usefixtures("small_zoo")
@pytest.mark.parametrize("name", METHODS)
def test_from_an_empty_cache_to_an_overlay_by_name(
    server: WeightsServer, photo: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    entry, model = zoo()[name], random_model(name)
    server.scans = True  # Drive asks first, as it does for large files
    server.drive[entry.drive] = published_file(
        photo.parent / "drive" / "whatever.pth", published_state(model)
    )
    command = predict_command(photo, name)
    assert main([*command, "--formats", "overlay", "semantic", "--task", "semantic"]) == 0
    first = (photo.parent / "out" / "coffee_semantic.png").read_bytes()
    with (
        Image.open(photo.parent / "out" / "coffee.jpg") as overlay,
        Image.open(io.BytesIO(first)) as semantic,
    ):
        assert overlay.width / overlay.height == pytest.approx(56 / 40, rel=0.01)
        assert semantic.size == (56, 40)
    # The file brings its encoders: nothing but the file itself was asked for.
    assert len(server.asked_of("drive")) == len(server.asked) == 2
    saved = read_metadata(small_file(name))
    assert saved["zoo"]["config"] == entry.config
    assert saved["zoo"]["overrides"] == entry.overrides
    assert saved["zoo"]["sha256"] == hash_record_path(place_of(name, entry)).read_text().split()[0]
    trained = read_contents(small_file(name)).tensors
    assert trained.keys() == model.trained_state_dict().keys()
    assert all(torch.equal(trained[key], value) for key, value in model.trained_state_dict().items())
    # Later loads ask nobody, and read the small file.
    assert main([*command, "--formats", "overlay", "semantic", "--task", "semantic"]) == 0
    assert (photo.parent / "out" / "coffee_semantic.png").read_bytes() == first
    assert len(server.asked) == 2
    capsys.readouterr()
    assert main(["models"]) == 0
    assert re.search(rf"^{name} .* yes$", capsys.readouterr().out, flags=re.M)


@pytest.mark.usefixtures("small_zoo")
def test_encoders_that_a_file_lacks_come_from_the_hub_and_from_meta(
    server: WeightsServer, photo: Path
) -> None:
    name = "cmpf_r50x64"
    model = random_model(name)
    folder = photo.parent / "served"
    server.drive[zoo()[name].drive] = published_file(folder / "a.pth", published_state(model, encoders=False))
    clip, sam = dict(model.encoders.clip.weights()), dict(model.encoders.sam.weights())  # type: ignore[union-attr]
    server.hub["someone/rn/open_clip_model.safetensors"] = published_file(folder / "c.safetensors", clip)
    torch.save(sam, folder / "sam.pth")
    server.meta["sam_vit_b_01ec64.pth"] = folder / "sam.pth"
    predictor = cmpf.load(name)
    found = predictor.model.encoders.clip.weights()
    assert all(torch.equal(found[key], value) for key, value in clip.items())
    assert predictor.model.encoders.clip.name == "clip/RNsmall-quickgelu"
    assert torch.equal(predictor.model.encoders.sam.weights()["mask_decoder.iou_token.weight"],  # type: ignore[union-attr]
                       sam["mask_decoder.iou_token.weight"])  # fmt: skip
    hosts = [line.split()[1].split("/")[1] for line in server.asked if line.startswith("GET")]
    assert hosts == [
        "drive.usercontent.google.com",
        "dl.fbaipublicfiles.com",
        "someone",
    ]  # the trained weights first
    asked = len(server.asked)
    cmpf.load(name)
    assert [line for line in server.asked[asked:] if line.startswith("GET")] == []


@pytest.mark.usefixtures("small_zoo")
def test_a_file_given_by_hand_needs_no_network_if_it_holds_the_encoders(
    monkeypatch: pytest.MonkeyPatch, server: WeightsServer, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("cmpf_r50x64", "fcclip_r50"):
        model = random_model(name)
        file = published_file(tmp_path / f"{name}.pth", published_state(model))
        predictor = cmpf.load(name, weights=str(file))
        assert predictor.model.encoders.clip.weights_hash == model.encoders.clip.weights_hash
        assert (
            predictor.model.encoders.clip.name == "clip/RNsmall-quickgelu"
        )  # by the config's tag, no file tells
        assert predictor.cfg.MODEL.CMPF.CLIP.PRETRAINED == "openai"  # type: ignore[union-attr]
        assert not small_file(name).exists()
    assert server.asked == []


@pytest.mark.usefixtures("small_zoo")
def test_a_small_file_is_a_model_by_itself(server: WeightsServer, photo: Path, tmp_path: Path) -> None:
    name = "fcclip_r50"
    server.drive[zoo()[name].drive] = published_file(tmp_path / "a.pth", published_state(random_model(name)))
    expected = cmpf.load(name).predict(photo, WORDS, task="semantic").semantic
    asked = len(server.asked)
    found = cmpf.load(str(small_file(name))).predict(photo, WORDS, task="semantic").semantic
    assert np.array_equal(found, expected)
    assert len(server.asked) == asked
    place_of(name, zoo()[name]).unlink()  # which holds CLIP: a small file without it is no use
    cmpf.load(name)
    assert len(server.asked) == asked + 1
    shutil.copy(small_file(name), tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="weights openai of CLIP RNsmall are not on this machine"):
        cmpf.load(str(tmp_path / "other.safetensors"))


@pytest.mark.usefixtures("small_zoo")
@pytest.mark.parametrize(
    "change",
    [
        ["MODEL.CMPF.CLIP.TRAINED", "none", "MODEL.CMPF.CLIP.TRAIN_LOGIT_SCALE", False],
        ["MODEL.ALLOW_UNUSED_WEIGHTS", True],
    ],
)
def test_a_changed_network_leaves_no_small_file(
    server: WeightsServer, tmp_path: Path, change: list[object]
) -> None:
    name = "ovrcoat_convnext_large"
    server.drive[zoo()[name].drive] = published_file(tmp_path / "a.pth", published_state(random_model(name)))
    cmpf.load(name, overrides=change)
    assert not small_file(name).exists()
    cmpf.load(name, overrides=["MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", 0.5])
    assert small_file(name).exists()


@pytest.mark.usefixtures("small_zoo")
def test_a_damaged_small_file_is_made_again(
    server: WeightsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = "fcclip_r50"
    server.drive[zoo()[name].drive] = published_file(tmp_path / "a.pth", published_state(random_model(name)))
    cmpf.load(name)
    whole = small_file(name).read_bytes()
    small_file(name).write_bytes(whole[:100])
    cmpf.load(name)
    assert "recreating " in caplog.text
    assert small_file(name).read_bytes() == whole
    assert len(server.asked) == 1


@pytest.mark.usefixtures("small_zoo")
def test_a_break_is_continued_by_the_next_command(
    server: WeightsServer, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "fcclip_r50"
    entry = zoo()[name]
    file = published_file(photo.parent / "a.pth", published_state(random_model(name)))
    server.drive[entry.drive] = file
    server.stops = [100_000, 0, 0]
    command = predict_command(photo, name)
    assert main(command) == 1
    assert f"ended after 100000 of {file.stat().st_size} bytes, kept in" in capsys.readouterr().err
    assert partial_path(place_of(name, entry)).stat().st_size == 100_000
    assert main(command) == 0
    assert server.asked[-1].endswith(" bytes=100000-")
    assert place_of(name, entry).read_bytes() == file.read_bytes()


@pytest.mark.usefixtures("small_zoo")
def test_what_drive_says_instead_of_a_file_is_one_line_with_the_way_out(
    server: WeightsServer, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "fcclip_r50"
    entry, state = zoo()[name], published_state(random_model(name))
    target = place_of(name, entry)
    command = predict_command(photo, name)
    for reason in ("the file was removed", "its download quota is used up for today"):
        assert main(command) == 1
        told = capsys.readouterr().err
        assert told.startswith(
            f"cmpf: weight file of {name}: drive.usercontent.google.com sent a web page instead of the file "
            f"({reason}). "
            f"Open https://drive.google.com/file/d/{entry.drive}/view in a browser and save the file as {target}"
        )
        assert told.count("\n") == 1
        server.quota = True
    published_file(target, state)  # as the message says; what the browser saved is asked for no more
    asked = len(server.asked)
    assert main(command) == 0
    assert len(server.asked) == asked
    assert hash_record_path(target).is_file()


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that are not the weights of a small FC-CLIP, with what is said of each."""
    state = published_state(random_model("fcclip_r50"))
    whole = published_file(folder / "whole.pth", state)
    (folder / "page.pth").write_text(
        "<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>"
    )
    (folder / "truncated.pth").write_bytes(whole.read_bytes()[:-1000])
    torch.save({"backbone.conv1.weight": torch.ones(2), "fc.weight": torch.ones(3)}, folder / "foreign.pth")
    other = {name: value[:3] if "mask_features.weight" in name else value for name, value in state.items()}
    return {
        "page": (folder / "page.pth", "is a web page, not weights (its download quota is used up for today)"),
        "truncated": (folder / "truncated.pth", "is truncated, damaged or no PyTorch file"),
        "foreign": (folder / "foreign.pth", "a state dict of no kind that CMPF knows"),
        "lacking": (
            published_file(
                folder / "lacking.pth", {n: v for n, v in state.items() if "decoder_norm" not in n}
            ),
            "does not fit the model",
        ),
        "more": (
            published_file(folder / "more.pth", {**state, "sem_seg_head.predictor.extra": torch.ones(2)}),
            "holds 1 weights that the model does not have: sem_seg_head.predictor.extra",
        ),
        "shape": (published_file(folder / "shape.pth", other), "of another shape"),
    }


@pytest.mark.usefixtures("small_zoo")
@pytest.mark.parametrize("with_clip", [True, False])
def test_a_file_that_is_not_the_model_is_one_line_before_anything_else_is_downloaded(
    server: WeightsServer, photo: Path, capsys: pytest.CaptureFixture[str], with_clip: bool
) -> None:
    name, out = "fcclip_r50", ["--output", str(photo.parent / "out")]
    command = ["predict", str(photo), "--vocabulary", WORDS]
    for kind, (file, message) in bad_files(photo.parent).items():
        if not with_clip and kind in ("lacking", "more", "shape"):
            state = {n: v for n, v in read_contents(file).tensors.items() if not n.startswith("backbone.")}
            file.unlink()
            published_file(file, state)
        assert main([*command, "--model", name, "--weights", str(file), *out]) == 1, kind
        told = capsys.readouterr().err
        assert message in told, kind
        assert str(file) in told
        assert told.count("\n") == 1
        assert server.asked == [], kind
    if with_clip:  # the same by name: nothing but Drive is asked
        for kind, (file, message) in bad_files(photo.parent).items():
            server.drive[zoo()[name].drive] = file
            shutil.rmtree(place_of(name, zoo()[name]).parent, ignore_errors=True)
            if kind != "page":
                assert main([*command, "--model", name]) == 1
                assert message in capsys.readouterr().err, kind
        assert server.asked_of("hub") == []
        assert not small_file(name).exists()


@pytest.mark.usefixtures("small_zoo")
def test_unused_weights_are_left_out_where_that_is_asked_for(server: WeightsServer, tmp_path: Path) -> None:
    file, _ = bad_files(tmp_path)["more"]
    assert cmpf.load("fcclip_r50", weights=str(file), allow_unused_weights=True).model is not None


@pytest.mark.usefixtures("small_zoo")
@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["MODEL.CMPF.CLIP.NAME", "RNsmall", "MODEL.CMPF.CLIP.PRETRAINED", ""], WeightsError,
         "fcclip_r50 was trained with a CLIP that computes QuickGELU, and MODEL.CMPF.CLIP.NAME RNsmall with "
         "MODEL.CMPF.CLIP.PRETRAINED '' computes GELU"),
        (["MODEL.CMPF.CLIP.PRETRAINED", "opanai"], WeightsError, "is neither a file nor one of OpenCLIP's tags"),
        (["VERSION", 3], ConfigError, "VERSION: expected 2 (a higher version needs a newer CMPF), got 3"),
        (["MODEL.CMPF.CLIP.NAM", "RN50"], ConfigError, "did you mean MODEL.CMPF.CLIP.NAME?"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_settings_is_said_before_any_download(
    server: WeightsServer, overrides: list[object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        cmpf.load("fcclip_r50", overrides=overrides)
    assert server.asked == []


@pytest.mark.usefixtures("small_zoo")
def test_weights_that_were_saved_with_the_other_activation_are_refused(tmp_path: Path) -> None:
    model = random_model("fcclip_r50")
    save(model, tmp_path / "trained.safetensors", metadata={})
    clip = published_file(tmp_path / "clip.safetensors", model.encoders.clip.weights())
    overrides = ["MODEL.CMPF.CLIP.NAME", "RNsmall", "MODEL.CMPF.CLIP.PRETRAINED", str(clip)]
    config, weights = zoo()["fcclip_r50"].config, str(tmp_path / "trained.safetensors")
    with pytest.raises(
        WeightsError, match=r"computes QuickGELU; .* clip/RNsmall, computes GELU .* RNsmall-quickgelu"
    ):
        cmpf.load(config, weights=weights, overrides=overrides)
    overrides[1] += "-quickgelu"
    assert cmpf.load(config, weights=weights, overrides=overrides).model is not None


@pytest.fixture
def full_zoo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path) -> None:
    """The zoo, but for the hash and the size that random numbers cannot have."""
    entries = {name: entry.model_dump(exclude_defaults=True) for name, entry in zoo().items()}
    for entry in entries.values():
        entry.pop("sha256", None)
        entry.pop("size", None)
    (tmp_path / "zoo.yaml").write_text(yaml.safe_dump(entries))
    monkeypatch.setattr(zoo_entries, "ZOO_FILE", str(tmp_path / "zoo.yaml"))


@pytest.mark.slow
@pytest.mark.usefixtures("full_zoo")
@pytest.mark.parametrize("name", [name for name, entry in zoo().items() if entry.drive])
def test_every_model_of_the_zoo_in_full_size_from_an_empty_cache_to_an_overlay(
    server: WeightsServer, photo: Path, name: str
) -> None:
    entry, state = zoo()[name], published_state(random_model(name))
    copies = {"ovrcoat": "frozen_backbone.", "maftp": "backbone_t."}  # of the CLIP before it was tuned
    if prefix := copies.get(entry.method):
        clip = {key.partition(".")[2]: value for key, value in state.items() if key.startswith("backbone.")}
        state.update({prefix + key: value for key, value in clip.items()})
    server.drive[entry.drive] = published_file(photo.parent / "drive.pth", state)
    del state
    out = photo.parent / "out"
    command = [*predict_command(photo, name), "--device", "cpu"]
    assert main([*command, "--opts", "INPUT.MIN_SIZE_TEST", "128", "INPUT.MAX_SIZE_TEST", "192"]) == 0
    with Image.open(out / "coffee.jpg") as overlay:
        assert overlay.width / overlay.height == pytest.approx(56 / 40, rel=0.01)
    assert small_file(name).is_file()
    assert len(server.asked_of("drive")) == len(server.asked) == 1
