# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from cmpf.config import get_cfg
from cmpf.data import get_spec
from cmpf.factory.sizes import evaluation_size

CITYSCAPES = "openvocab_cityscapes_fine_panoptic_val"


def test_a_dataset_is_tested_at_its_own_size() -> None:
    assert evaluation_size(get_cfg(), get_spec(CITYSCAPES)) == (1024, 2560)


def test_the_configuration_goes_before_the_dataset() -> None:
    cfg = get_cfg(overrides=["INPUT.MIN_SIZE_TEST", 512, "INPUT.MAX_SIZE_TEST", 1024])
    assert evaluation_size(cfg, get_spec(CITYSCAPES)) == (512, 1024)
    assert evaluation_size(cfg) == (512, 1024)


def test_images_of_no_dataset_have_the_usual_size() -> None:
    assert evaluation_size(get_cfg()) == (800, 1333)
    assert evaluation_size(get_cfg(), get_spec("shapes_val")) == (800, 1333)
