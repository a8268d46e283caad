# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cmpf.config import get_cfg
from cmpf.data import get_vocabulary
from cmpf.errors import EvaluationError
from cmpf.factory.model_card import model_card


def card(config: str = "cmpf_tiny", overrides: tuple[object, ...] = (), **changes: Any) -> str:
    cfg = get_cfg(config, overrides)
    values = {"title": "me/fruit", "parameters": 1234567, "metrics": None, "licence": "", "notes": ""}
    return model_card(cfg, vocabulary=get_vocabulary(cfg.DATASETS.TRAIN[0]), **(values | changes))


def section(text: str, name: str) -> str:
    return text.split(f"## {name}\n")[1].split("\n## ")[0]


def test_the_head_is_what_the_hub_reads() -> None:
    head = yaml.safe_load(card(licence="cc-by-4.0").split("---")[1])
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


def test_licences_of_code_weights_and_each_encoder_are_told() -> None:
    large = section(card("coco/cmpf/convnext_large_eval_ade20k", licence="mit"), "Licences")
    assert "| code (CMPF) | Apache-2.0 |" in large
    assert "| trained weights in this folder | mit |" in large
    assert "CLIP `convnext_large_d_320` | MIT for OpenCLIP" in large
    assert "SAM `vit_b` | Apache-2.0 (https://github.com/facebookresearch" in large
    assert "not said" in section(card(), "Licences")
    assert "SAM `cmpf_tiny` | Apache-2.0, part of CMPF" in section(card(), "Licences")
    mobile = ("TEST.ENSEMBLE.ENABLED", True, "TEST.ENSEMBLE.SAM_NAME", "vit_t")
    assert "SAM `vit_t` | Apache-2.0 (https://github.com/ChaoningZhang" in card(overrides=mobile)


def test_metrics_come_from_a_mapping_or_the_file_of_an_evaluation(tmp_path: Path) -> None:
    results = {"shapes_val": {"panoptic": {"PQ": 12.5, "U_PQ": None}}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    for given in (results, tmp_path / "results.json", str(tmp_path / "results.json")):
        assert "| shapes_val | 12.50 | - |" in section(card(metrics=given), "Metrics")
    assert section(card(), "Metrics").strip() == "Not measured."


@pytest.mark.parametrize("content", ["[]", "{", '{"a": 3}', '{"a": {"b": {"c": "many"}}}'])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(EvaluationError, match=r"results\.json: (cannot be read|expected dataset -> task)"):
        card(metrics=tmp_path / "results.json")


def test_notes_are_the_last_section() -> None:
    assert card(notes=" Made in a hurry. ").endswith("## Notes\nMade in a hurry.\n")
    assert "## Notes" not in card()
