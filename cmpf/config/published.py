# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Configurations of FC-CLIP, FrozenSeg, Mask-Adapter, MAFT+ and OVRCOAT in the keys of CMPF."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from cmpf.config.files import Setting, read_yaml
from cmpf.config.keys import KEYS, Issue, as_error, nearest_key, quoted
from cmpf.config.values import literal


@dataclass(frozen=True)
class Renamed:
    """A key that has another name here. value: of theirs makes ours."""

    key: str
    value: Callable[[Any], Any] = lambda value: value


@dataclass(frozen=True)
class Dropped:
    """A key that has no effect here, and why. only: the values of which that is true; () = all."""

    reason: str
    only: tuple[Any, ...] = ()


_FIXED = "fixed in CMPF"
_CLIP_TELLS = "follows the CLIP"
_DATASET = "follows the dataset"

# Their key, in which * stands for any part -> what becomes of it. The first that fits counts; a key that is in no row
# and has the same name here is taken as it is.
TABLE: dict[str, Renamed | Dropped] = {
    "MODEL.META_ARCHITECTURE": Dropped("follows from the method's options"),
    "MODEL.*.CLIP_MODEL_NAME": Renamed("MODEL.CMPF.CLIP.NAME"),
    "MODEL.*.CLIP_PRETRAINED_WEIGHTS": Renamed("MODEL.CMPF.CLIP.PRETRAINED"),
    "MODEL.*.EMBED_DIM": Dropped(_CLIP_TELLS),
    "MODEL.*.GEOMETRIC_ENSEMBLE_ALPHA": Renamed("MODEL.CMPF.GEOMETRIC_ENSEMBLE_ALPHA"),
    "MODEL.*.GEOMETRIC_ENSEMBLE_BETA": Renamed("MODEL.CMPF.GEOMETRIC_ENSEMBLE_BETA"),
    "MODEL.*.ENSEMBLE_ON_VALID_MASK": Renamed("MODEL.CMPF.ENSEMBLE_ON_VALID_MASK"),
    "MODEL.*.USE_SAM_MASKS": Renamed("TEST.ENSEMBLE.ENABLED"),
    "MODEL.*.CLIP_TRUST_WEIGHT": Renamed("MODEL.MASK_FORMER.TEST.CLIP_OBJECTNESS"),
    "MODEL.*.DETACH_SEG_HEAD": Renamed("MODEL.CMPF.CLIP.DETACHED"),
    "MODEL.*.USE_PRETRAINED_SEG_HEAD_WEIGHTS": Dropped("MODEL.WEIGHTS selects the initial weights", (False,)),
    "MODEL.*.SEM_SEG_WEIGHTS": Renamed("MODEL.WEIGHTS"),
    "MODEL.*rc_weights": Renamed("MODEL.CMPF.CLIP_LOSSES.REPRESENTATION_WEIGHT"),
    "MODEL.*cdt_params": Renamed("MODEL.CMPF.CONTENT_TRANSFER.HEADS", lambda value: literal(value)[1]),
    "MODEL.MASK_ADAPTER.NUM_OUTPUT_MAPS": Renamed("MODEL.CMPF.MASK_ADAPTER.MAPS"),
    "MODEL.MASK_ADAPTER.NUM_CHANNELS": Renamed("MODEL.CMPF.MASK_ADAPTER.DIM"),
    "MODEL.MASK_ADAPTER.MASK_THRESHOLD": Renamed("MODEL.CMPF.MASK_ADAPTER.MASK_THRESHOLD"),
    "MODEL.MASK_ADAPTER.MASK_IN_CHANNELS": Dropped(_FIXED, (16,)),
    "MODEL.MASK_ADAPTER.NAME": Dropped("see MODEL.CMPF.MASK_EMBEDDING"),
    "MODEL.MASK_ADAPTER.USE_CHECKPOINT": Dropped("only saves memory"),
    "MODEL.MASK_ADAPTER.TRAIN_MASK_ADAPTER": Dropped("see MODEL.CMPF.MASK_EMBEDDING"),
    "MODEL.BACKBONE.*": Dropped("the backbone is CLIP"),
    "MODEL.SEM_SEG_HEAD.NAME": Dropped("CMPF has one head"),
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": Dropped(
        "the same as MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME deformable", ("MSDeformAttnPixelDecoder",)
    ),
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": Dropped("all four levels are used"),
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": Dropped("res3 to res5 are used"),
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": Dropped(_DATASET),
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": Dropped(_DATASET),
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": Dropped("unused"),
    "MODEL.SEM_SEG_HEAD.NORM": Dropped(_FIXED, ("GN",)),
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": Dropped(_FIXED, (4,)),
    "MODEL.SEM_SEG_HEAD.PROJECT_*": Dropped("unused"),
    "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME": Dropped(
        "the same as MODEL.SEM_SEG_HEAD.TRANSFORMER_DECODER_NAME masked_attention"
    ),
    "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": Dropped("all levels are used"),
    "MODEL.MASK_FORMER.DROPOUT": Dropped(_FIXED, (0, 0.0)),
    "MODEL.MASK_FORMER.ENC_LAYERS": Dropped(_FIXED, (0,)),
    "MODEL.MASK_FORMER.PRE_NORM": Dropped(_FIXED, (False,)),
    "MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ": Dropped(_FIXED, (False,)),
    "MODEL.MASK_FORMER.TEST.TEST_FOREGROUND*": Dropped("unused"),
    "MODEL.RESNETS.*": Dropped("the backbone is CLIP"),
    "MODEL.MASK_ON": Dropped(_FIXED),
    "SOLVER.OPTIMIZER": Dropped(_FIXED, ("ADAMW",)),
    "SOLVER.BACKBONE_MULTIPLIER": Renamed("MODEL.CMPF.CLIP.LR_FACTOR"),
    "SOLVER.POLY_LR_POWER": Renamed("SOLVER.POLY_POWER"),
    "SOLVER.POLY_LR_CONSTANT_ENDING": Dropped(_FIXED, (0, 0.0)),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": Dropped(_FIXED, ("full_model",)),
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": Dropped(_FIXED, (2, 2.0)),
    "SOLVER.WARMUP_METHOD": Dropped(_FIXED, ("linear",)),
    "INPUT.FORMAT": Dropped(_FIXED, ("RGB",)),
    "INPUT.DATASET_MAPPER_NAME": Dropped(
        "augmentations depend on the dataset's task, or INPUT.AUGMENTATIONS"
    ),
    "INPUT.MASK_FORMAT": Dropped("only used by Detectron2's mappers"),
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": Dropped("images without objects are used in training"),
    "DATALOADER.ASPECT_RATIO_GROUPING": Dropped("only used by Detectron2's loaders"),
    "DATALOADER.SAMPLER_TRAIN": Dropped("only used by Detectron2's loaders"),
    "CUDNN_BENCHMARK": Dropped("only affects speed"),
    "VIS_PERIOD": Dropped("see LOG.PICTURES"),
}
_NO_SAM = {
    "MODEL.CMPF.SAM.NAME": "",
    "MODEL.CMPF.QUERY_INJECTOR.ENABLED": False,
    "MODEL.CMPF.FEATURE_INJECTOR.ENABLED": False,
}
_TRUNK = {**_NO_SAM, "MODEL.CMPF.CLIP.TRAINED": "trunk"}
# MODEL.META_ARCHITECTURE, without case and punctuation -> the options that make the method.
METHODS: dict[str, dict[str, Any]] = {
    "fcclip": _NO_SAM,
    "frozenseg": {"MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS": 3},
    "cmpf": {"MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS": 3},
    "maskadapter": {**_NO_SAM, "MODEL.CMPF.MASK_EMBEDDING": "mask_adapter"},
    "maftplus": {
        **_TRUNK,
        "MODEL.CMPF.CLIP.DETACHED": True,
        "MODEL.CMPF.DECODER_CLASSES": False,
        "MODEL.CMPF.TEXT_TRANSFER": "content_dependent",
        "MODEL.CMPF.CONTENT_TRANSFER.PUBLISHED_LAYOUT": True,
        "MODEL.CMPF.CLIP_LOSSES.MASK_AWARE_WEIGHT": 1.0,
    },
    "ovrcoat": {
        **_TRUNK,
        "MODEL.CMPF.CLIP.TRAIN_LOGIT_SCALE": True,
        "MODEL.CMPF.CLIP_LOSSES.CLASS_WEIGHT": 0.1,
        "MODEL.CMPF.CLIP_LOSSES.DOUBLE_SOFTMAX": True,
        "MODEL.MASK_FORMER.TEST.INSTANCE_MASK_SCORE": "logit",
    },
}
ARCHITECTURE, PANOPTIC = "MODEL.META_ARCHITECTURE", "MODEL.MASK_FORMER.TEST.PANOPTIC_ON"
ADAPTER_SECTION = "MODEL.MASK_ADAPTER."
COMMAND = "cmpf convert-config"


@dataclass(frozen=True)
class Converted:
    """A configuration in CMPF's keys. values: by dotted key. notes: a line for each key that was dropped."""

    values: dict[str, Any]
    notes: tuple[str, ...]

    def as_yaml(self) -> str:
        """The text of a file."""
        tree: dict[str, Any] = {}
        for key, value in self.values.items():
            *sections, name = key.split(".")
            node = tree
            for section in sections:
                node = node.setdefault(section, {})
            node[name] = list(value) if isinstance(value, tuple) else value
        return yaml.safe_dump(tree, sort_keys=False)


def fate_of(key: str) -> Renamed | Dropped | None:
    """What becomes of a key of theirs; None = the table does not know it."""
    return next((fate for pattern, fate in TABLE.items() if fnmatchcase(key, pattern)), None)


def hint_for(key: str) -> str:
    """Of a key that CMPF does not have: what is written for it here, if it is one of theirs; "" if it is not."""
    fate = fate_of(key)
    if fate is None or key in KEYS:
        return ""
    here = f"is {fate.key} here" if isinstance(fate, Renamed) else f"has no effect here, {fate.reason}"
    return f"{here} ({COMMAND} FILE converts a whole file)"


def convert(path: Path) -> Converted:
    """A YAML file of theirs, with its bases, in CMPF's keys.

    Raises:
        ConfigError: with every issue: unknown keys, values that have no counterpart, an unknown method.
    """
    settings, issues = read_yaml(path)
    given = {setting.key: setting for setting in settings}  # later ones over those of the bases
    values, problem = _method(given)
    issues += problem
    notes: list[str] = []
    for setting in given.values():
        if values.get("MODEL.CMPF.DECODER_CLASSES") is False and "GEOMETRIC_ENSEMBLE" in setting.key:
            notes.append(f"{setting.key}: left out, CLIP alone names masks")
            continue
        key, value, note, issue = _translated(setting)
        if issue:
            issues.append(Issue(setting.key, issue, setting.origin))
        elif note:
            notes.append(f"{setting.key}: {note}")
        else:
            values[key] = value
    if issues:
        raise as_error(issues)
    return Converted(values, tuple(notes))


def _method(given: Mapping[str, Setting]) -> tuple[dict[str, Any], Sequence[Issue]]:
    """The options of the method that a file is of."""
    named = given.get(ARCHITECTURE)
    name = "".join(c for c in str(named.value).lower() if c.isalnum()) if named else "fcclip"
    if name not in METHODS:
        known = "FCCLIP, FrozenSeg, MASK_Adapter, MAFT_Plus, OVRCOAT"
        issue = f"expected one of {known}, got {quoted(named and named.value)}"
        return {}, [Issue(ARCHITECTURE, issue, named.origin if named else None)]
    values = dict(METHODS[name])
    if any(key.startswith(ADAPTER_SECTION) for key in given):
        values |= METHODS["maskadapter"] | {"MODEL.CMPF.DECODER_CLASSES": True}
    if name == "maftplus":  # published: the form hangs on the task of the test
        panoptic = given.get(PANOPTIC)
        is_panoptic = panoptic is not None and str(panoptic.value).lower() == "true"
        values["MODEL.CMPF.CONTENT_TRANSFER.FORM"] = "residual" if is_panoptic else "post_norm"
    return values, []


def _translated(setting: Setting) -> tuple[str, Any, str, str]:
    """Our key and value; or why theirs is left out; or what is wrong."""
    fate = fate_of(setting.key)
    if fate is None and setting.key not in KEYS:
        near = nearest_key(setting.key, [*KEYS, *TABLE])
        return (
            "",
            None,
            "",
            f"unknown to CMPF and to the table of published keys (nearest: {near}); remove it",
        )
    if isinstance(fate, Dropped):
        if fate.only and literal(setting.value) not in fate.only:
            return (
                "",
                None,
                "",
                f"{quoted(setting.value)} has no counterpart here, only {fate.only[0]!r}; remove it",
            )
        return "", None, f"left out, {fate.reason}", ""
    key = fate.key if fate else setting.key
    try:
        value = fate.value(setting.value) if fate else setting.value
        return key, KEYS[key].read(value), "", ""
    except (ValueError, TypeError, LookupError):  # pydantic's errors are ValueErrors
        return "", None, "", f"becomes {key}: expected {KEYS[key].allowed}, got {quoted(setting.value)}"
