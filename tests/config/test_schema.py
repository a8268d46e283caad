# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The tree of keys: defaults, what each key takes, and the conditions over several."""

from __future__ import annotations

import copy
import pickle

import pytest
import yaml

from cmpf.config import get_cfg, with_overrides
from cmpf.config.keys import KEYS, leaves, nearest_key, read_from, write_into
from cmpf.config.relations import RELATIONS
from cmpf.config.schema import Config
from cmpf.errors import ConfigError


def issue_of(key: str, value: object) -> str:
    with pytest.raises(ConfigError) as caught:
        get_cfg(overrides=[key, value])
    message = str(caught.value)
    assert message.startswith(f"1 issue: override: {key}: ")
    return message.removeprefix(f"1 issue: override: {key}: ")


def test_every_key_has_words_for_what_it_may_hold_and_what_it_means() -> None:
    assert [key.name for key in KEYS.values() if not (key.allowed and key.meaning)] == []


def test_every_default_is_allowed_and_already_in_the_type_of_its_key() -> None:
    for key, value in leaves(Config()):
        parsed = KEYS[key].parse(value)
        assert (parsed, type(parsed)) == (value, type(value)), key


def test_a_configuration_cannot_be_changed() -> None:
    cfg = get_cfg()
    for section, key in (
        (cfg, "SEED"),
        (cfg.SOLVER, "BASE_LR"),
        (cfg.SOLVER, "NEW"),
        (cfg.MODEL.CMPF.EXTRA, "NEW"),
    ):
        with pytest.raises(
            ConfigError, match=rf"{key} = 1: .* cannot be changed; cmpf\.config\.with_overrides"
        ):
            setattr(section, key, 1)
    with pytest.raises(ConfigError, match="del SEED: a configuration cannot be changed"):
        del cfg.SEED


def test_a_mapping_of_a_configuration_cannot_be_changed_but_copied_and_written() -> None:
    cfg = get_cfg(overrides=["DATASETS.VOCABULARIES", {"shapes_val": "words.txt"}])
    vocabularies = cfg.DATASETS.VOCABULARIES
    assert isinstance(vocabularies, dict)
    with pytest.raises(
        ConfigError, match=r"\{'shapes_val': 'words.txt'\}: a configuration cannot be changed"
    ):
        vocabularies["shapes_train"] = "words.txt"
    with pytest.raises(ConfigError, match="cannot be changed"):
        vocabularies.pop("shapes_val")
    for copied in (copy.deepcopy(cfg), pickle.loads(pickle.dumps(cfg)), with_overrides(cfg, {"SEED": 1})):
        assert copied.DATASETS == cfg.DATASETS
        with pytest.raises(ConfigError, match="cannot be changed"):
            copied.DATASETS.VOCABULARIES.clear()  # type: ignore[union-attr]
    assert yaml.safe_load(cfg.dump())["DATASETS"]["VOCABULARIES"] == {"shapes_val": "words.txt"}


@pytest.mark.parametrize(
    ("key", "value", "got"),
    [
        ("SEED", True, "True"),
        ("SEED", 1.5, "1.5"),
        ("SEED", "many", '"many"'),
        ("SEED", "05", '"05"'),
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
        ("MODEL.CMPF.QUERY_INJECTOR.LEVEL", 3, "3"),
        ("DATASETS.TRAIN", (), "()"),
        ("DATASETS.TEST", ("a", 3), "('a', 3)"),
        ("DATASETS.TEST", "[shapes_val,mine]", '"[shapes_val,mine]"'),
        ("TEST.BEST_METRIC", "PQ", '"PQ"'),
        ("MODEL.CMPF.PLUGINS", 3, "3"),
        ("MODEL.CMPF.EXTRA", 3, "3"),
    ],
)
def test_a_value_of_the_wrong_type_or_range_names_what_is_allowed_and_what_came(
    key: str, value: object, got: str
) -> None:
    message = issue_of(key, value)
    assert message.startswith(f"expected {KEYS[key].allowed}, got {got}")


def test_choices_are_listed() -> None:
    assert issue_of("SOLVER.AMP.DTYPE", "fp32") == 'expected one of auto, bf16, fp16, got "fp32"'


def test_a_long_value_is_cut_in_the_message() -> None:
    assert len(issue_of("SEED", "x" * 5000)) < 200


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("MODEL.MASK_FORMR.NHEADS", "MODEL.MASK_FORMER.NHEADS"),
        ("SOLVER.LR", "SOLVER.BASE_LR"),
        ("solver.max_iter", "SOLVER.MAX_ITER"),
        ("BASE_LR", "SOLVER.BASE_LR"),
        ("MODEL.CMPF.TEST.ENSEMBLE.ENABLED", "TEST.ENSEMBLE.ENABLED"),
    ],
)
def test_an_unknown_key_leads_to_the_nearest_known_one(wrong: str, right: str) -> None:
    assert nearest_key(wrong, KEYS) == right
    assert issue_of(wrong, 1) == f"unknown, did you mean {right}?"


def test_a_key_of_fc_clip_says_what_it_is_here() -> None:
    told = issue_of("MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_ALPHA", 1)
    assert told.startswith("is MODEL.CMPF.GEOMETRIC_ENSEMBLE_ALPHA here (cmpf convert-config FILE")


def test_a_section_with_a_value_and_a_value_with_a_section_are_told_apart() -> None:
    assert issue_of("SOLVER", 3) == "is a section of keys, got the value 3"
    assert issue_of("SEED.DEEPER", 3) == "SEED is a key with a value, not a section"
    assert get_cfg(overrides=["SOLVER", {}]) == get_cfg()


def test_relations_speak_of_known_keys_and_hold_for_the_defaults() -> None:
    for relation in RELATIONS:
        assert set(relation.keys) <= set(KEYS)
        assert relation.issue(Config()) == ""


NO_TASK = [
    *("MODEL.MASK_FORMER.TEST.SEMANTIC_ON", "False"),
    *("MODEL.MASK_FORMER.TEST.INSTANCE_ON", "False"),
    *("MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "False"),
]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.CMPF.SAM.NAME", '""'], "MODEL.CMPF.QUERY_INJECTOR.ENABLED: is on but MODEL.CMPF.SAM.NAME"),
        (
            ["MODEL.CMPF.SAM.NAME", '""', "MODEL.CMPF.PROPOSAL_QUERIES.ENABLED", "True"],
            "MODEL.CMPF.PROPOSAL_QUERIES.ENABLED: is on but MODEL.CMPF.SAM.NAME",
        ),
        (["MODEL.MASK_FORMER.NHEADS", "7"], "7 does not divide MODEL.MASK_FORMER.HIDDEN_DIM = 256"),
        (["MODEL.SEM_SEG_HEAD.NORM_GROUPS", "24"], "24 does not divide MODEL.SEM_SEG_HEAD.CONVS_DIM = 256"),
        (["INPUT.IMAGE_SIZE", "1000"], "32 does not divide INPUT.IMAGE_SIZE = 1000"),
        (
            ["MODEL.MASK_FORMER.HIDDEN_DIM", "6", "MODEL.MASK_FORMER.NHEADS", "2"],
            "MODEL.MASK_FORMER.HIDDEN_DIM: expected a multiple of 4",
        ),
        (["INPUT.MIN_SCALE", "3"], "3.0 is larger than INPUT.MAX_SCALE = 2.0"),
        (["INPUT.MIN_SIZE_TRAIN", "(512, 4096)"], "4096 is larger than INPUT.MAX_SIZE_TRAIN = 2048"),
        (
            ["INPUT.MIN_SIZE_TRAIN", "(512, 640, 700)", "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"],
            "INPUT.MIN_SIZE_TRAIN: range samples between two rising numbers, got [512, 640, 700]",
        ),
        (
            ["INPUT.CROP.TYPE", "relative"],
            "INPUT.CROP.SIZE: INPUT.CROP.TYPE relative needs shares of the image, at most 1, got [512.0, 512.0]",
        ),
        (["INPUT.CROP.SIZE", "(0.5, 512)"], "absolute needs whole numbers of pixels, got [0.5, 512.0]"),
        (
            ["INPUT.CROP.SIZE", "(640, 512)", "INPUT.CROP.TYPE", "absolute_range"],
            "absolute_range needs two rising numbers of pixels, got [640.0, 512.0]",
        ),
        (["INPUT.MIN_SIZE_TEST", "2000"], "2000 is larger than INPUT.MAX_SIZE_TEST = 0"),
        (
            ["SOLVER.ACCUMULATION_STEPS", "32"],
            "a batch of 16 images (SOLVER.IMS_PER_BATCH) cannot be cut into 32",
        ),
        (NO_TASK, "all three of SEMANTIC_ON, INSTANCE_ON and PANOPTIC_ON are off"),
        (
            [*NO_TASK[:2], "TEST.ENSEMBLE.ENABLED", "True"],
            "TEST.ENSEMBLE.ENABLED: takes part in semantic results only, which are off",
        ),
        (
            ["MODEL.CMPF.PRECISION", "int8", "MODEL.CMPF.COMPILE", "True"],
            "MODEL.CMPF.PRECISION: int8 does not go together with MODEL.CMPF.COMPILE True",
        ),
        (
            ["TEST.ENSEMBLE.SOURCE", "cache"],
            "TEST.ENSEMBLE.SOURCE: is cache, but TEST.ENSEMBLE.CACHE_DIR is empty",
        ),
    ],
)
def test_values_that_do_not_fit_together_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get_cfg(overrides=overrides)
    assert message in str(caught.value)


HEADS = "MODEL.MASK_FORMER.DEC_LAYERS"


@pytest.mark.parametrize("level", [0, 1, 2])
def test_an_injector_that_would_never_act_is_refused(level: int) -> None:
    # Heads are layers + 1. Layer i reads level i mod 3. Features enter in a layer that reads the level: level + 1
    # layers. Queries change after such a layer, but not after the last one: level + 2 layers.
    for injector, other, heads in (("QUERY", "FEATURE", level + 3), ("FEATURE", "QUERY", level + 2)):
        key = f"MODEL.CMPF.{injector}_INJECTOR"
        alone = [f"MODEL.CMPF.{other}_INJECTOR.ENABLED", False, f"{key}.LEVEL", level]
        get_cfg(overrides=[*alone, HEADS, heads])
        if heads > 2:
            with pytest.raises(ConfigError) as caught:
                get_cfg(overrides=[*alone, HEADS, heads - 1])
            assert str(caught.value) == (
                f"1 issue: override: {key}.LEVEL: at {level} the injector would never act: {HEADS} is {heads - 1}, "
                f"which must be {heads} or more; raise it, lower the level, or set {key}.ENABLED False"
            )
            get_cfg(overrides=[*alone, HEADS, heads - 1, f"{key}.ENABLED", False])
            get_cfg(
                overrides=[*alone, HEADS, heads - 1, "MODEL.SEM_SEG_HEAD.TRANSFORMER_DECODER_NAME", "mine"]
            )


def test_a_short_training_needs_no_other_steps() -> None:
    assert get_cfg(overrides=["SOLVER.MAX_ITER", 1000]).SOLVER.STEPS == (327778, 355092)


def test_a_cache_with_a_folder_is_fine() -> None:
    get_cfg(overrides=["TEST.ENSEMBLE.SOURCE", "cache", "TEST.ENSEMBLE.CACHE_DIR", "masks"])


def test_without_sam_a_model_without_injectors_is_fine() -> None:
    off = ["MODEL.CMPF.QUERY_INJECTOR.ENABLED", "False", "MODEL.CMPF.FEATURE_INJECTOR.ENABLED", "False"]
    get_cfg(overrides=["MODEL.CMPF.SAM.NAME", '""', *off])


def test_crop_sizes_of_every_kind_are_taken() -> None:
    for kind, size in {
        "relative_range": "(0.9, 0.9)",
        "absolute": "[640, 512]",
        "absolute_range": "(384, 600)",
    }.items():
        get_cfg(overrides=["INPUT.CROP.TYPE", kind, "INPUT.CROP.SIZE", size])


class Node(dict):  # type: ignore[type-arg]
    """In place of Detectron2's CfgNode, which is a dict too."""


def host() -> Node:
    """A program with settings of its own, some under names that CMPF has too."""
    crop = Node({"SIZE": [0.9, 0.9], "ENABLED": False})
    return Node({"KEYPOINTS": 3, "SEED": -1, "INPUT": Node({"CROP": crop, "MIN_SIZE_TRAIN": (800,)})})


def test_all_keys_enter_the_tree_of_another_program_and_come_back() -> None:
    gate = {"MODEL.CMPF.EXTRA.GATE.START": 0.5, "MODEL.CMPF.EXTRA.GATE.NAMES": ("a", "b")}
    cfg, tree = get_cfg("cmpf_tiny", ["MODEL.CMPF.PLUGINS", "mine"]), host()
    for given in (cfg, with_overrides(cfg, gate)):
        write_into(tree, given)
        assert with_overrides(get_cfg(), read_from(tree)) == given
    assert tree["KEYPOINTS"] == 3
    assert {type(tree["MODEL"]), type(tree["MODEL"]["CMPF"]["EXTRA"]), type(tree["INPUT"]["CROP"])} == {Node}


def test_another_programs_lists_stay_lists_of_whole_pixels() -> None:
    tree = host()
    write_into(tree, get_cfg())
    size, sides = tree["INPUT"]["CROP"]["SIZE"], tree["INPUT"]["MIN_SIZE_TRAIN"]
    assert (size, [type(side) for side in size], type(sides)) == ([512, 512], [int, int], tuple)
    write_into(tree, get_cfg(overrides=["INPUT.CROP.TYPE", "relative", "INPUT.CROP.SIZE", "(0.5, 1)"]))
    assert tree["INPUT"]["CROP"]["SIZE"] == [0.5, 1]


def test_a_key_that_another_program_does_not_have_is_named() -> None:
    with pytest.raises(KeyError, match=r"'VERSION'"):
        read_from(host())
    tree = host()
    write_into(tree, get_cfg())
    del tree["MODEL"]["CMPF"]["EXTRA"]
    with pytest.raises(KeyError, match=r"'MODEL.CMPF.EXTRA'"):
        read_from(tree)
