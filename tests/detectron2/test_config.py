# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from helpers.detectron2_host import needs

from cmpf.config import config_root, get_cfg
from cmpf.config.keys import leaves
from cmpf.errors import ConfigError

d2 = needs("cmpf.detectron2")
d2_config = needs("detectron2.config")
# What Detectron2 has another word or another use for, see add_cmpf_config.
OWN_VALUES = {"MODEL.DEVICE", "MODEL.MASK_FORMER.TEST.SEMANTIC_OUTPUT", "DATALOADER.NUM_WORKERS"}


def flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def foreign_program() -> object:
    cfg = d2_config.get_cfg()
    d2.add_cmpf_config(cfg)
    return cfg


def test_every_shipped_yaml_file_means_the_same_in_detectron2() -> None:
    files = [path for path in config_root().rglob("*.yaml") if path.name != "model_zoo.yaml"]
    assert len(files) > 40
    for path in files:
        cfg = foreign_program()
        cfg.merge_from_file(str(path))
        there, here = dict(leaves(d2.native_config(cfg))), dict(leaves(get_cfg(path)))
        assert there.keys() == here.keys()
        assert {key for key in here if there[key] != here[key]} <= OWN_VALUES, path


def test_detectron2_keeps_all_its_keys_and_their_kinds_of_sequence() -> None:
    before, after = dict(flat(d2_config.get_cfg())), dict(flat(foreign_program()))
    assert before.keys() <= after.keys()
    for key, value in before.items():
        # BEST_METRIC and the like are CMPF's; of Detectron2's own keys none changes its type, None means unset.
        assert value is None or type(after[key]) is type(value), key
    assert after["MODEL.PIXEL_MEAN"] == list(get_cfg().MODEL.PIXEL_MEAN)
    assert after["INPUT.CROP.SIZE"] == [512, 512]  # 512.0 would be no width of a crop to Detectron2
    assert all(type(side) is int for side in after["INPUT.CROP.SIZE"])


def test_the_values_that_differ_from_detectron2s_are_set() -> None:
    cfg = foreign_program()
    assert (cfg.INPUT.FORMAT, cfg.MODEL.MASK_ON) == ("RGB", True)
    assert cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE == "full_model"
    assert cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_OUTPUT == "scores"
    assert cfg.MODEL.DEVICE in ("cpu", "cuda")


def test_a_native_configuration_keeps_all_its_values() -> None:
    native = get_cfg("cmpf_tiny", ["SOLVER.GAMMA", 0.25, "MODEL.CMPF.COMPILE", True])
    cfg = d2.detectron2_config(native)
    assert cfg.is_frozen()
    back = dict(leaves(d2.native_config(cfg)))
    assert {key for key, value in leaves(native) if back[key] != value} == {"MODEL.DEVICE"}
    assert cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_OUTPUT == "labels"


def test_issues_in_our_keys_are_found_in_detectron2_too() -> None:
    cfg = foreign_program()
    cfg.MODEL.CMPF.GEOMETRIC_ENSEMBLE_ALPHA = 1.5
    cfg.MODEL.MASK_FORMER.NHEADS = 7
    with pytest.raises(ConfigError, match=r"2 issues.*GEOMETRIC_ENSEMBLE_ALPHA.*0 to 1.*7 does not divide"):
        d2.native_config(cfg)


def test_a_forgotten_add_cmpf_config_is_named() -> None:
    with pytest.raises(ConfigError, match=r"call cmpf\.detectron2\.add_cmpf_config\(cfg\) before files"):
        d2.native_config(d2_config.get_cfg())


def test_a_negative_seed_becomes_some_seed() -> None:
    cfg = foreign_program()
    cfg.SEED = -1
    assert 0 <= d2.native_config(cfg).SEED < 2**31
