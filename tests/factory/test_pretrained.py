# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import cmpf
from cmpf.config import get_cfg
from cmpf.errors import CMPFError, EvaluationError
from cmpf.factory import build_predictor
from cmpf.predictor import Predictor

FILES = ["README.md", "config.yaml", "model_final.safetensors"]
WORDS = ["red circle", "unicorn", "sky"]
# No random encoders: those of the folder must be the same as those of the model.
SMALL = ["MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", 96, "NUM_THREADS", 1]


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)


def predictor(*overrides: object) -> Predictor:
    torch.manual_seed(1)
    return build_predictor(get_cfg("shapes/no_ensemble", [*SMALL, *overrides]))


def assert_equal(one: Predictor, other: Predictor, image: np.ndarray) -> None:
    a, b = one.predict(image, WORDS), other.predict(image, WORDS)
    assert np.array_equal(a.panoptic, b.panoptic)
    assert np.array_equal(a.semantic, b.semantic)
    assert np.array_equal(a.instances.scores, b.instances.scores)


def test_what_was_saved_predicts_the_same(image: np.ndarray, tmp_path: Path) -> None:
    original = predictor()
    written = original.save_pretrained(tmp_path / "mine", metrics={"shapes_val": {"panoptic": {"PQ": 12.5}}})
    assert (
        sorted(path.name for path in written)
        == sorted(p.name for p in (tmp_path / "mine").iterdir())
        == FILES
    )
    assert "| shapes_val | 12.50 |" in (tmp_path / "mine" / "README.md").read_text()
    loaded = cmpf.load(str(tmp_path / "mine"), device="cpu")
    assert (loaded.short_side, loaded.max_side) == (original.short_side, original.max_side) == (96, 256)
    assert_equal(original, loaded, image)
    loaded.save_pretrained(tmp_path / "again")
    for name in FILES[1:]:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "mine" / name).read_bytes()


def test_nothing_of_this_machine_is_saved(tmp_path: Path) -> None:
    predictor("OUTPUT_DIR", "/home/me/secret", "DATASETS.TEST", ["file:/home/me/val.yaml"]).save_pretrained(
        tmp_path
    )
    text = (tmp_path / "config.yaml").read_text() + (tmp_path / "README.md").read_text()
    assert "/home/me" not in text
    assert "DEVICE: auto" in text


def test_a_model_of_an_own_dataset_carries_its_words(image: np.ndarray, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "fruit.yaml").write_text(
        "name: fruit\ntask: panoptic\nimages: i\nannotations: a.json\nvocabulary: [apple, 'pear, quince', sky]\n"
        "things: [apple, pear]\n"
    )
    original = predictor("DATASETS.TRAIN", [f"file:{own / 'fruit.yaml'}"])
    original.save_pretrained(tmp_path / "mine")
    (own / "fruit.yaml").unlink()
    loaded = cmpf.load(str(tmp_path / "mine"), device="cpu")
    assert loaded.model.train_vocabulary == original.model.train_vocabulary
    assert loaded.model.train_vocabulary.is_thing == (True, True, False)
    assert_equal(original, loaded, image)
    loaded.save_pretrained(tmp_path / "again")  # whose training dataset is the file in the folder
    assert cmpf.load(str(tmp_path / "again"), device="cpu").model.train_vocabulary.names[1] == "pear"
    predictor().save_pretrained(tmp_path / "mine")
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == FILES


def test_a_path_of_encoders_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from cmpf.encoders.tiny import CLIP_WEIGHTS
    from cmpf.weights.download import checked_asset

    file = checked_asset(CLIP_WEIGHTS)
    predictor("MODEL.CMPF.CLIP.PRETRAINED", str(file)).save_pretrained(tmp_path)
    assert f"MODEL.CMPF.CLIP.PRETRAINED is the file {file}: others need it too" in caplog.text


def test_wrong_metrics_leave_no_folder(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"nowhere\.json: cannot be read"):
        predictor().save_pretrained(tmp_path / "mine", metrics=tmp_path / "nowhere.json")
    assert not (tmp_path / "mine").exists()


def test_a_predictor_without_configuration_says_so(tmp_path: Path) -> None:
    plain = Predictor(model=predictor().model, short_side=64, max_side=128, mask_ensemble=None)
    with pytest.raises(CMPFError, match=r"has no configuration to save; make it with cmpf\.load"):
        plain.save_pretrained(tmp_path)
