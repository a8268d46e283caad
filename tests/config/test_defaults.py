# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The tree of defaults."""

from __future__ import annotations

from cmpf.config import default_config


def test_two_trees_share_nothing():
    first, second = default_config(), default_config()
    first.SOLVER.MAX_ITER = 1
    assert second.SOLVER.MAX_ITER == 368750


def test_our_keys_have_the_documented_defaults():
    cfg = default_config()
    ours, ensemble = cfg.MODEL.CMPF, cfg.TEST.ENSEMBLE
    assert (ours.CLIP.NAME, ours.CLIP.PRETRAINED) == ("convnext_large_d_320", "laion2b_s29b_b131k_ft_soup")
    assert (ours.SAM.NAME, ours.SAM.CHECKPOINT) == ("vit_b", "")
    assert (ours.GEOMETRIC_ENSEMBLE_ALPHA, ours.GEOMETRIC_ENSEMBLE_BETA) == (0.4, 0.8)
    assert (ours.QUERY_INJECTOR.ENABLED, ours.FEATURE_INJECTOR.ENABLED) == (True, True)
    assert (ours.FEATURE_INJECTOR.KEEP_POSITIONS, ours.SAM_BRANCH.FLAT_LEVELS) == (False, 0)
    assert (ours.ENSEMBLE_ON_VALID_MASK, ours.COMPILE) == (False, False)
    assert ours.DEFORMABLE_ATTENTION == "auto"
    assert (ensemble.ENABLED, ensemble.ALPHA, ensemble.SCORE_THRESHOLD) == (False, 0.2, 0.5)
    assert (ensemble.MAX_MASKS, ensemble.SAM_NAME, ensemble.SOURCE) == (50, "vit_h", "online")
    assert ensemble.PUBLISHED_POOLING is False
    assert ensemble.CACHE_DIR == ""
    assert (ours.QUERY_INJECTOR.LEVEL, ours.FEATURE_INJECTOR.LEVEL) == (2, 0)
