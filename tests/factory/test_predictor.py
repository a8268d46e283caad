# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_model import tiny_config, tiny_model
from PIL import Image
from safetensors.torch import save_file

import cmpf
from cmpf import weights
from cmpf.config import get_cfg
from cmpf.errors import CMPFError, ConfigError, EvaluationError, ModelNameError, WeightsError
from cmpf.factory import build_model, build_predictor, load_predictor
from cmpf.weights import read_contents
from cmpf.weights.zoo import zoo_weights
from cmpf.weights.zoo_entries import zoo

WORDS = ["red circle", "sky"]


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)


def run_folder(folder: Path, name: str = "no_ensemble") -> Path:
    """What train_net.py leaves behind: a configuration and trained weights."""
    folder.mkdir()
    (folder / "config.yaml").write_text(tiny_config(name).dump())
    model = tiny_model(name)
    torch.nn.init.constant_(model.void_embedding.weight, 0.25)  # told apart from a fresh model by this
    weights.save(model, folder / "model_final.safetensors", metadata={})
    return folder


def test_the_test_size_and_the_ensemble_come_from_the_configuration() -> None:
    predictor = build_predictor(
        tiny_config(overrides=["INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TEST", 160])
    )
    assert (predictor.short_side, predictor.max_side) == (96, 160)
    assert predictor.mask_ensemble is not None
    assert build_predictor(tiny_config("no_ensemble")).mask_ensemble is None


def test_the_shipped_tiny_model_loads_by_its_name_and_segments(image: np.ndarray) -> None:
    predictor = cmpf.load("cmpf_tiny", device="cpu")
    assert predictor.predict(image, WORDS).panoptic.shape == (40, 56)


def test_weights_given_by_hand_replace_those_of_the_zoo(tmp_path: Path) -> None:
    model = build_model(get_cfg("cmpf_tiny", ["MODEL.DEVICE", "cpu"]))
    torch.nn.init.constant_(model.void_embedding.weight, 0.25)
    weights.save(model, tmp_path / "own.safetensors", metadata={})
    predictor = cmpf.load("cmpf_tiny", device="cpu", weights=str(tmp_path / "own.safetensors"))
    assert (predictor.model.void_embedding.weight == 0.25).all()


def test_a_zoo_model_that_cannot_be_downloaded_says_where_its_weights_are() -> None:
    with pytest.raises(
        WeightsError, match=r"save https://drive\.google\.com/file/d/\S+/view as \S+convnext_large\.pth"
    ):
        cmpf.load("cmpf_convnext_large", device="cpu")


def test_overrides_of_a_zoo_entry_reach_its_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "zoo.yaml").write_text(
        "flat: {config: shapes/no_ensemble.yaml, asset: flat.safetensors,"
        " overrides: {MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS: 3, MODEL.MASK_FORMER.NUM_OBJECT_QUERIES: 7}}"
    )
    flat = ["MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS", 3, "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 7]
    model = build_model(get_cfg("no_ensemble", [*flat, "MODEL.DEVICE", "cpu"]))
    weights.save(model, tmp_path / "flat.safetensors", metadata={})
    monkeypatch.setattr("cmpf.weights.hub.zoo", lambda: zoo(tmp_path / "zoo.yaml"))
    predictor = load_predictor("flat", device="cpu", weights=tmp_path / "flat.safetensors")
    assert len(predictor.model.decoder.query_content.weight) == 7


def test_a_training_folder_is_a_model(image: np.ndarray, tmp_path: Path) -> None:
    folder = str(run_folder(tmp_path / "run"))
    torch.manual_seed(0)  # random encoders must be those that the weights belong to
    loaded = load_predictor(folder, device="cpu")
    assert (loaded.model.void_embedding.weight == 0.25).all()
    assert loaded.predict(image, WORDS).panoptic.shape == (40, 56)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (run_folder(tmp_path / "run") / "model_final.safetensors").unlink()
    with pytest.raises(ModelNameError, match=r"holds no model_final\.safetensors"):
        load_predictor(str(tmp_path / "run"))


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ModelNameError, match=r"'cmpf_tny' is unknown, did you mean cmpf_tiny\?"):
        cmpf.load("cmpf_tny")


def test_a_missing_config_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        cmpf.load("nowhere.yaml")


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", "fcclip_tiny")
    (tmp_path / "other.yaml").write_text(tiny_config("no_ensemble").dump())
    with pytest.raises(WeightsError):
        load_predictor(str(tmp_path / "other.yaml"), weights=str(run / "model_final.safetensors"))


def test_words_of_known_datasets_keep_their_kind() -> None:
    predictor = build_predictor(tiny_config("no_ensemble"))
    # stuff that only the validation set of ShapeWorld has, a thing of COCO, and a word that nobody knows
    assert predictor.vocabulary(["bamboo", "person", "unicorn"]).is_thing == (False, True, True)


def test_a_predictor_without_the_ensemble_says_how_to_load_it_with_one(image: np.ndarray) -> None:
    without = cmpf.load("shapes/no_ensemble.yaml", device="cpu")
    with pytest.raises(CMPFError, match="cmpf") as caught:
        without.predict(image, WORDS, ensemble=True)
    said = re.search(r"overrides=(\[.*?\])", str(caught.value))
    assert said is not None
    predictor = cmpf.load("shapes/no_ensemble.yaml", device="cpu", overrides=ast.literal_eval(said[1]))
    assert predictor.cfg is not None
    assert predictor.cfg.TEST.ENSEMBLE.ENABLED
    assert predictor.predict(image, WORDS, task="semantic", ensemble=True).semantic.shape == (40, 56)


def test_unused_weights_are_refused_unless_they_are_allowed(tmp_path: Path) -> None:
    shipped = read_contents(zoo_weights("cmpf_tiny"))
    given = {"model": "cmpf_tiny", "device": "cpu", "weights": str(tmp_path / "more.safetensors")}
    save_file({**shipped.tensors, "decoder.gate.weight": torch.zeros(3)}, given["weights"])
    with pytest.raises(WeightsError, match=r"1 weights that the model does not have: decoder\.gate\.weight"):
        cmpf.load(**given)
    predictor = cmpf.load(**given, allow_unused_weights=True)
    assert torch.equal(predictor.model.void_embedding.weight, shipped.tensors["void_embedding.weight"])


def test_overrides_go_before_the_config_and_the_folder(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    torch.manual_seed(0)
    assert load_predictor(run, overrides=["INPUT.MIN_SIZE_TEST", 72]).short_side == 72


def test_a_model_without_weights_is_used_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "bare.yaml").write_text(tiny_config("no_ensemble").dump())
    load_predictor(tmp_path / "bare.yaml")
    assert "bare.yaml names no weights, so the decoder is untrained" in caplog.text


def test_a_cache_of_masks_is_found_by_the_file_that_predict_is_given(
    image: np.ndarray, tmp_path: Path
) -> None:
    Image.fromarray(image).save(tmp_path / "a.png")
    cached = ["TEST.ENSEMBLE.SOURCE", "cache", "TEST.ENSEMBLE.CACHE_DIR", str(tmp_path / "masks")]
    predictor = build_predictor(tiny_config(overrides=cached))
    with pytest.raises(EvaluationError, match=r"a\.png: no SAM masks at input size .*Make them with"):
        predictor.predict(tmp_path / "a.png", WORDS, ensemble=True)
    with pytest.raises(EvaluationError, match="this sample has no file_name"):
        predictor.predict(image, WORDS, ensemble=True)
