# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What each configuration key may hold."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class Rule:
    """Allowed values of one key: a test and its wording ("a number > 0")."""

    allowed: str
    test: Callable[[Any], bool]
    element: type = str  # of keys that hold lists


def _positive(value: float) -> bool:
    return value > 0


def _not_negative(value: float) -> bool:
    return value >= 0


def _unit(value: float) -> bool:
    return 0 <= value <= 1


def _any_text(value: str) -> bool:
    return isinstance(value, str)


def _rising(values: tuple[int, ...]) -> bool:
    return all(value > 0 for value in values) and all(a < b for a, b in pairwise(values))


def _choice(*values: object) -> Rule:
    return Rule("one of " + ", ".join(str(value) for value in values), lambda value: value in values)


COUNT = Rule("a whole number > 0", _positive)
COUNT_OR_ZERO = Rule("a whole number >= 0", _not_negative)
POSITIVE = Rule("a number > 0", _positive)
WEIGHT = Rule("a number >= 0", _not_negative)
FRACTION = Rule("a number from 0 to 1", _unit)
FLAG = Rule("True or False", lambda value: isinstance(value, bool))
TEXT = Rule("text", _any_text)
NAME = Rule("a name, not empty", bool)
SOME_NAMES = Rule(
    'at least one dataset name, such as ("shapes_train",)', lambda value: len(value) > 0 and all(value)
)
NAMES = Rule('a list of dataset names, such as ("shapes_val",)', all)
THREE_NUMBERS = Rule("three numbers (red, green, blue)", lambda value: len(value) == 3, float)
THREE_POSITIVE = Rule(
    "three numbers > 0 (red, green, blue)", lambda value: len(value) == 3 and min(value) > 0, float
)
TWO_POSITIVE = Rule(
    "two numbers > 0, such as (512, 512)", lambda value: len(value) == 2 and min(value) > 0, float
)
SIDES = Rule(
    "a list of whole numbers > 0, such as (512, 640)", lambda value: len(value) > 0 and min(value) > 0, int
)
DEVICE = Rule(
    "auto, cpu, mps, cuda or cuda:N", lambda value: bool(re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value))
)
LEVEL = Rule("0, 1 or 2 (strides 32, 16, 8)", lambda value: value in (0, 1, 2))
METRIC = Rule('task/metric, such as panoptic/PQ, or ""', lambda value: value == "" or value.count("/") == 1)

RULES: dict[str, Rule] = {
    "VERSION": _choice(2),
    "OUTPUT_DIR": NAME,
    "SEED": COUNT_OR_ZERO,
    "NUM_THREADS": COUNT_OR_ZERO,
    "MODEL.META_ARCHITECTURE": _choice("CMPF"),
    "MODEL.DEVICE": DEVICE,
    "MODEL.WEIGHTS": TEXT,
    "MODEL.PIXEL_MEAN": THREE_NUMBERS,
    "MODEL.PIXEL_STD": THREE_POSITIVE,
    "MODEL.MASK_FORMER.NHEADS": COUNT,
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": COUNT,
    "MODEL.MASK_FORMER.DEC_LAYERS": Rule(
        "a whole number >= 2 (decoder layers + the head before the first)", lambda value: value >= 2
    ),
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": COUNT,
    "MODEL.MASK_FORMER.HIDDEN_DIM": COUNT,
    "MODEL.MASK_FORMER.DEEP_SUPERVISION": FLAG,
    "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": WEIGHT,
    "MODEL.MASK_FORMER.CLASS_WEIGHT": WEIGHT,
    "MODEL.MASK_FORMER.MASK_WEIGHT": WEIGHT,
    "MODEL.MASK_FORMER.DICE_WEIGHT": WEIGHT,
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": COUNT,
    "MODEL.MASK_FORMER.OVERSAMPLE_RATIO": Rule("a number >= 1", lambda value: value >= 1),
    "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO": FRACTION,
    "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": Rule(
        "a multiple of 32, the coarsest stride", lambda value: value > 0 and value % 32 == 0
    ),
    "MODEL.MASK_FORMER.TEST.SEMANTIC_ON": FLAG,
    "MODEL.MASK_FORMER.TEST.INSTANCE_ON": FLAG,
    "MODEL.MASK_FORMER.TEST.PANOPTIC_ON": FLAG,
    "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": FRACTION,
    "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD": FRACTION,
    "MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE": FLAG,
    "MODEL.MASK_FORMER.TEST.SEMANTIC_OUTPUT": _choice("labels", "scores"),
    "MODEL.MASK_FORMER.TEST.CLIP_OBJECTNESS": FRACTION,
    "MODEL.MASK_FORMER.TEST.MASK_RECALL": FLAG,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": COUNT,
    "MODEL.SEM_SEG_HEAD.MASK_DIM": COUNT,
    "MODEL.SEM_SEG_HEAD.NORM_GROUPS": COUNT,
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": COUNT,
    "MODEL.SEM_SEG_HEAD.DIM_FEEDFORWARD": COUNT,
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS": COUNT,
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": COUNT,
    "MODEL.CMPF.CLIP.NAME": NAME,
    "MODEL.CMPF.CLIP.PRETRAINED": TEXT,
    "MODEL.CMPF.SAM.NAME": TEXT,
    "MODEL.CMPF.SAM.CHECKPOINT": TEXT,
    "MODEL.CMPF.GEOMETRIC_ENSEMBLE_ALPHA": FRACTION,
    "MODEL.CMPF.GEOMETRIC_ENSEMBLE_BETA": FRACTION,
    "MODEL.CMPF.ENSEMBLE_ON_VALID_MASK": FLAG,
    "MODEL.CMPF.QUERY_INJECTOR.ENABLED": FLAG,
    "MODEL.CMPF.QUERY_INJECTOR.LEVEL": LEVEL,
    "MODEL.CMPF.FEATURE_INJECTOR.ENABLED": FLAG,
    "MODEL.CMPF.FEATURE_INJECTOR.LEVEL": LEVEL,
    "MODEL.CMPF.FEATURE_INJECTOR.KEEP_POSITIONS": FLAG,
    "MODEL.CMPF.SAM_BRANCH.LAYERS": COUNT,
    "MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS": Rule(
        "0 (correct attention) or 3 (published arithmetic)", lambda value: value in (0, 3)
    ),
    "MODEL.CMPF.DEFORMABLE_ATTENTION": _choice("auto", "torch", "triton"),
    "MODEL.CMPF.PRECISION": _choice("auto", "fp32", "bf16"),
    "MODEL.CMPF.COMPILE": FLAG,
    "MODEL.CMPF.GRADIENT_CHECKPOINTING": FLAG,
    "INPUT.IMAGE_SIZE": COUNT,
    "INPUT.MIN_SCALE": POSITIVE,
    "INPUT.MAX_SCALE": POSITIVE,
    "INPUT.MIN_SIZE_TRAIN": SIDES,
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": _choice("choice", "range"),
    "INPUT.MAX_SIZE_TRAIN": COUNT,
    "INPUT.CROP.ENABLED": FLAG,
    "INPUT.CROP.TYPE": _choice("absolute", "absolute_range", "relative", "relative_range"),
    "INPUT.CROP.SIZE": TWO_POSITIVE,
    "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": FRACTION,
    "INPUT.COLOR_AUG_SSD": FLAG,
    "INPUT.SIZE_DIVISIBILITY": COUNT,
    "INPUT.RANDOM_FLIP": _choice("horizontal", "none"),
    "INPUT.MIN_SIZE_TEST": COUNT_OR_ZERO,
    "INPUT.MAX_SIZE_TEST": COUNT_OR_ZERO,
    "DATASETS.TRAIN": SOME_NAMES,
    "DATASETS.TEST": NAMES,
    "DATALOADER.NUM_WORKERS": Rule("a whole number >= 0, or -1 = by the cores", lambda value: value >= -1),
    "SOLVER.IMS_PER_BATCH": COUNT,
    "SOLVER.BASE_LR": POSITIVE,
    "SOLVER.WEIGHT_DECAY": WEIGHT,
    "SOLVER.WEIGHT_DECAY_NORM": WEIGHT,
    "SOLVER.WEIGHT_DECAY_EMBED": WEIGHT,
    "SOLVER.MAX_ITER": COUNT,
    "SOLVER.LR_SCHEDULER_NAME": _choice("WarmupMultiStepLR", "WarmupCosineLR"),
    "SOLVER.STEPS": Rule("a list of rising whole numbers > 0", _rising, int),
    "SOLVER.GAMMA": Rule("a number > 0 and <= 1", lambda value: 0 < value <= 1),
    "SOLVER.WARMUP_ITERS": COUNT_OR_ZERO,
    "SOLVER.WARMUP_FACTOR": FRACTION,
    "SOLVER.CLIP_GRADIENTS.ENABLED": FLAG,
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": POSITIVE,
    "SOLVER.AMP.ENABLED": FLAG,
    "SOLVER.AMP.DTYPE": _choice("auto", "bf16", "fp16"),
    "SOLVER.ACCUMULATION_STEPS": COUNT,
    "SOLVER.REFERENCE_BATCH_SIZE": COUNT_OR_ZERO,
    "SOLVER.EMA.ENABLED": FLAG,
    "SOLVER.EMA.DECAY": Rule("a number >= 0 and < 1", lambda value: 0 <= value < 1),
    "SOLVER.CHECKPOINT_PERIOD": COUNT,
    "SOLVER.CHECKPOINTS_KEPT": COUNT,
    "LOG.PERIOD": COUNT,
    "LOG.TENSORBOARD": FLAG,
    "LOG.PICTURES": COUNT_OR_ZERO,
    "LOG.WANDB_PROJECT": TEXT,
    "TEST.EVAL_PERIOD": COUNT_OR_ZERO,
    "TEST.BEST_METRIC": METRIC,
    "TEST.IMS_PER_BATCH": COUNT,
    "TEST.DETECTIONS_PER_IMAGE": COUNT,
    "TEST.ENSEMBLE.ENABLED": FLAG,
    "TEST.ENSEMBLE.ALPHA": FRACTION,
    "TEST.ENSEMBLE.SCORE_THRESHOLD": FRACTION,
    "TEST.ENSEMBLE.MAX_MASKS": COUNT,
    "TEST.ENSEMBLE.SAM_NAME": NAME,
    "TEST.ENSEMBLE.SAM_CHECKPOINT": TEXT,
    "TEST.ENSEMBLE.SOURCE": _choice("online", "cache"),
    "TEST.ENSEMBLE.CACHE_DIR": TEXT,
    "TEST.ENSEMBLE.PUBLISHED_POOLING": FLAG,
    "TEST.ENSEMBLE.POINTS_PER_SIDE": COUNT,
    "TEST.ENSEMBLE.PRED_IOU_THRESH": FRACTION,
    "TEST.ENSEMBLE.STABILITY_THRESH": FRACTION,
    "TEST.ENSEMBLE.NMS_THRESH": FRACTION,
    "TEST.ENSEMBLE.MIN_AREA": COUNT_OR_ZERO,
}
