# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.published import equal, published_checkpoint
from helpers.tiny_model import random_image, tiny_model
from helpers.toy_training import WeightsToy
from safetensors.torch import save_file
from torch import Tensor

from cmpf.data import Vocabulary
from cmpf.errors import WeightsError
from cmpf.model import CMPF
from cmpf.weights import LoadReport, PartReport, key_mapping, load, read_metadata
from cmpf.weights.checks import compare
from cmpf.weights.reading import load_weights

FLAT = ("MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS", 3)
WORDS = Vocabulary(classes=[["cat"], ["sky"]])


def fresh(name: str = "no_ensemble", *overrides: object, seed: int = 1) -> CMPF:
    """A tiny model whose weights, encoders included, depend on the seed."""
    model = tiny_model(name, overrides)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) / 10)
    for encoder in model.frozen_encoders().values():
        encoder.weights_changed()  # their hashes are those of the new weights
    return model


def snapshot(model: CMPF) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def source() -> CMPF:
    return fresh("no_ensemble", *FLAT, seed=2)


@pytest.fixture(scope="module")
def frozenseg(source: CMPF) -> dict[str, Tensor]:
    return published_checkpoint(source)


# Own checkpoints


def test_a_state_dict_loads_like_a_file_and_is_cast_to_the_models_precision() -> None:
    one, two = WeightsToy(), WeightsToy()
    state = one.trained_state_dict()
    load(two, {name: value.half() if value.is_floating_point() else value for name, value in state.items()})
    assert two.layer.weight.dtype is torch.float32
    assert torch.equal(two.layer.weight, one.layer.weight.half().float())


def test_missing_weights_are_an_error_and_leave_the_model_as_it_was() -> None:
    state, model = WeightsToy().trained_state_dict(), WeightsToy()
    del state["norm.bias"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"1 missing in the file: norm\.bias.*strict=False"):
        load(model, state)
    assert equal(model.state_dict(), before)


def test_without_strict_missing_and_mismatched_weights_keep_their_values_and_are_reported() -> None:
    state, model = WeightsToy(width=4).trained_state_dict(), WeightsToy()
    del state["norm.bias"]
    state["stranger"] = torch.zeros(1)
    weight = model.layer.weight.clone()
    report = load(model, state, strict=False)
    assert torch.equal(model.layer.weight, weight)
    assert report.loaded == ("norm.num_batches_tracked",)
    assert report.missing == ("norm.bias",)
    assert report.unexpected == ("stranger",)
    assert "layer.weight: 4x2 in the file, 3x2 here" in report.mismatched


def test_weights_of_another_shape_are_an_error() -> None:
    with pytest.raises(WeightsError, match=r"layer\.weight: 4x2 in the file, 3x2 here"):
        load(WeightsToy(), WeightsToy(width=4).trained_state_dict())


def test_weights_that_only_the_file_has_are_an_error_unless_they_are_allowed() -> None:
    state, model = {**WeightsToy().trained_state_dict(), "stranger": torch.zeros(1)}, WeightsToy()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        WeightsError, match=r"1 weights that the model does not have: stranger\..*--allow-unused-weights"
    ):
        load(model, state)
    assert equal(model.state_dict(), before)
    assert load(model, state, allow_unused=True).unexpected == ("stranger",)
    assert torch.equal(model.layer.weight, state["layer.weight"])


def test_the_naming_of_a_file_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    detect = key_mapping.detect_naming
    for module in (key_mapping, sys.modules["cmpf.weights.loading"]):
        monkeypatch.setattr(
            module, "detect_naming", lambda names: calls.append(names) or detect(names), raising=False
        )
    model = fresh("fcclip_tiny")
    load(model, model.state_dict())
    assert len(calls) == 1


def test_filling_an_encoder_voids_its_hash_and_calls_no_loader_of_modules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, two = fresh("fcclip_tiny", seed=2), fresh("fcclip_tiny")
    state = one.state_dict()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("load_state_dict was called")

    monkeypatch.setattr(torch.nn.Module, "load_state_dict", refuse)
    load(two, state)
    assert two.encoder_hashes() == one.encoder_hashes()


def test_other_encoders_are_an_error_that_names_those_of_the_training(file: Path) -> None:
    other = WeightsToy(hashes={"CLIP RN50": "c" * 64, "SAM vit_b": "b" * 64})
    with pytest.raises(WeightsError) as caught:
        load(other, file)
    assert "trained with the encoders CLIP RN50 (hash aaaaaaaaaaaa), SAM vit_b (hash bbbbbbbbbbbb)" in str(
        caught.value
    )
    assert "this model has CLIP RN50 (hash cccccccccccc)" in str(caught.value)
    load(other, file, strict=False)
    with pytest.raises(WeightsError, match="this model has none"):
        load(WeightsToy(hashes={}), file)


def test_a_model_with_one_encoder_more_is_no_issue(file: Path) -> None:
    load(WeightsToy(hashes={"CLIP RN50": "a" * 64, "SAM vit_b": "b" * 64, "SAM vit_h": "d" * 64}), file)


def test_a_file_without_our_metadata_loads(tmp_path: Path) -> None:
    one, two = WeightsToy(), WeightsToy()
    save_file({k: v.clone() for k, v in one.trained_state_dict().items()}, tmp_path / "w.safetensors")
    load(two, tmp_path / "w.safetensors")
    assert equal(one.trained_state_dict(), two.trained_state_dict())
    assert read_metadata(tmp_path / "w.safetensors") == {}


def test_weights_of_nobody_that_we_know_are_refused_by_the_files_name(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    with pytest.raises(WeightsError, match=r"resnet\.pth: a state dict of no kind that CMPF knows \(conv1"):
        load(WeightsToy(), tmp_path / "resnet.pth")


def test_the_whole_state_of_a_model_brings_its_encoders() -> None:
    one, two = fresh(seed=2), fresh()
    report = load(two, one.state_dict())
    assert equal(one.state_dict(), two.state_dict())
    assert (len(report.clip.loaded), len(report.sam.loaded)) == (
        len(one.encoders.clip.weights()),
        len(one.encoders.sam.weights()),
    )
    assert two.encoder_hashes() == one.encoder_hashes()


# Published FrozenSeg checkpoints


def test_a_published_checkpoint_fills_model_and_encoders(source: CMPF, frozenseg: dict[str, Tensor]) -> None:
    model = fresh("no_ensemble", *FLAT)
    report = load(model, frozenseg)
    assert equal(model.state_dict(), source.state_dict())
    assert model.encoder_hashes() == source.encoder_hashes()
    assert report.naming == "FrozenSeg"
    assert len(report.loaded) == len(source.trained_state_dict())
    assert report.fits
    assert report.clip.fits
    assert report.sam.fits
    assert len(report.clip.loaded) == len(source.encoders.clip.weights())
    assert report.ignored == ("criterion.empty_weight",)
    assert "1 ignored: criterion.empty_weight" in str(report)


def test_text_embeddings_follow_the_new_clip(source: CMPF, frozenseg: dict[str, Tensor]) -> None:
    model = fresh("no_ensemble", *FLAT)
    before = model.class_embeddings(WORDS).matrix
    load(model, frozenseg)
    assert torch.equal(model.class_embeddings(WORDS).matrix, source.class_embeddings(WORDS).matrix)
    assert not torch.equal(model.class_embeddings(WORDS).matrix, before)


def test_a_loaded_model_computes_what_the_source_computes(source: CMPF, frozenseg: dict[str, Tensor]) -> None:
    model = fresh("no_ensemble", *FLAT)
    load(model, frozenseg)
    batch = [{"image": random_image()}]
    ours, theirs = (m.infer(batch, WORDS)[0]["sem_seg"] for m in (model, source))
    assert torch.equal(ours, theirs)


def test_absent_encoders_keep_their_own_weights(source: CMPF) -> None:
    model = fresh("no_ensemble", *FLAT)
    before = snapshot(model)
    report = load(model, published_checkpoint(source, frozen=False))
    after = model.state_dict()
    assert equal(model.trained_state_dict(), source.trained_state_dict())
    assert all(torch.equal(after[name], before[name]) for name in after if name.startswith("encoders."))
    assert report.clip == report.sam == type(report.clip)()


def test_a_detectron2_checkpoint_loads(tmp_path: Path, source: CMPF, frozenseg: dict[str, Tensor]) -> None:
    weights = {f"module.{name}": value for name, value in frozenseg.items()}
    content = {
        "model": weights,
        "iteration": np.int64(7),
        "scheduler": {"_last_lr": [np.float64(1e-4)]},
    }
    torch.save(content, tmp_path / "model_final.pth")
    model = fresh("no_ensemble", *FLAT)
    load(model, tmp_path / "model_final.pth")
    assert equal(model.state_dict(), source.state_dict())


def test_the_correct_sam_branch_is_told_to_take_the_published_form(frozenseg: dict[str, Tensor]) -> None:
    model = fresh()
    before = snapshot(model)
    with pytest.raises(
        WeightsError, match=r"weights for 3 levels and .*MODEL\.CMPF\.SAM_BRANCH\.FLAT_LEVELS 3"
    ):
        load(model, frozenseg)
    assert equal(model.state_dict(), before)


def test_the_published_sam_branch_is_told_to_take_the_correct_form() -> None:
    with pytest.raises(WeightsError, match=r"MODEL\.CMPF\.SAM_BRANCH\.FLAT_LEVELS 0"):
        load(fresh("no_ensemble", *FLAT), fresh().trained_state_dict())


def test_an_encoder_of_another_size_is_an_error_and_changes_nothing(frozenseg: dict[str, Tensor]) -> None:
    state = dict(frozenseg)
    state["sam.image_encoder.pos_embed"] = torch.zeros(1, 8, 8, 128)
    model = fresh("no_ensemble", *FLAT)
    before, hashes = snapshot(model), model.encoder_hashes()
    with pytest.raises(
        WeightsError, match=r"pos_embed: 1x8x8x128 in the file, 1x16x16x128 here.*MODEL\.CMPF\.SAM\.NAME"
    ):
        load(model, state)
    assert equal(model.state_dict(), before)
    assert model.encoder_hashes() == hashes


def test_without_strict_an_encoder_of_another_size_stays_as_it_is(
    source: CMPF, frozenseg: dict[str, Tensor]
) -> None:
    state = {**frozenseg, "sam.image_encoder.pos_embed": torch.zeros(1, 8, 8, 128)}
    model = fresh("no_ensemble", *FLAT)
    sam, hashes = model.encoders.sam, model.encoder_hashes()
    before = {name: value.clone() for name, value in sam.weights().items()}
    report = load(model, state, strict=False)
    assert equal(sam.weights(), before)
    assert report.sam.loaded == ()
    assert len(report.sam.mismatched) == 1
    assert equal(model.encoders.clip.weights(), source.encoders.clip.weights())
    assert model.encoder_hashes()["sam/cmpf_tiny"] == hashes["sam/cmpf_tiny"]


def test_an_encoder_with_other_blocks_is_another_encoder(frozenseg: dict[str, Tensor]) -> None:
    # MobileSAM shares its mask decoder with SAM: without its own image encoder it would be neither.
    state = {name.replace("image_encoder.blocks", "image_encoder.layers"): v for name, v in frozenseg.items()}
    with pytest.raises(WeightsError, match="It holds another SAM than the model"):
        load(fresh("no_ensemble", *FLAT), state)


def test_an_encoder_without_its_text_tower_is_filled_as_far_as_it_goes(
    source: CMPF, frozenseg: dict[str, Tensor]
) -> None:
    state = {
        name: v for name, v in frozenseg.items() if not name.startswith("backbone.clip_model.transformer.")
    }
    model = fresh("no_ensemble", *FLAT)
    own = model.encoders.clip.weights()["transformer.resblocks.0.ln_1.weight"].clone()
    report = load(model, state)
    assert all(name.startswith("transformer.") for name in report.clip.missing)
    assert torch.equal(model.encoders.clip.weights()["transformer.resblocks.0.ln_1.weight"], own)
    visual = "visual.trunk.stem.0.weight"
    assert torch.equal(model.encoders.clip.weights()[visual], source.encoders.clip.weights()[visual])


def test_a_model_without_sam_leaves_the_files_sam_out(frozenseg: dict[str, Tensor], source: CMPF) -> None:
    model = fresh("fcclip_tiny")
    with pytest.raises(WeightsError, match=r"holds \d+ weights that the model does not have: .*sam_branch"):
        load(model, frozenseg)
    report = load(model, frozenseg, allow_unused=True)
    assert len(report.sam.unexpected) == len(source.encoders.sam.weights())
    assert any(name.startswith("sam_branch.") for name in report.unexpected)


# Published FC-CLIP checkpoints


def test_an_fc_clip_checkpoint_fills_a_model_without_injectors() -> None:
    fcclip, model = fresh("fcclip_tiny", seed=3), fresh("fcclip_tiny")
    report = load(model, published_checkpoint(fcclip))
    assert report.naming == "FC-CLIP"
    assert equal(model.state_dict(), fcclip.state_dict())


@pytest.mark.parametrize("name", ["no_ensemble", "query_injector_only", "feature_injector_only"])
def test_injectors_and_fc_clip_weights_do_not_go_together(name: str) -> None:
    state, model = published_checkpoint(fresh("fcclip_tiny", seed=3)), fresh(name)
    before = snapshot(model)
    with pytest.raises(WeightsError) as caught:
        load(model, state)
    for key in ("QUERY_INJECTOR.ENABLED False", "FEATURE_INJECTOR.ENABLED False", 'SAM.NAME ""'):
        assert f"MODEL.CMPF.{key}" in str(caught.value)
    assert equal(model.state_dict(), before)


def test_without_strict_fc_clip_is_where_training_can_start_from() -> None:
    fcclip, model = fresh("fcclip_tiny", seed=3), fresh()
    report = load(model, published_checkpoint(fcclip), strict=False)
    assert all(name.startswith(("sam_branch.", "decoder.feature_injectors.")) for name in report.missing)
    assert set(report.loaded) == set(fcclip.trained_state_dict())


# Weights of one encoder


@pytest.mark.parametrize(("kind", "naming"), [("clip", "OpenCLIP"), ("sam", "segment-anything")])
def test_the_file_of_an_encoder_fills_that_encoder_alone(
    tmp_path: Path, kind: str, naming: str, source: CMPF
) -> None:
    torch.save(dict(source.frozen_encoders()[kind].weights()), tmp_path / "encoder.pth")
    model = fresh("no_ensemble", *FLAT)
    before, other = snapshot(model), "sam" if kind == "clip" else "clip"
    report = load(model, tmp_path / "encoder.pth")
    assert report.naming == naming
    assert equal(model.frozen_encoders()[kind].weights(), source.frozen_encoders()[kind].weights())
    assert model.frozen_encoders()[kind].weights_hash == source.frozen_encoders()[kind].weights_hash
    after = model.state_dict()
    rest = [name for name in after if not name.startswith(f"encoders.{kind}.")]
    assert all(torch.equal(after[name], before[name]) for name in rest)
    assert not report.loaded
    assert not report.missing
    assert getattr(report, other) == type(report.clip)()


def test_an_incomplete_encoder_file_is_an_error(source: CMPF) -> None:
    state = dict(source.encoders.sam.weights())
    del state["image_encoder.pos_embed"]
    with pytest.raises(WeightsError, match=r"1 missing in the file: image_encoder\.pos_embed.*SAM\.NAME"):
        load(fresh("no_ensemble", *FLAT), state)


def test_sam_weights_need_a_model_with_sam(source: CMPF) -> None:
    state, model = dict(source.encoders.sam.weights()), fresh("fcclip_tiny")
    with pytest.raises(WeightsError, match=r"has no SAM that it could fill: set MODEL\.CMPF\.SAM\.NAME"):
        load(model, state)
    assert load(model, state, strict=False).sam.loaded == ()


def test_a_logit_scale_in_a_list_fits_a_scalar(source: CMPF) -> None:
    state = dict(source.encoders.clip.weights())
    state["logit_scale"] = state["logit_scale"].reshape(1)
    model = fresh("no_ensemble", *FLAT)
    load(model, state)
    assert torch.equal(
        model.encoders.clip.weights()["logit_scale"], source.encoders.clip.weights()["logit_scale"]
    )


# What is reported


def test_a_report_reads_well_and_cuts_long_lists() -> None:
    report = LoadReport(
        loaded=("a",), missing=tuple("bcdefgh"), unexpected=(), mismatched=("x: 1 in the file, 2 here",)
    )
    assert str(report) == (
        "1 weights loaded; 7 missing in the file: b, c, d, e, f and 2 more; "
        "1 of another shape: x: 1 in the file, 2 here"
    )


def test_a_report_of_a_published_file_tells_the_parts_apart() -> None:
    report = LoadReport(
        loaded=("a", "b"),
        clip=PartReport(loaded=("visual.x",), unexpected=("attn_mask",)),
        sam=PartReport(unexpected=("image_encoder.y",)),
        ignored=("criterion.empty_weight",),
        naming="FrozenSeg",
    )
    assert str(report) == (
        "FrozenSeg naming: 2 weights loaded; "
        "frozen CLIP: 1 weights loaded; 1 in the file only, left out: attn_mask; "
        "frozen SAM: 0 weights loaded; 1 in the file only, left out: image_encoder.y; "
        "1 ignored: criterion.empty_weight"
    )


def test_names_and_shapes_are_compared() -> None:
    given = {"same": torch.zeros(2, 3), "other": torch.zeros(2), "stranger": torch.zeros(1)}
    own = {"same": torch.ones(2, 3), "other": torch.tensor(1.0), "absent": torch.zeros(1)}
    report = compare(given, own)
    assert report == PartReport(
        loaded=("same",),
        missing=("absent",),
        unexpected=("stranger",),
        mismatched=("other: 2 in the file, scalar here",),
    )
    assert not report.fits
    assert compare(own, own).fits
    assert compare({**own, "more": torch.zeros(1)}, own).fits


# Numbers that no model can compute with.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda value: torch.full_like(value, torch.nan), "holds NaN or infinity"),
        (lambda value: torch.full_like(value, torch.inf), "holds NaN or infinity"),
        (lambda value: value.to(torch.int8), "is of type int8, the model's is float32"),
        (lambda value: value.to(torch.complex64), "is of type complex64, the model's is float32"),
        (lambda value: value > 0, "is of type bool, the model's is float32"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_weights_that_are_no_numbers_are_refused_and_change_nothing(
    tmp_path: Path, make: Callable[[Tensor], Tensor], message: str, strict: bool
) -> None:
    model, toy = WeightsToy(hashes={}), WeightsToy(hashes={})
    state = {**toy.trained_state_dict(), "layer.weight": make(toy.layer.weight.detach())}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=f"layer.weight {message}"):
        load(model, tmp_path / "w.pth", strict=strict)
    with pytest.raises(WeightsError, match=f"layer.weight {message}"):
        load_weights(model, tmp_path / "w.pth")  # that of an encoder alone
    assert equal(model.state_dict(), before)


def test_counts_are_whole_and_infinity_stays_where_the_model_has_it() -> None:
    model = WeightsToy(hashes={})
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))  # as causal attention has it
    load(model, model.trained_state_dict())
    fractional = {**model.trained_state_dict(), "norm.num_batches_tracked": torch.tensor(0.5)}
    with pytest.raises(WeightsError, match=r"num_batches_tracked is of type float32, the model's is int64"):
        load(model, fractional)
