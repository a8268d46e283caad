# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import cmpf
from cmpf.config import get_cfg
from cmpf.data import get_vocabulary
from cmpf.errors import CMPFError, EvaluationError
from cmpf.factory import build_predictor
from cmpf.factory.pretrained import model_card
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
    with pytest.raises(EvaluationError, match=r"nowhere\.json: no results"):
        predictor().save_pretrained(tmp_path / "mine", metrics=tmp_path / "nowhere.json")
    assert not (tmp_path / "mine").exists()


def test_a_predictor_without_configuration_says_so(tmp_path: Path) -> None:
    plain = Predictor(model=predictor().model, short_side=64, max_side=128, mask_ensemble=None)
    with pytest.raises(CMPFError, match=r"has no configuration to save; make it with cmpf\.load"):
        plain.save_pretrained(tmp_path)


def card(config: str = "cmpf_tiny", overrides: tuple[object, ...] = (), **changes: Any) -> str:
    cfg = get_cfg(config, overrides)
    values = {"title": "me/fruit", "parameters": 1234567, "metrics": None, "license": "", "notes": ""}
    return model_card(cfg, vocabulary=get_vocabulary(cfg.DATASETS.TRAIN[0]), **(values | changes))


def section(text: str, name: str) -> str:
    return text.split(f"## {name}\n")[1].split("\n## ")[0]


def test_the_head_is_what_the_hub_reads() -> None:
    head = yaml.safe_load(card(license="cc-by-4.0").split("---")[1])
    assert head["library_name"] == "cmpf"
    assert head["pipeline_tag"] == "image-segmentation"
    assert head["license"] == "cc-by-4.0"
    assert "license" not in yaml.safe_load(card().split("---")[1])


def test_use_model_data_and_recipe_come_from_the_configuration() -> None:
    text = card(overrides=("SOLVER.MAX_ITER", 4321, "MODEL.CMPF.FEATURE_INJECTOR.ENABLED", False))
    assert 'cmpf.load("me/fruit")' in section(text, "Use")
    assert "1,234,567 parameters" in section(text, "Model")
    assert "switched on: Query Injector, OpenSeg Ensemble" in section(text, "Model")
    assert "`shapes_train` (panoptic): 21 classes, 15 things and 6 kinds of stuff" in section(text, "Data")
    assert "4,321 iterations of 8 images" in section(text, "Recipe")
    bare = card("shapes/fcclip_tiny")
    assert "neither injector nor ensemble" in bare
    assert "and 73 more." in section(card("coco/cmpf/convnext_large_eval_ade20k"), "Data")  # 133 - 60


def test_licenses_of_code_weights_and_each_encoder_are_told() -> None:
    large = section(card("coco/cmpf/convnext_large_eval_ade20k", license="mit"), "Licenses")
    assert "| code (CMPF) | Apache-2.0 |" in large
    assert "| trained weights in this folder | mit |" in large
    assert "CLIP `convnext_large_d_320` | MIT for OpenCLIP" in large
    assert "SAM `vit_b` | Apache-2.0 (https://github.com/facebookresearch" in large
    assert "not said" in section(card(), "Licenses")
    assert "SAM `cmpf_tiny` | Apache-2.0, part of CMPF" in section(card(), "Licenses")
    mobile = ("TEST.ENSEMBLE.ENABLED", True, "TEST.ENSEMBLE.SAM_NAME", "vit_t")
    assert "SAM `vit_t` | Apache-2.0 (https://github.com/ChaoningZhang" in card(overrides=mobile)


def test_every_method_that_a_model_is_made_of_is_cited() -> None:
    keys = {"cmpf2026", "chen2024frozenseg", "yu2023fcclip"}
    assert set(re.findall(r"@\w+\{(\w+),", section(card(), "Citing"))) == keys
    maftp = section(card("shapes/maftp_tiny"), "Citing")
    assert set(re.findall(r"@\w+\{(\w+),", maftp)) == {*keys, "jiao2024maftplus"}


def test_metrics_come_from_a_mapping_or_the_file_of_an_evaluation(tmp_path: Path) -> None:
    results = {"shapes_val": {"panoptic": {"PQ": 12.5, "U_PQ": None}}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    for given in (results, tmp_path / "results.json", str(tmp_path / "results.json")):
        assert "| shapes_val | 12.50 | - |" in section(card(metrics=given), "Metrics")
    assert section(card(), "Metrics").strip() == "Not measured."


@pytest.mark.parametrize("content", ["[]", "{", '{"a": 3}', '{"a": {"b": {"c": "many"}}}'])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(EvaluationError, match=r"results\.json: (no whole JSON|not of the form)"):
        card(metrics=tmp_path / "results.json")


def test_notes_are_the_last_section() -> None:
    assert card(notes=" Made in a hurry. ").endswith("## Notes\nMade in a hurry.\n")
    assert "## Notes" not in card()
