# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Types, ranges and the nearest valid key."""

from __future__ import annotations

import pytest

from cmpf.config import default_config, get_cfg
from cmpf.config.issues import Origin
from cmpf.config.validation import merge, nearest_key
from cmpf.config.yaml_files import Setting
from cmpf.errors import ConfigError


def issue_of(key: str, value: object) -> str:
    issues = merge(default_config(), [Setting(key, value, Origin())])
    assert len(issues) == 1
    return issues[0].message


@pytest.mark.parametrize(
    ("key", "value", "got"),
    [
        ("SEED", True, "True"),
        ("SEED", 1.5, "1.5"),
        ("SEED", "many", '"many"'),
        ("SEED", None, "nothing"),
        ("SOLVER.BASE_LR", float("nan"), "nan"),
        ("SOLVER.BASE_LR", float("inf"), "inf"),
        ("SOLVER.BASE_LR", 10**400, "1000"),
        ("SOLVER.AMP.ENABLED", 1, "1"),
        ("SOLVER.AMP.ENABLED", "yes please", '"yes please"'),
        ("SOLVER.STEPS", "(10, 5)", '"(10, 5)"'),
        ("SOLVER.STEPS", 5, "5"),
        ("SOLVER.STEPS", (1.5,), "(1.5,)"),
        ("OUTPUT_DIR", 7, "7"),
        ("OUTPUT_DIR", "", '""'),
        ("MODEL.WEIGHTS", None, "nothing"),
        ("MODEL.DEVICE", "gpu", '"gpu"'),
        ("MODEL.PIXEL_STD", (1, 2), "(1, 2)"),
        ("MODEL.PIXEL_STD", (1, 2, 0), "(1, 2, 0)"),
        ("MODEL.MASK_FORMER.TEST.SEMANTIC_OUTPUT", "label", '"label"'),
        ("MODEL.MASK_FORMER.SIZE_DIVISIBILITY", 16, "16"),
        ("MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS", 1, "1"),
        ("MODEL.CMPF.DEFORMABLE_ATTENTION", "cuda", '"cuda"'),
        ("DATASETS.TRAIN", (), "()"),
        ("DATASETS.TEST", ("a", 3), "('a', 3)"),
        ("TEST.BEST_METRIC", "PQ", '"PQ"'),
    ],
)
def test_a_value_of_the_wrong_type_or_range_names_what_is_allowed_and_what_came(key, value, got):
    message = issue_of(key, value)
    assert message.startswith("expected ")
    assert f"got {got}" in message


def test_a_long_value_is_cut_in_the_message():
    assert len(issue_of("SEED", "x" * 5000)) < 200


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("MODEL.MASK_FORMR.NHEADS", "MODEL.MASK_FORMER.NHEADS"),
        ("SOLVER.LR", "SOLVER.BASE_LR"),
        ("solver.max_iter", "SOLVER.MAX_ITER"),
        ("BASE_LR", "SOLVER.BASE_LR"),
        ("MODEL.CMPF.TEST.ENSEMBLE.ENABLED", "TEST.ENSEMBLE.ENABLED"),
        ("MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_ALPHA", "MODEL.CMPF.GEOMETRIC_ENSEMBLE_ALPHA"),
    ],
)
def test_an_unknown_key_leads_to_the_nearest_known_one(wrong, right):
    assert nearest_key(wrong) == right
    assert issue_of(wrong, 1) == f"unknown, did you mean {right}?"


def test_a_section_with_a_value_and_a_value_with_a_section_are_told_apart():
    assert issue_of("SOLVER", 3) == "is a section of keys, got the value 3"
    assert issue_of("SEED.DEEPER", 3) == "SEED is a key with a value, not a section"


def test_an_empty_section_changes_nothing():
    assert merge(default_config(), [Setting("SOLVER", {}, Origin())]) == []


def test_a_bad_value_does_not_also_trip_the_rules_it_takes_part_in():
    with pytest.raises(ConfigError) as caught:
        get_cfg(overrides=["SOLVER.MAX_ITER", "0"])
    assert str(caught.value).startswith("1 issue")
