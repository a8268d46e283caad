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
        (["INPUT.MIN_SIZE_TEST", "2000"], "2000 is larger than INPUT.MAX_SIZE_TEST = 1333"),
        (["SOLVER.MAX_ITER", "340000"], "[355092] would never be reached, SOLVER.MAX_ITER is 340000"),
        (NO_TASK, "all three of SEMANTIC_ON, INSTANCE_ON and PANOPTIC_ON are off"),
        (
            [*NO_TASK[:2], "TEST.ENSEMBLE.ENABLED", "True"],
            "TEST.ENSEMBLE.ENABLED: changes semantic output only, which is off",
        ),
    ],
)
def test_values_that_do_not_fit_together_are_refused(overrides, message):
    with pytest.raises(ConfigError) as caught:
        get_cfg(overrides=overrides)
    assert message in str(caught.value)


def test_steps_do_not_matter_to_a_cosine_schedule():
    get_cfg(overrides=["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.MAX_ITER", "10"])


def test_without_sam_a_model_without_injectors_is_fine():
    off = ["MODEL.CMPF.QUERY_INJECTOR.ENABLED", "False", "MODEL.CMPF.FEATURE_INJECTOR.ENABLED", "False"]
    get_cfg(overrides=["MODEL.CMPF.SAM.NAME", '""', *off])
