# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Keys that must go together."""

from __future__ import annotations

import pytest

from cmpf.config import get_cfg
from cmpf.errors import ConfigError

NO_TASK = [
    *("MODEL.MASK_FORMER.TEST.SEMANTIC_ON", "False"),
    *("MODEL.MASK_FORMER.TEST.INSTANCE_ON", "False"),
    *("MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "False"),
]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.CMPF.SAM.NAME", '""'], "MODEL.CMPF.QUERY_INJECTOR.ENABLED: is on but MODEL.CMPF.SAM.NAME"),
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
        (["SOLVER.MAX_ITER", "340000"], "[355092] would never be reached, SOLVER.MAX_ITER is 340000"),
        (NO_TASK, "all three of SEMANTIC_ON, INSTANCE_ON and PANOPTIC_ON are off"),
        (
            [*NO_TASK[:2], "TEST.ENSEMBLE.ENABLED", "True"],
            "TEST.ENSEMBLE.ENABLED: changes semantic output only, which is off",
        ),
        (
            ["TEST.ENSEMBLE.SOURCE", "cache"],
            "TEST.ENSEMBLE.SOURCE: is cache, but TEST.ENSEMBLE.CACHE_DIR is empty",
        ),
        (
            ["MODEL.CMPF.FEATURE_INJECTOR.LEVEL", "2", "MODEL.MASK_FORMER.DEC_LAYERS", "3"],
            # 2 layers read levels 0 and 1; a third layer makes 4 heads
            "MODEL.CMPF.FEATURE_INJECTOR.LEVEL: 2 is read by no layer: MODEL.MASK_FORMER.DEC_LAYERS must be 4",
        ),
        (["MODEL.CMPF.QUERY_INJECTOR.LEVEL", "3"], "MODEL.CMPF.QUERY_INJECTOR.LEVEL: expected 0, 1 or 2"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(overrides, message):
    with pytest.raises(ConfigError) as caught:
        get_cfg(overrides=overrides)
    assert message in str(caught.value)


def test_steps_do_not_matter_to_a_cosine_schedule():
    get_cfg(overrides=["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.MAX_ITER", "10"])


def test_a_cache_with_a_folder_and_a_level_with_a_layer_are_fine():
    get_cfg(overrides=["TEST.ENSEMBLE.SOURCE", "cache", "TEST.ENSEMBLE.CACHE_DIR", "masks"])
    get_cfg(overrides=["MODEL.CMPF.FEATURE_INJECTOR.LEVEL", "2", "MODEL.MASK_FORMER.DEC_LAYERS", "4"])


def test_without_sam_a_model_without_injectors_is_fine():
    off = ["MODEL.CMPF.QUERY_INJECTOR.ENABLED", "False", "MODEL.CMPF.FEATURE_INJECTOR.ENABLED", "False"]
    get_cfg(overrides=["MODEL.CMPF.SAM.NAME", '""', *off])


def test_crop_sizes_of_every_kind_are_taken():
    for kind, size in {
        "relative_range": "(0.9, 0.9)",
        "absolute": "[640, 512]",
        "absolute_range": "(384, 600)",
    }.items():
        get_cfg(overrides=["INPUT.CROP.TYPE", kind, "INPUT.CROP.SIZE", size])
