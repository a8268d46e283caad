# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from helpers.toy_training import WeightsToy
from safetensors.torch import load_file

from cmpf.errors import WeightsError
from cmpf.weights import load, read_metadata, save, write, write_safetensors
from cmpf.weights.saving import hash_weights


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save(WeightsToy(), path, metadata={})
    return path


def test_saved_weights_come_back_bit_for_bit_and_the_encoder_is_not_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.safetensors"
    one, two = WeightsToy(), WeightsToy()
    one.norm.running_mean.uniform_()
    save(one, path, metadata={})
    encoder = two.encoder.weight.clone()
    report = load(two, path)
    restored = two.trained_state_dict()
    assert all(torch.equal(value, restored[name]) for name, value in one.trained_state_dict().items())
    assert torch.equal(two.encoder.weight, encoder)
    assert not any(name.startswith("encoder") for name in load_file(path))
    assert (report.missing, report.unexpected, report.mismatched) == ((), (), ())
    assert set(report.loaded) == set(one.trained_state_dict())


def test_equal_weights_give_equal_files(tmp_path: Path) -> None:
    model = WeightsToy()
    metadata = {"config": "SEED: 1", "vocabulary": [["cat"], ["dog", "puppy"]]}
    save(model, tmp_path / "a", metadata=metadata)
    save(model, tmp_path / "b", metadata=metadata)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    write(model.trained_state_dict(), tmp_path / "c", encoders=model.encoder_hashes(), metadata=metadata)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "c").read_bytes()


def test_a_file_can_be_read_by_whom_the_umask_allows(tmp_path: Path, file: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    assert file.stat().st_mode == plain.stat().st_mode


def test_metadata_hold_encoders_version_and_what_the_caller_gave(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save(WeightsToy(), path, metadata={"config": "SEED: 1\n", "vocabulary": [["cat"], ["dog", "puppy"]]})
    assert read_metadata(path) == {
        "format_version": 1,
        "encoders": {"CLIP RN50": "a" * 64, "SAM vit_b": "b" * 64},
        "config": "SEED: 1\n",
        "vocabulary": [["cat"], ["dog", "puppy"]],
    }


def test_metadata_may_not_take_our_own_names(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"\['encoders'\] are CMPF's own"):
        save(WeightsToy(), tmp_path / "model.safetensors", metadata={"encoders": "x"})


def test_tensors_that_share_memory_or_are_strided_are_written(tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    write_safetensors({"a": base, "b": base, "t": base.T}, tmp_path / "w", header={})
    assert torch.equal(load_file(tmp_path / "w")["t"], base.T)


def test_an_error_while_saving_leaves_the_earlier_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def fail(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("cmpf.weights.saving.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save(WeightsToy(), file, metadata={})
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_the_hash_is_sha256_of_headers_and_bytes_in_the_order_of_the_names() -> None:
    weights = {"b": torch.tensor([1, 2], dtype=torch.uint8), "a": torch.tensor(7, dtype=torch.uint8)}
    expected = hashlib.sha256(b"a torch.uint8 ();\x07b torch.uint8 (2,);\x01\x02").hexdigest()
    assert hash_weights(weights) == expected


def test_the_hash_sees_values_names_types_and_shapes_but_not_memory_layout() -> None:
    base = {"w": torch.arange(6.0).reshape(2, 3)}
    same = {"w": torch.arange(6.0).reshape(2, 3).T.contiguous().T}
    assert hash_weights(base) == hash_weights(same)
    changed = [
        {"w": base["w"] + 1},
        {"v": base["w"]},
        {"w": base["w"].reshape(3, 2)},
        {"w": base["w"].to(torch.bfloat16)},
    ]
    assert len({hash_weights(weights) for weights in [base, *changed]}) == 5
