# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cmpf.checkpoint import LoadReport, load, read_metadata, save
from cmpf.errors import WeightsError


class Model(nn.Module):
    """A trained layer with a second name, a BatchNorm, and a frozen encoder."""

    def __init__(self, *, width: int = 3, hashes: dict[str, str] | None = None) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, 2).requires_grad_(False)
        self.layer = nn.Linear(2, width)
        self.norm = nn.BatchNorm1d(width)
        self.alias = self.layer
        self.hashes = {"CLIP RN50": "a" * 64, "SAM vit_b": "b" * 64} if hashes is None else hashes

    def trained_state_dict(self) -> dict[str, Tensor]:
        return {k: v for k, v in self.state_dict().items() if not k.startswith("encoder")}

    def encoder_hashes(self) -> dict[str, str]:
        return self.hashes


def same(a: Model, b: Model) -> bool:
    other = b.trained_state_dict()
    return all(torch.equal(value, other[name]) for name, value in a.trained_state_dict().items())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save(Model(), path, metadata={})
    return path


def test_saved_weights_come_back_bit_for_bit_and_the_encoder_is_not_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.safetensors"
    one, two = Model(), Model()
    one.norm.running_mean.uniform_()
    save(one, path, metadata={})
    encoder = two.encoder.weight.clone()
    report = load(two, path)
    assert same(one, two)
    assert torch.equal(two.encoder.weight, encoder)
    assert not any(name.startswith("encoder") for name in load_file(path))
    assert (report.missing, report.unexpected, report.mismatched) == ((), (), ())
    assert set(report.loaded) == set(one.trained_state_dict())


def test_equal_weights_give_equal_files(tmp_path: Path) -> None:
    model = Model()
    for name in ("a", "b"):
        save(
            model, tmp_path / name, metadata={"config": "SEED: 1", "vocabulary": [["cat"], ["dog", "puppy"]]}
        )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_can_be_read_by_whom_the_umask_allows(tmp_path: Path, file: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    assert file.stat().st_mode == plain.stat().st_mode


def test_metadata_hold_encoders_version_and_what_the_caller_gave(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save(Model(), path, metadata={"config": "SEED: 1\n", "vocabulary": [["cat"], ["dog", "puppy"]]})
    assert read_metadata(path) == {
        "format_version": 1,
        "encoders": {"CLIP RN50": "a" * 64, "SAM vit_b": "b" * 64},
        "config": "SEED: 1\n",
        "vocabulary": [["cat"], ["dog", "puppy"]],
    }


def test_metadata_may_not_take_our_own_names(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"\['encoders'\] are CMPF's own"):
        save(Model(), tmp_path / "model.safetensors", metadata={"encoders": "x"})


def test_a_state_dict_loads_like_a_file_and_is_cast_to_the_models_precision() -> None:
    one, two = Model(), Model()
    load(
        two,
        {
            name: value.half() if value.is_floating_point() else value
            for name, value in one.trained_state_dict().items()
        },
    )
    assert two.layer.weight.dtype is torch.float32
    assert torch.equal(two.layer.weight, one.layer.weight.half().float())


def test_missing_weights_are_an_error_and_leave_the_model_as_it_was() -> None:
    state, model = Model().trained_state_dict(), Model()
    del state["norm.bias"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"1 missing in the file: norm\.bias.*strict=False"):
        load(model, state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_without_strict_missing_and_mismatched_weights_keep_their_values_and_are_reported() -> None:
    state, model = Model(width=4).trained_state_dict(), Model()
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
        load(Model(), Model(width=4).trained_state_dict())


def test_weights_that_only_the_file_has_are_no_error() -> None:
    report = load(Model(), {**Model().trained_state_dict(), "stranger": torch.zeros(1)})
    assert report.unexpected == ("stranger",)


def test_a_report_reads_well_and_cuts_long_lists() -> None:
    report = LoadReport(
        loaded=("a",), missing=tuple("bcdefgh"), unexpected=(), mismatched=("x: 1 in the file, 2 here",)
    )
    assert str(report) == (
        "1 weights loaded; 7 missing in the file: b, c, d, e, f and 2 more; "
        "1 of another shape: x: 1 in the file, 2 here"
    )


def test_other_encoders_are_an_error_that_names_those_of_the_training(file: Path) -> None:
    other = Model(hashes={"CLIP RN50": "c" * 64, "SAM vit_b": "b" * 64})
    with pytest.raises(WeightsError) as caught:
        load(other, file)
    assert "trained with the encoders CLIP RN50 (hash aaaaaaaaaaaa), SAM vit_b (hash bbbbbbbbbbbb)" in str(
        caught.value
    )
    assert "this model has CLIP RN50 (hash cccccccccccc)" in str(caught.value)
    load(other, file, strict=False)
    with pytest.raises(WeightsError, match="this model has none"):
        load(Model(hashes={}), file)


def test_a_model_with_one_encoder_more_is_no_fault(file: Path) -> None:
    load(Model(hashes={"CLIP RN50": "a" * 64, "SAM vit_b": "b" * 64, "SAM vit_h": "d" * 64}), file)


def test_a_file_without_our_metadata_loads(tmp_path: Path) -> None:
    one, two = Model(), Model()
    save_file({k: v.clone() for k, v in one.trained_state_dict().items()}, tmp_path / "w.safetensors")
    load(two, tmp_path / "w.safetensors")
    assert same(one, two)
    assert read_metadata(tmp_path / "w.safetensors") == {}


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weights at .*absent\.safetensors"):
        load(Model(), tmp_path / "absent.safetensors")
    with pytest.raises(WeightsError, match="no such file"):
        load(Model(), tmp_path)


@pytest.mark.parametrize("length", [0, 5, 100, -8])
def test_a_truncated_file_is_an_error_with_the_cure(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(
        WeightsError, match=r"model\.safetensors is truncated, damaged .*Copy or download it again"
    ):
        load(Model(), file)


def test_a_file_of_another_kind_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_text("<html>404 Not Found, or any page longer than eight bytes</html>")
    with pytest.raises(WeightsError, match="no safetensors file"):
        load(Model(), tmp_path / "a.safetensors")


def test_pickles_are_refused_with_the_way_to_convert_them(tmp_path: Path) -> None:
    torch.save(Model().trained_state_dict(), tmp_path / "zip.pth")
    (tmp_path / "bare.pkl").write_bytes(pickle.dumps({"a": 1}))
    for name in ("zip.pth", "bare.pkl"):
        with pytest.raises(WeightsError, match=r"is a PyTorch pickle.*weights_only=True"):
            load(Model(), tmp_path / name)


def test_a_newer_format_asks_for_an_update(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "w", metadata={"cmpf": json.dumps({"format_version": 2})})
    with pytest.raises(WeightsError, match=r"format version 2, this CMPF reads version 1\. Update CMPF"):
        load(Model(), tmp_path / "w")


def test_an_error_while_saving_leaves_the_earlier_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def fail(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("cmpf.checkpoint.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save(Model(), file, metadata={})
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]
