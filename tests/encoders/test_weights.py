# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Files of frozen weights."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cmpf.errors import WeightsError
from cmpf.weights.files import cache_folder, file_sha256, hash_weights, load_weights, read_weights, summary


def test_the_cache_folder_is_cmpf_cache_or_lies_in_the_hugging_face_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CMPF_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("CMPF_CACHE")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    assert cache_folder() == tmp_path / "hf" / "cmpf"
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "huggingface" / "cmpf"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "huggingface" / "cmpf"


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "model.pth"])
def test_weights_come_back_as_they_were_written(tmp_path: Path, name: str) -> None:
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    load_weights(other, path)
    assert torch.equal(model.weight, other.weight)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent\.pth: no such file; give the path of"):
        read_weights(tmp_path / "absent.pth")


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pth", "empty.pth", "empty.safetensors"])
def test_a_truncated_file_is_named(tmp_path: Path, name: str) -> None:
    whole, path = tmp_path / "whole", tmp_path / name
    if path.suffix == ".safetensors":
        save_file(nn.Linear(30, 20).state_dict(), whole)
    else:
        torch.save(nn.Linear(30, 20).state_dict(), whole)
    path.write_bytes(b"" if name.startswith("empty") else whole.read_bytes()[:-500])
    with pytest.raises(WeightsError, match=rf"{name}: cannot be read, damaged"):
        read_weights(path)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("this must not run",))


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": Harmful()}, tmp_path / "harmful.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Harmful(), protocol=2))
    for name in ("harmful.pt", "plain.pt"):
        with pytest.raises(WeightsError, match="cannot be read"):
            read_weights(tmp_path / name)
    assert "must not run" not in capsys.readouterr().out


def test_a_file_that_holds_something_else_is_named(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match=r"list\.pt: holds list, expected a state dict"):
        read_weights(tmp_path / "list.pt")


def test_weights_of_another_model_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "small.pt")
    with pytest.raises(WeightsError, match=r"small\.pt: does not fit the model.*size mismatch"):
        load_weights(nn.Linear(4, 2), tmp_path / "small.pt")


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


def test_the_hash_of_a_file_is_that_of_its_bytes_however_many(tmp_path: Path) -> None:
    for size in (0, 5, (1 << 20) + 3):  # a piece is 2 ** 20 bytes
        (tmp_path / "file").write_bytes(b"x" * size)
        assert file_sha256(tmp_path / "file") == hashlib.sha256(b"x" * size).hexdigest()


def test_the_summary_of_an_error_is_one_short_line() -> None:
    assert summary(ValueError("a\n  b")) == "ValueError: a b"
    assert summary(ValueError("x" * 50), limit=20) == "ValueError: xxxxxxxx..."
