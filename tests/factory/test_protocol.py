# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""--protocol published: what it sets, and which evaluations may stand beside published figures."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cmpf.config import Config, get_cfg, with_overrides
from cmpf.errors import ConfigError
from cmpf.factory.encoders import build_precision
from cmpf.factory.protocol import protocol_of, protocol_settings, protocols_of

ADE = "openvocab_ade20k_panoptic_val"
LARGE = "coco/cmpf/convnext_large_eval_{}.yaml"


def published(config: str, *overrides: Any) -> Config:
    """A configuration as `--protocol published` makes it; the user's own KEY VALUE go before it."""
    cfg = get_cfg(config, overrides)
    settings = [part for pair in protocol_settings(cfg).items() for part in pair]
    return get_cfg(config, [*settings, *overrides])


def test_words_seen_classes_and_precision_are_those_of_the_papers() -> None:
    cfg = published(LARGE.format("cityscapes"))
    assert (cfg.DATASETS.VOCABULARIES, cfg.DATASETS.SEEN) == ("published", "published")
    assert build_precision(cfg) is torch.float32
    assert cfg.SOLVER.AMP.DTYPE == "fp16"
    assert cfg.TEST.ENSEMBLE.PUBLISHED_POOLING
    protocol = protocol_of(cfg, "openvocab_cityscapes_fine_panoptic_val")
    assert (protocol.label, protocol.differences) == ("published", ())
    assert protocol.as_json() == {
        "protocol": "published",
        "words": "published",
        "seen": "published",
        "precision": "float32",
        "ensemble": False,
        "differences": [],
    }


@pytest.mark.parametrize(
    ("target", "ensemble"),
    [("ade20k", True), ("a847", True), ("pc459", True), ("pas21", False), ("mapillary_vistas", False)],
)
def test_the_ensemble_is_on_where_the_published_table_has_it(target: str, ensemble: bool) -> None:
    assert ensemble == published(LARGE.format(target)).TEST.ENSEMBLE.ENABLED
    assert not published(LARGE.format(target).replace("convnext_large", "r50x64")).TEST.ENSEMBLE.ENABLED


def test_thresholds_and_tasks_are_those_of_the_dataset_whatever_the_file_is_for() -> None:
    cfg = published(LARGE.format("ade20k"), "DATASETS.TEST", "bdd10k_40_panoptic_val")
    test = cfg.MODEL.MASK_FORMER.TEST
    assert test.OBJECT_MASK_THRESHOLD == 0.4
    assert (test.PANOPTIC_ON, test.SEMANTIC_ON, test.INSTANCE_ON) == (True, False, False)
    assert protocol_of(cfg, "bdd10k_40_panoptic_val").label == "published"
    street = published(LARGE.format("ade20k"), "DATASETS.TEST", "openvocab_cityscapes_fine_panoptic_val")
    assert (street.INPUT.MIN_SIZE_TEST, street.INPUT.MAX_SIZE_TEST) == (1024, 2560)


def test_datasets_that_need_different_settings_are_not_evaluated_together() -> None:
    cfg = get_cfg(LARGE.format("ade20k"), ["DATASETS.TEST", ("bdd10k_40_panoptic_val", ADE)])
    with pytest.raises(
        ConfigError, match=rf"bdd10k_40_panoptic_val needs .* and {ADE} .*; evaluate them one after"
    ):
        protocol_settings(cfg)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", 0.7, "OVERLAP_THRESHOLD 0.7 (published 0.8)"),
        ("TEST.DETECTIONS_PER_IMAGE", 300, "TEST.DETECTIONS_PER_IMAGE 300 (published 100)"),
        ("MODEL.CMPF.GEOMETRIC_ENSEMBLE_BETA", 0.9, "GEOMETRIC_ENSEMBLE_BETA 0.9 (published 0.8)"),
        ("TEST.ENSEMBLE.ALPHA", 0.3, "TEST.ENSEMBLE.ALPHA 0.3 (published 0.2)"),
        ("TEST.ENSEMBLE.PUBLISHED_POOLING", False, "PUBLISHED_POOLING False (published True)"),
        ("TEST.ENSEMBLE.SAM_NAME", "vit_b", "SAM_NAME vit_b (published vit_h)"),
        ("MODEL.CMPF.PRECISION", "bf16", "bfloat16 encoders"),
        ("DATASETS.SEEN", "words", "seen classes by words"),
        ("INPUT.MIN_SIZE_TEST", 512, "test size (512, 1333) (published (800, 1333))"),
    ],
)
def test_whatever_is_changed_is_said(key: str, value: Any, said: str) -> None:
    more = ("INPUT.MAX_SIZE_TEST", 1333) if key == "INPUT.MIN_SIZE_TEST" else ()
    protocol = protocol_of(published(LARGE.format("ade20k"), key, value, *more), ADE)
    assert protocol.label.startswith("not comparable: ")
    assert protocol.label.endswith(said)


def test_the_ensemble_may_be_off_and_its_settings_are_then_nobodys_matter() -> None:
    cfg = published(LARGE.format("ade20k"), "TEST.ENSEMBLE.ENABLED", False, "TEST.ENSEMBLE.ALPHA", 0.3)
    protocol = protocol_of(cfg, ADE)
    assert protocol.label == "published"
    assert not protocol.ensemble


def test_own_words_are_never_comparable() -> None:
    cfg = get_cfg(LARGE.format("ade20k"))
    assert protocol_of(cfg, ADE).label == "own words: not comparable"
    file = with_overrides(published(LARGE.format("ade20k")), {"DATASETS.VOCABULARIES": {ADE: "mine.txt"}})
    assert protocol_of(file, ADE).label == "own words: not comparable"
    assert protocol_of(file, ADE).words == "mine.txt"


def test_a_dataset_without_published_results_says_so() -> None:
    cfg = published("shapes/cmpf_tiny")
    assert protocols_of(cfg)["shapes_val"]["protocol"] == "no published benchmark"
    assert protocols_of(with_overrides(cfg, {"DATASETS.TEST": "one_of_detectron2"})) == {}
