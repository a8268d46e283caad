# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Predictors by name or configuration, and the folders that they save."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers.tiny_model import tiny_config, tiny_model
from PIL import Image
from safetensors.torch import save_file

import cmpf
from cmpf import weights
from cmpf.config import get_cfg
from cmpf.data import get_vocabulary
from cmpf.errors import CMPFError, ConfigError, EvaluationError, ModelNameError, WeightsError
from cmpf.factory import build_model, build_predictor, load_predictor
from cmpf.factory.pretrained import model_card
from cmpf.predictor import Predictor
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


def test_a_sam_that_keeps_the_aspect_of_images_is_one_override_away(image: np.ndarray) -> None:
    square, oblong = (
        cmpf.load("cmpf_tiny", device="cpu", overrides=["MODEL.CMPF.SAM.KEEP_ASPECT", keep])
        for keep in (False, True)
    )
    assert not square.model.encoders.sam_keeps_aspect
    assert oblong.model.encoders.sam_keeps_aspect
    assert oblong.predict(image, WORDS).semantic.shape == (40, 56)
    alike = image[:, :40]
    assert np.array_equal(oblong.predict(alike, WORDS).semantic, square.predict(alike, WORDS).semantic)


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


@pytest.mark.parametrize("options", [{"overrides": "INPUT.MIN_SIZE_TEST 128"}, {"plugins": "parts.py"}])
def test_one_string_in_place_of_a_list_is_refused_as_such(options: dict[str, str]) -> None:
    (name,) = options
    with pytest.raises(ConfigError, match=f"{name} must be a list, got '{options[name]}'"):
        load_predictor("cmpf_tiny", **options)  # type: ignore[arg-type]


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ModelNameError, match=r"'cmpf_tny' is unknown, did you mean cmpf_tiny\?"):
        cmpf.load("cmpf_tny")


def test_a_missing_config_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        cmpf.load("nowhere.yaml")


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", "fcclip_tiny")
    (tmp_path / "other.yaml").write_text(tiny_config("no_ensemble").dump())
    with pytest.raises(WeightsError, match=r"trained with the encoders clip/cmpf_tiny .*this model has clip"):
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


FILES = ["README.md", "config.yaml", "model_final.safetensors"]
CLASSES = ["red circle", "unicorn", "sky"]
# No random encoders: those of the folder must be the same as those of the model.
SMALL = ["MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", 96, "NUM_THREADS", 1]


@pytest.fixture(scope="module")
def saved_image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)


def predictor(*overrides: object) -> Predictor:
    torch.manual_seed(1)
    return build_predictor(get_cfg("shapes/no_ensemble", [*SMALL, *overrides]))


def assert_equal(one: Predictor, other: Predictor, saved_image: np.ndarray) -> None:
    a, b = one.predict(saved_image, CLASSES), other.predict(saved_image, CLASSES)
    assert np.array_equal(a.panoptic, b.panoptic)
    assert np.array_equal(a.semantic, b.semantic)
    assert np.array_equal(a.instances.scores, b.instances.scores)


def test_what_was_saved_predicts_the_same(saved_image: np.ndarray, tmp_path: Path) -> None:
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
    assert_equal(original, loaded, saved_image)
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


def test_a_model_of_an_own_dataset_carries_its_words(saved_image: np.ndarray, tmp_path: Path) -> None:
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
    assert_equal(original, loaded, saved_image)
    loaded.save_pretrained(tmp_path / "again")  # whose training dataset is the file in the folder
    assert cmpf.load(str(tmp_path / "again"), device="cpu").model.train_vocabulary.names[1] == "pear"
    predictor().save_pretrained(tmp_path / "mine")
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == FILES


def test_a_path_of_encoders_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from cmpf.encoders.tiny import CLIP_WEIGHTS
    from cmpf.weights.download import checked_asset

    file = checked_asset(CLIP_WEIGHTS)
    predictor("MODEL.CMPF.CLIP.PRETRAINED", str(file)).save_pretrained(tmp_path)
    assert f"MODEL.CMPF.CLIP.PRETRAINED is the local file {file}: other users need a copy" in caplog.text


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
    two = ("shapes_train", "shapes_val")  # of which the first one is used for training
    text = card(
        overrides=(
            "SOLVER.MAX_ITER",
            4321,
            "MODEL.CMPF.FEATURE_INJECTOR.ENABLED",
            False,
            "DATASETS.TRAIN",
            two,
        )
    )
    assert 'cmpf.load("me/fruit")' in section(text, "Use")
    assert "1,234,567 parameters" in section(text, "Model")
    assert "switched on: Query Injector, OpenSeg Ensemble" in section(text, "Model")
    assert "Trained on `shapes_train` (panoptic): 21 classes, 15 things and 6 kinds of stuff" in section(
        text, "Data"
    )
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
    with pytest.raises(EvaluationError, match=r"results\.json: (not a complete JSON|not of the form)"):
        card(metrics=tmp_path / "results.json")


def test_notes_are_the_last_section() -> None:
    assert card(notes=" Made in a hurry. ").endswith("## Notes\nMade in a hurry.\n")
    assert "## Notes" not in card()
