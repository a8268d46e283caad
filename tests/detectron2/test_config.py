# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from helpers.detectron2_host import needs

from cmpf.config import config_root, get_cfg
from cmpf.config.keys import leaves
from cmpf.data import get_spec
from cmpf.errors import ConfigError
from cmpf.factory.model import evaluation_size

d2 = needs("cmpf.detectron2")
d2_config = needs("detectron2.config")
# What Detectron2 has another word or another use for, see add_cmpf_config.
SIZES = {"INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST"}
OWN_VALUES = {
    "MODEL.DEVICE",
    "MODEL.MASK_FORMER.TEST.SEMANTIC_OUTPUT",
    "DATALOADER.NUM_WORKERS",
    *SIZES,
}


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


def test_every_shipped_yaml_file_means_the_same_in_detectron2(caplog: pytest.LogCaptureFixture) -> None:
    files = [path for path in config_root().rglob("*.yaml") if path.name != "model_zoo.yaml"]
    assert len(files) > 40
    for path in files:
        cfg = foreign_program()
        cfg.merge_from_file(str(path))
        there, here = dict(leaves(d2.native_config(cfg))), dict(leaves(get_cfg(path)))
        assert there.keys() == here.keys()
        assert {key for key in here if there[key] != here[key]} <= OWN_VALUES, path
        for name in get_cfg(path).DATASETS.TEST:  # in numbers, for 0 is "do not resize" to Detectron2
            size = evaluation_size(get_cfg(path), get_spec(name))
            assert size == (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST), path
    assert caplog.text == ""  # "has no VERSION" among others


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
    assert (cfg.INPUT.FORMAT, cfg.INPUT.MASK_FORMAT, cfg.MODEL.MASK_ON) == ("RGB", "bitmask", True)
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (800, 1333)
    assert cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_OUTPUT == "scores"
    assert cfg.MODEL.DEVICE in ("cpu", "cuda")


def test_a_native_configuration_keeps_all_its_values() -> None:
    native = get_cfg("cmpf_tiny", ["SOLVER.GAMMA", 0.25, "MODEL.CMPF.COMPILE", True])
    cfg = d2.detectron2_config(native)
    assert cfg.is_frozen()
    back = dict(leaves(d2.native_config(cfg)))
    changed = {key for key, value in leaves(native) if back[key] != value}
    assert changed == {"MODEL.DEVICE", "MODEL.MASK_FORMER.TEST.SEMANTIC_OUTPUT"}


def test_both_ways_of_making_a_configuration_agree() -> None:
    cfg = foreign_program()
    cfg.merge_from_file(str(config_root() / "coco" / "cmpf" / "convnext_large_eval_cityscapes.yaml"))
    other = d2.detectron2_config(get_cfg("coco/cmpf/convnext_large_eval_cityscapes"))
    assert dict(flat(cfg)) == dict(flat(other))


def test_the_size_of_datasets_that_differ_is_left_to_them() -> None:
    names = ["openvocab_ade20k_panoptic_val", "openvocab_cityscapes_fine_panoptic_val"]
    cfg = d2.detectron2_config(get_cfg(overrides=["DATASETS.TEST", names]))
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (0, 0)
    cfg = d2.detectron2_config(get_cfg(overrides=["DATASETS.TEST", names[1:]]))
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (1024, 2560)


def test_detectron2s_own_optimizer_takes_the_configuration() -> None:
    cfg, layer = foreign_program(), torch.nn.Linear(1, 1, bias=False)
    cfg.SOLVER.BASE_LR = 1.0
    optimizer = needs("detectron2.solver").build_optimizer(cfg, layer)
    layer.weight.grad = torch.full((1, 1), 5.0)
    before = layer.weight.detach().clone()
    optimizer.step()
    # Clipped to 0.01, plus a weight decay of 0.05.
    assert (before - layer.weight.detach()).item() == pytest.approx(0.01 + 0.05 * before.item(), abs=1e-6)


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
