# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.detectron2_host import SMALL, host_model, needs
from helpers.tiny_model import tiny_model

from cmpf import weights
from cmpf.errors import WeightsError
from cmpf.model import CMPF

d2 = needs("cmpf.detectron2")
DetectionCheckpointer = needs("detectron2.checkpoint").DetectionCheckpointer


@pytest.fixture(scope="module")
def host() -> Any:
    return host_model()


@pytest.fixture(scope="module")
def native() -> CMPF:
    return tiny_model("fcclip_tiny", SMALL)


def spoil(model: CMPF) -> None:
    with torch.no_grad():
        for value in model.trained_state_dict().values():
            value.add_(1.0)


def same(a: CMPF, b: CMPF) -> bool:
    ours, theirs = a.trained_state_dict(), b.trained_state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_detectron2s_checkpoints_load_in_the_native_engine(host: Any, native: CMPF, tmp_path: Path) -> None:
    DetectionCheckpointer(host, str(tmp_path)).save("model_final", iteration=3)
    spoil(native)
    assert not same(native, host)
    report = weights.load(native, tmp_path / "model_final.pth")
    assert report.fits
    assert same(native, host)


def test_native_checkpoints_load_in_detectron2(host: Any, native: CMPF, tmp_path: Path) -> None:
    path = tmp_path / "native.safetensors"
    weights.save(native, path, metadata={})
    spoil(host)
    d2.Checkpointer(host).load(str(path))
    assert same(native, host)


def test_detectron2s_checkpoints_load_in_detectron2_without_a_word_of_missing_encoders(
    host: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    DetectionCheckpointer(host, str(tmp_path)).save("one")
    before = {name: value.clone() for name, value in host.state_dict().items()}
    for loader in (DetectionCheckpointer, d2.Checkpointer):
        spoil(host)
        loader(host).load(str(tmp_path / "one.pth"))
        assert all(torch.equal(before[name], value) for name, value in host.state_dict().items())
    assert "not found in the checkpoint" not in caplog.text


@pytest.mark.parametrize("loader", [DetectionCheckpointer, d2.Checkpointer])
def test_published_names_load_in_any_checkpointer_with_their_frozen_encoders(
    host: Any, native: CMPF, tmp_path: Path, loader: Any
) -> None:
    own = {name: torch.full_like(value, 0.25) for name, value in native.trained_state_dict().items()}
    clip = {
        name: torch.full_like(value, 0.5)
        for name, value in native.frozen_encoders()["clip"].weights().items()
    }
    published = weights.to_published(weights.Parts(trained=own, clip=clip, sam={}))
    assert not published.keys() & own.keys() - {"void_embedding.weight"}
    torch.save({"model": published}, tmp_path / "published.pth")
    before = {name: value.clone() for name, value in host.frozen_encoders()["clip"].weights().items()}
    try:
        loader(host).load(str(tmp_path / "published.pth"))
        assert all((value == 0.25).all() for value in host.trained_state_dict().values())
        assert all((value == 0.5).all() for value in host.frozen_encoders()["clip"].weights().values())
    finally:
        with torch.no_grad():
            for name, value in host.frozen_encoders()["clip"].weights().items():
                value.copy_(before[name])


@pytest.mark.parametrize("loader", [DetectionCheckpointer, d2.Checkpointer])
def test_a_file_with_a_part_of_the_trained_weights_is_an_error(
    host: Any, tmp_path: Path, loader: Any
) -> None:
    state = {name: value for name, value in host.state_dict().items() if not name.startswith("pixel_decoder")}
    torch.save({"model": state}, tmp_path / "part.pth")
    with pytest.raises(WeightsError, match=r"missing in the file: pixel_decoder"):
        loader(host).load(str(tmp_path / "part.pth"))


def test_weights_of_no_use_are_an_error_unless_they_are_allowed(
    host: Any, native: CMPF, tmp_path: Path
) -> None:
    state = {**native.trained_state_dict(), "decoder.gate.weight": torch.zeros(3)}
    torch.save({"model": state}, tmp_path / "more.pth")
    with pytest.raises(WeightsError, match=r"decoder\.gate\.weight"):
        d2.Checkpointer(host).load(str(tmp_path / "more.pth"))
    d2.Checkpointer(host, allow_unused=True).load(str(tmp_path / "more.pth"))
    assert same(native, host)


def test_weights_that_do_not_fit_are_an_error(host: Any, tmp_path: Path) -> None:
    state = host.state_dict()
    state["void_embedding.weight"] = state["void_embedding.weight"][:, :5]
    torch.save({"model": state}, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=r"does not fit the model.*void_embedding"):
        d2.Checkpointer(host).load(str(tmp_path / "odd.pth"))
