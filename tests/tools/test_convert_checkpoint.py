# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.published import equal, published_checkpoint
from helpers.scripts import script
from helpers.tiny_model import tiny_config, tiny_model
from safetensors.torch import load_file

from cmpf import weights
from cmpf.errors import WeightsError
from cmpf.model import CMPF
from cmpf.weights import Parts, read_contents, read_metadata, to_published

main = script("convert_checkpoint").main

FLAT = ("MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS", 3)
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model() -> CMPF:
    return tiny_model("no_ensemble", FLAT)


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "config.yaml").write_text(tiny_config("no_ensemble", FLAT).dump())
    return str(tmp_path / "config.yaml")


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_own_weights_go_to_published_names_and_back_bit_for_bit(
    tmp_path: Path, model: CMPF, ending: str
) -> None:
    own, there, back = (
        tmp_path / "own.safetensors",
        tmp_path / f"there{ending}",
        tmp_path / "back.safetensors",
    )
    weights.save(model, own, metadata={})
    assert run(own, there, "--to", "published") == 0
    names = set(read_contents(there).tensors)
    assert "sem_seg_head.predictor.query_feat.weight" in names
    assert "sem_seg_head.pixel_decoder.sam_transformer.level_embed" in names
    assert run(there, back) == 0
    assert equal(load_file(back), load_file(own))


def test_a_detectron2_checkpoint_becomes_a_small_file_that_loads_with_its_encoders(
    tmp_path: Path, model: CMPF, config: str, capsys: Capture
) -> None:
    content = {
        "model": published_checkpoint(model),
        "optimizer": {"state": {}, "param_groups": [{"lr": np.float64(1e-4)}]},
        "iteration": np.int64(368749),
    }
    source = tmp_path / "model_final.pth"
    torch.save(content, source)
    assert run(source, tmp_path / "named.safetensors", "--config-file", config) == 0
    output = capsys.readouterr().out
    assert "FrozenSeg naming: " in output
    assert "1 ignored: criterion.empty_weight" in output
    metadata = read_metadata(tmp_path / "named.safetensors")
    assert metadata["encoders"] == model.encoder_hashes()
    assert metadata["converted_from"] == {
        "file": "model_final.pth",
        "naming": "FrozenSeg",
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
    }
    assert equal(load_file(tmp_path / "named.safetensors"), model.trained_state_dict())

    # Without a configuration nobody knows what the encoders are called, but their content is known.
    assert run(source, tmp_path / "unnamed.safetensors") == 0
    hashes = model.encoder_hashes()
    assert read_metadata(tmp_path / "unnamed.safetensors")["encoders"] == {
        "clip": hashes["clip/cmpf_tiny"],
        "sam": hashes["sam/cmpf_tiny"],
    }
    weights.load(model, tmp_path / "unnamed.safetensors")
    other = tiny_model("no_ensemble", FLAT)
    with torch.no_grad():
        other.encoders.clip.model.positional_embedding.add_(1)
    other.encoders.clip.weights_changed()
    with pytest.raises(WeightsError, match=r"trained with the encoders clip \(hash"):
        weights.load(other, tmp_path / "unnamed.safetensors")


def test_half_precision_encoders_have_the_hash_of_the_model_they_fill(tmp_path: Path, model: CMPF) -> None:
    halves = {n: v.half() if v.is_floating_point() else v for n, v in published_checkpoint(model).items()}
    torch.save(halves, tmp_path / "half.pth")
    assert run(tmp_path / "half.pth", tmp_path / "half.safetensors") == 0
    other = tiny_model("no_ensemble", FLAT)
    weights.load(other, tmp_path / "half.pth")
    assert set(read_metadata(tmp_path / "half.safetensors")["encoders"].values()) == set(
        other.encoder_hashes().values()
    )
    weights.load(other, tmp_path / "half.safetensors")


def test_fc_clip_weights_are_converted_and_go_back(tmp_path: Path) -> None:
    fcclip = tiny_model("fcclip_tiny")
    state = published_checkpoint(fcclip)
    torch.save(state, tmp_path / "fcclip.pth")
    assert run(tmp_path / "fcclip.pth", tmp_path / "own.safetensors") == 0
    assert equal(load_file(tmp_path / "own.safetensors"), fcclip.trained_state_dict())
    assert run(tmp_path / "own.safetensors", tmp_path / "back.pth", "--to", "published") == 0
    trained = {n: v for n, v in state.items() if not n.startswith(("backbone.", "criterion."))}
    assert equal(read_contents(tmp_path / "back.pth").tensors, trained)


def test_frozen_weights_travel_between_published_files(tmp_path: Path, model: CMPF) -> None:
    state = published_checkpoint(model)
    torch.save(state, tmp_path / "a.pth")
    assert run(tmp_path / "a.pth", tmp_path / "b.safetensors", "--to", "published") == 0
    del state["criterion.empty_weight"]
    assert equal(load_file(tmp_path / "b.safetensors"), state)


def test_without_encoders_in_the_input_those_of_the_configuration_are_recorded(
    tmp_path: Path, model: CMPF, capsys: Capture
) -> None:
    torch.save(published_checkpoint(model, frozen=False), tmp_path / "trained.pth")
    assert run(tmp_path / "trained.pth", tmp_path / "a.safetensors") == 0
    assert "encoders: unknown (the input has none; --config-file" in capsys.readouterr().out
    assert read_metadata(tmp_path / "a.safetensors")["encoders"] == {}
    shipped = ["--config-file", "configs/shapes/no_ensemble.yaml", *FLAT]
    assert run(tmp_path / "trained.pth", tmp_path / "b.safetensors", *shipped) == 0
    assert set(read_metadata(tmp_path / "b.safetensors")["encoders"]) == {"clip/cmpf_tiny", "sam/cmpf_tiny"}


def test_an_incomplete_encoder_is_not_recorded(tmp_path: Path, model: CMPF, config: str) -> None:
    state = published_checkpoint(model)
    state = {n: v for n, v in state.items() if not n.startswith("backbone.clip_model.transformer.")}
    torch.save(state, tmp_path / "image_tower.pth")
    assert run(tmp_path / "image_tower.pth", tmp_path / "a.safetensors") == 0
    assert set(read_metadata(tmp_path / "a.safetensors")["encoders"]) == {"sam"}
    assert run(tmp_path / "image_tower.pth", tmp_path / "b.safetensors", "--config-file", config) == 0
    assert set(read_metadata(tmp_path / "b.safetensors")["encoders"]) == {"sam/cmpf_tiny"}


def test_what_our_own_files_say_is_kept(tmp_path: Path, model: CMPF) -> None:
    weights.save(model, tmp_path / "a.safetensors", metadata={"train_classes": [["cat"]]})
    assert run(tmp_path / "a.safetensors", tmp_path / "b.safetensors") == 0
    metadata = read_metadata(tmp_path / "b.safetensors")
    assert metadata["train_classes"] == [["cat"]]
    assert metadata["encoders"] == model.encoder_hashes()
    assert run(tmp_path / "b.safetensors", tmp_path / "c.safetensors") == 0  # converted_from is replaced


def test_names_that_nobody_knows_are_left_out_and_told(tmp_path: Path, model: CMPF, capsys: Capture) -> None:
    state = {**published_checkpoint(model, frozen=False), "sem_seg_head.predictor.new.weight": torch.zeros(1)}
    torch.save(state, tmp_path / "a.pth")
    assert run(tmp_path / "a.pth", tmp_path / "a.safetensors") == 0
    assert "1 in the file only, left out: sem_seg_head.predictor.new.weight" in capsys.readouterr().out
    assert equal(load_file(tmp_path / "a.safetensors"), model.trained_state_dict())


def test_a_configuration_that_does_not_fit_is_an_error_and_nothing_is_written(
    tmp_path: Path, model: CMPF, config: str, capsys: Capture
) -> None:
    torch.save(published_checkpoint(model), tmp_path / "a.pth")
    options = ["--config-file", config, "MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS", 0]
    assert run(tmp_path / "a.pth", tmp_path / "a.safetensors", *options) == 1
    assert "MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS 3" in capsys.readouterr().err
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.parametrize(("kind", "option"), [("clip", "CLIP.PRETRAINED"), ("sam", "SAM.CHECKPOINT")])
def test_the_file_of_an_encoder_needs_no_conversion(
    tmp_path: Path, model: CMPF, capsys: Capture, kind: str, option: str
) -> None:
    torch.save(dict(model.frozen_encoders()[kind].weights()), tmp_path / "raw.pth")
    assert run(tmp_path / "raw.pth", tmp_path / "out.safetensors") == 1
    assert f"Give the file itself as MODEL.CMPF.{option}" in capsys.readouterr().err


def test_an_output_that_exists_is_kept_unless_told_otherwise(
    tmp_path: Path, model: CMPF, capsys: Capture
) -> None:
    torch.save(published_checkpoint(model, frozen=False), tmp_path / "a.pth")
    (tmp_path / "out.safetensors").write_text("precious")
    assert run(tmp_path / "a.pth", tmp_path / "out.safetensors") == 1
    assert "exists; give another name, or --overwrite" in capsys.readouterr().err
    assert (tmp_path / "out.safetensors").read_text() == "precious"
    assert run(tmp_path / "a.pth", tmp_path / "out.safetensors", "--overwrite") == 0
    assert equal(load_file(tmp_path / "out.safetensors"), model.trained_state_dict())


def test_errors_are_one_line(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "m.pkl").write_bytes(b"\x80\x04K\x01.")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    for source, target, message in (
        ("m.pkl", "a.safetensors", "is a Python pickle"),
        ("resnet.pth", "a.safetensors", "resnet.pth: a state dict of no kind that CMPF knows"),
        ("absent.pth", "a.safetensors", "no such file"),
        ("resnet.pth", "a.pth", "--to cmpf writes files that end in .safetensors"),
    ):
        assert run(tmp_path / source, tmp_path / target) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert message in error
    with pytest.raises(WeightsError):
        run(tmp_path / "m.pkl", tmp_path / "a.safetensors", "--debug")


@pytest.mark.parametrize(
    "arguments", [[], ["a.pth"], ["a.pth", "b.pth", "--to", "onnx"], ["a", "b", "SEED", "1"]]
)
def test_a_wrong_command_line_exits_with_2(arguments: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "naming", "theirs"),
    [
        ("fcclip_tiny", "FC-CLIP", "sem_seg_head.predictor.query_feat.weight"),
        ("mask_adapter_tiny", "Mask-Adapter", "mask_adapter.cnext2.pwconv1.weight"),
        ("maftp_tiny", "MAFT+", "cdt.cross_atten.multihead_attn.in_proj_weight"),
        ("ovrcoat_tiny", "FC-CLIP", "backbone.clip_model.visual.trunk.stem.0.weight"),
    ],
)
def test_each_method_goes_to_its_published_names_and_back_bit_for_bit(
    tmp_path: Path, capsys: Capture, name: str, naming: str, theirs: str
) -> None:
    model = tiny_model(name)
    own, there, back = (tmp_path / file for file in ("own.safetensors", "there.pth", "back.safetensors"))
    weights.save(model, own, metadata={})
    assert run(own, there, "--to", "published") == 0
    assert theirs in read_contents(there).tensors
    assert not any(key.startswith(("encoders.", "naming.")) for key in read_contents(there).tensors)
    (tmp_path / "config.yaml").write_text(tiny_config(name).dump())
    tuned = model.encoders.clip.tuned
    capsys.readouterr()
    # OVRCOAT's weights without its second CLIP have FC-CLIP's names: a configuration tells them apart.
    assert run(there, back, *(("--config-file", tmp_path / "config.yaml") if tuned else ())) == 0
    assert f"{naming} naming: " in capsys.readouterr().out
    assert equal(load_file(back), load_file(own))
    assert read_metadata(back)["encoders"] == {}


@pytest.mark.parametrize("second", ["frozen_backbone.clip_model.", "backbone_t.clip_model."])
def test_the_second_clip_of_a_tuned_model_is_left_out_and_its_own_is_kept(
    tmp_path: Path, capsys: Capture, second: str
) -> None:
    model = tiny_model("ovrcoat_tiny")
    clip = dict(model.encoders.clip.weights())
    trained = {k: v for k, v in model.trained_state_dict().items() if not k.startswith("encoders.")}
    state = to_published(Parts(trained=trained, clip=clip, sam={}))
    torch.save({"model": state | {second + key: value for key, value in clip.items()}}, tmp_path / "a.pth")
    assert run(tmp_path / "a.pth", tmp_path / "a.safetensors") == 0
    assert f"{len(clip)} ignored: {len(clip)} of {second.partition('.')[0]}.*" in capsys.readouterr().out
    assert equal(load_file(tmp_path / "a.safetensors"), model.trained_state_dict())
    weights.load(tiny_model("ovrcoat_tiny"), tmp_path / "a.safetensors")
