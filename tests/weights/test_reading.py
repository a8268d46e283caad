# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Files of weights, read and written."""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.toy_training import WeightsToy
from safetensors.torch import load_file, save_file
from torch import nn

from cmpf.errors import WeightsError, summary
from cmpf.weights import load, read_contents, read_metadata, save, write, write_safetensors
from cmpf.weights.reading import load_weights, unwrap_state_dict
from cmpf.weights.saving import hash_weights

WEIGHTS = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3)}


def detectron2_checkpoint() -> dict[str, object]:
    """What a training checkpoint holds beside the weights: numbers of NumPy, counters, the optimizer's state."""
    from collections import Counter

    return {
        "model": {"module.a": np.array([1, 2], dtype=np.float32), "module.b": np.int64(3)},
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": np.float64(1e-4)}]},
        "scheduler": {"milestones": Counter({327778: 1}), "_last_lr": [np.float64(1e-6)], "x": np.float32(1)},
        "iteration": np.int64(368749),
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before PyTorch 1.6"])
@pytest.mark.parametrize("wrap", [dict, lambda w: {"model": w}, lambda w: {"state_dict": w, "epoch": 3}])
def test_state_dicts_are_found_in_files_of_torch(tmp_path: Path, zipped: bool, wrap: object) -> None:
    torch.save(wrap(WEIGHTS), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    found = read_contents(tmp_path / "w.pth").tensors
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name], value) for name, value in WEIGHTS.items())


def test_a_detectron2_checkpoint_with_numbers_of_numpy_is_read(tmp_path: Path) -> None:
    torch.save(detectron2_checkpoint(), tmp_path / "model_final.pth")
    found = read_contents(tmp_path / "model_final.pth").tensors
    assert found.keys() == {"a", "b"}
    assert torch.equal(found["a"], WEIGHTS["a"])
    assert torch.equal(found["b"], WEIGHTS["b"])


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_numbers_written_by_numpy_1_and_2_are_read(tmp_path: Path, module: str) -> None:
    # The file of this NumPy, with the other one's name of the module in its place.
    own = np.float64(0).__reduce__()[0].__module__
    torch.save(detectron2_checkpoint(), tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "w.pth").read_bytes()
    assert own.encode() + b"\n" in content  # protocol 2 writes names as lines
    (tmp_path / "w.pth").write_bytes(content.replace(own.encode() + b"\n", module.encode() + b"\n"))
    assert torch.equal(read_contents(tmp_path / "w.pth").tensors["a"], WEIGHTS["a"])


def test_nothing_stays_allowed_after_reading(tmp_path: Path) -> None:
    before = torch.serialization.get_safe_globals()
    torch.save(detectron2_checkpoint(), tmp_path / "w.pth")
    read_contents(tmp_path / "w.pth")
    assert set(torch.serialization.get_safe_globals()) == set(before)  # a list in no particular order


def test_bare_pickles_are_refused_unopened_with_the_reason_and_the_fix(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "harm",))  # type: ignore[return-value]

    for name in ("model.pkl", "renamed.pth"):
        (tmp_path / name).write_bytes(pickle.dumps({"model": {"a": Harmful()}}))
        with pytest.raises(WeightsError, match=r"can run any code when it is read.*torch\.save\("):
            read_contents(tmp_path / name)
    torch.save(
        WEIGHTS, tmp_path / "torch.pkl"
    )  # Detectron2's ending for pickles; its content is not looked at
    with pytest.raises(WeightsError, match="Python pickle"):
        read_contents(tmp_path / "torch.pkl")
    assert not (tmp_path / "harm").exists()


def test_the_fix_for_pickles_works(tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(
        pickle.dumps({"model": {"a": np.array([1.0, 2.0])}, "matching_heuristics": True})
    )
    content = pickle.loads((tmp_path / "m.pkl").read_bytes())
    torch.save({name: torch.as_tensor(value) for name, value in content["model"].items()}, tmp_path / "m.pth")
    assert read_contents(tmp_path / "m.pth").tensors["a"].tolist() == [1.0, 2.0]


def test_objects_in_a_checkpoint_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"model": WEIGHTS, "args": argparse.Namespace(lr=1)}, tmp_path / "w.pth")
    with pytest.raises(
        WeightsError, match=r"more than weights \(argparse\.Namespace\).*torch\.save\(model\.state"
    ):
        read_contents(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_torchscript_archives_are_refused_with_the_setting_that_replaces_them(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "RN50x64.pt")
    for read in (read_contents, read_metadata):
        with pytest.raises(WeightsError, match=r"TorchScript archive.*MODEL\.CMPF\.CLIP\.PRETRAINED openai"):
            read(tmp_path / "RN50x64.pt")


@pytest.mark.parametrize(
    "content", [[1, 2], {"model": {"a": "text"}}, {"a": np.array(["x"])}, torch.zeros(2)]
)
def test_a_file_without_weights_by_name_is_refused(tmp_path: Path, content: object) -> None:
    if isinstance(content, dict) and isinstance(content.get("a"), np.ndarray):
        with pytest.raises(WeightsError, match="'a' is a ndarray, expected a tensor"):
            unwrap_state_dict(content, "it")
        return
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"holds a (list|Tensor), expected weights by name|'a' is a str"):
        read_contents(tmp_path / "w.pth")


def test_module_is_cut_off_only_where_all_names_have_it() -> None:
    some = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    assert unwrap_state_dict(some, "it").keys() == some.keys()
    assert unwrap_state_dict({"module.a": torch.zeros(1)}, "it").keys() == {"a"}


@pytest.mark.parametrize("length", [0, 5, 100, -8])
def test_a_truncated_file_is_an_error_with_the_fix(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(
        WeightsError, match=r"model\.safetensors is truncated, damaged .*Copy or download it again"
    ):
        read_contents(file)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_truncated_file_of_torch_is_an_error_with_the_fix(
    tmp_path: Path, zipped: bool, share: float
) -> None:
    path = tmp_path / "w.pth"
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WeightsError, match=r"w\.pth (is truncated, damaged|is a Python pickle)"):
        read_contents(path)


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (
            "<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>",
            "its download quota is used up",
        ),
        ("\n<html><head><title>Sign in - Google Accounts</title></head></html>", "it asks to sign in"),
        ("<HTML><BODY>404 Not Found</BODY></HTML>", "the file was removed"),
        ("<html><title>Welcome  to\nWi-Fi</title></html>", 'its title is "Welcome to Wi-Fi"'),
    ],
)
@pytest.mark.parametrize("read", [read_contents, read_metadata])
def test_a_web_page_that_was_saved_as_weights_is_called_one(
    tmp_path: Path, page: str, reason: str, read: Callable[[Path], object]
) -> None:
    (tmp_path / "fcclip_cocopan.pth").write_text(page)
    with pytest.raises(WeightsError, match=rf"fcclip_cocopan\.pth is a web page, not weights \({reason}"):
        read(tmp_path / "fcclip_cocopan.pth")


def test_a_file_of_another_kind_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_text("neither weights nor a web page, but longer than eight bytes")
    with pytest.raises(WeightsError, match="no safetensors file"):
        read_contents(tmp_path / "a.safetensors")


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    # A header of 0x280 = 640 bytes: the file begins with 80 02, as pickles of protocol 2 do.
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).ljust(640).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes((640).to_bytes(8, "little") + header + np.float32(7).tobytes())
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert read_contents(path).tensors["a"].tolist() == [7.0]


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weights at .*absent\.safetensors"):
        read_contents(tmp_path / "absent.safetensors")
    with pytest.raises(WeightsError, match="no such file"):
        read_contents(tmp_path)


def test_metadata_are_those_of_our_own_files_only(tmp_path: Path, file: Path) -> None:
    assert read_contents(file).metadata == read_metadata(file) != {}
    save_file(WEIGHTS, tmp_path / "w.safetensors", metadata={"format": "pt"})
    torch.save(WEIGHTS, tmp_path / "w.pth")
    assert read_metadata(tmp_path / "w.safetensors") == read_metadata(tmp_path / "w.pth") == {}


def test_a_newer_format_asks_for_an_update(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "w", metadata={"cmpf": json.dumps({"format_version": 2})})
    with pytest.raises(WeightsError, match=r"format version 2, this CMPF reads version 1\. Update CMPF"):
        read_contents(tmp_path / "w")


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        {"encoders": {"CLIP RN50": 5}},
        {"encoders": {"CLIP RN50": ["a"]}},
        {"encoders_in": []},
        {"encoders_in": {"clip": 5}},
        {"plugins": "my_decoder"},
        {"zoo": "cmpf_convnext_large"},
    ],
)
def test_metadata_of_another_form_are_refused_by_every_reader(tmp_path: Path, metadata: object) -> None:
    save_file(WEIGHTS, tmp_path / "w", metadata={"cmpf": json.dumps(metadata)})
    for read in (read_contents, read_metadata):
        with pytest.raises(WeightsError, match="its metadata under 'cmpf' are of another form"):
            read(tmp_path / "w")


# Weights of one module


@pytest.mark.parametrize(
    "wrap", [dict, lambda w: {"model": w, "epoch": np.float64(3)}], ids=["plain", "training"]
)
def test_a_module_takes_every_file_that_the_reader_reads(tmp_path: Path, wrap: object) -> None:
    one, two = nn.Linear(3, 2), nn.Linear(3, 2)
    weights = {f"module.{name}": value.numpy() for name, value in one.state_dict().items()}
    torch.save(wrap(weights), tmp_path / "w.pth")  # type: ignore[operator]
    load_weights(two, tmp_path / "w.pth")
    assert torch.equal(one.weight, two.weight)


def test_weights_of_another_module_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "small.pt")
    with pytest.raises(WeightsError, match=r"small\.pt: does not fit the model.*size mismatch"):
        load_weights(nn.Linear(4, 2), tmp_path / "small.pt")


def test_the_summary_of_an_error_is_one_short_line() -> None:
    assert summary(ValueError("a\n  b")) == "ValueError: a b"
    assert summary(ValueError("x" * 50), limit=20) == "ValueError: xxxxxxxx..."


def test_a_damaged_archive_is_an_error_of_weights(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    directory = content.index(b"PK\x01\x02")  # of the archive's members
    (tmp_path / "w.pth").write_bytes(content[:directory] + b"XX" + content[directory + 2 :])
    with pytest.raises(WeightsError, match=r"w\.pth is truncated, damaged or no PyTorch file"):
        read_contents(tmp_path / "w.pth")


def test_messages_are_cut_and_their_control_characters_escaped() -> None:
    assert str(WeightsError("a\x1b[31mb\x00.pth: damaged")) == "a\\x1b[31mb\\x00.pth: damaged"
    assert str(WeightsError("x" * 200_000)) == "x" * 20_000 + "... (200,000 letters)"
    assert str(WeightsError("Größe 猫")) == "Größe 猫"


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
