# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Converts configurations of FC-CLIP, FrozenSeg, Mask-Adapter, MAFT+ and OVRCOAT to CMPF's keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from cmpf.config.files import Setting, read_yaml
from cmpf.config.keys import KEYS, Issue, as_error, format_value, nearest_key
from cmpf.config.values import literal


@dataclass(frozen=True)
class Renamed:
    """A published key with another name in CMPF. `value` converts its value."""

    key: str
    value: Callable[[Any], Any] = lambda value: value


@dataclass(frozen=True)
class Dropped:
    """A published key that CMPF does not need, and why.

    Attributes:
        reason: shown to the user.
        only: the values for which this holds; () = all.
    """

    reason: str
    only: tuple[Any, ...] = ()


_FIXED = "fixed in CMPF"
_FOLLOWS_CLIP = "follows from the CLIP model"
_DATASET = "follows the dataset"

# Pattern of published keys -> rule. The first match is used; keys without a rule are kept if CMPF has the same key.
TABLE: dict[str, Renamed | Dropped] = {
    "MODEL.META_ARCHITECTURE": Dropped("follows from the method's options"),
    "MODEL.*.CLIP_MODEL_NAME": Renamed("MODEL.CMPF.CLIP.NAME"),
    "MODEL.*.CLIP_PRETRAINED_WEIGHTS": Renamed("MODEL.CMPF.CLIP.PRETRAINED"),
    "MODEL.*.EMBED_DIM": Dropped(_FOLLOWS_CLIP),
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
# MODEL.META_ARCHITECTURE in lower case without punctuation -> the settings of the method.
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
    """A converted configuration.

    Attributes:
        values: values by dotted key.
        notes: a line for each dropped key.
    """

    values: dict[str, Any]
    notes: tuple[str, ...]

    def as_yaml(self) -> str:
        """The configuration as the text of a YAML file."""
        tree: dict[str, Any] = {}
        for key, value in self.values.items():
            *sections, name = key.split(".")
            node = tree
            for section in sections:
                node = node.setdefault(section, {})
            node[name] = list(value) if isinstance(value, tuple) else value
        return yaml.safe_dump(tree, sort_keys=False)


def rule_for(key: str) -> Renamed | Dropped | None:
    """The rule for a published key; None if there is none."""
    return next((rule for pattern, rule in TABLE.items() if fnmatchcase(key, pattern)), None)


def hint_for(key: str) -> str:
    """A hint for an unknown key that is a published one; "" if it is not."""
    rule = rule_for(key)
    if rule is None or key in KEYS:
        return ""
    hint = f"is {rule.key} here" if isinstance(rule, Renamed) else f"has no effect here, {rule.reason}"
    return f"{hint} ({COMMAND} FILE converts a whole file)"


def convert(path: Path) -> Converted:
    """Converts a published YAML file with its bases.

    Raises:
        ConfigError: keys or the method are unknown, or values have no counterpart; the message lists every issue.
    """
    settings, issues = read_yaml(path)
    by_key = {setting.key: setting for setting in settings}  # later ones override those of the bases
    values, method_issues = _method(by_key)
    issues += method_issues
    notes: list[str] = []
    for setting in by_key.values():
        if values.get("MODEL.CMPF.DECODER_CLASSES") is False and "GEOMETRIC_ENSEMBLE" in setting.key:
            notes.append(f"{setting.key}: left out, CLIP alone names masks")
            continue
        key, value, note, issue = _convert(setting)
        if issue:
            issues.append(Issue(setting.key, issue, setting.origin))
        elif note:
            notes.append(f"{setting.key}: {note}")
        else:
            values[key] = value
    if issues:
        raise as_error(issues)
    return Converted(values, tuple(notes))


def _method(settings: Mapping[str, Setting]) -> tuple[dict[str, Any], Sequence[Issue]]:
    """The settings of the method that a file configures, and the issue of an unknown method."""
    architecture = settings.get(ARCHITECTURE)
    name = "".join(c for c in str(architecture.value).lower() if c.isalnum()) if architecture else "fcclip"
    if name not in METHODS:
        known = "FCCLIP, FrozenSeg, MASK_Adapter, MAFT_Plus, OVRCOAT"
        issue = f"expected one of {known}, got {format_value(architecture and architecture.value)}"
        return {}, [Issue(ARCHITECTURE, issue, architecture.origin if architecture else None)]
    values = dict(METHODS[name])
    if any(key.startswith(ADAPTER_SECTION) for key in settings):
        values |= METHODS["maskadapter"] | {"MODEL.CMPF.DECODER_CLASSES": True}
    if name == "maftplus":  # the published code chooses the form by the task of the evaluation
        panoptic = settings.get(PANOPTIC)
        is_panoptic = panoptic is not None and str(panoptic.value).lower() == "true"
        values["MODEL.CMPF.CONTENT_TRANSFER.FORM"] = "residual" if is_panoptic else "post_norm"
    return values, []


def _convert(setting: Setting) -> tuple[str, Any, str, str]:
    """(key, value, note, issue) of a setting: CMPF's key and value, or why it is dropped, or what is wrong."""
    rule = rule_for(setting.key)
    if rule is None and setting.key not in KEYS:
        near = nearest_key(setting.key, [*KEYS, *TABLE])
        issue = f"unknown to CMPF and to the table of published keys (nearest: {near}); remove it"
        return "", None, "", issue
    given = format_value(setting.value)
    if isinstance(rule, Dropped):
        if rule.only and literal(setting.value) not in rule.only:
            return "", None, "", f"{given} has no counterpart here, only {rule.only[0]!r}; remove it"
        return "", None, f"left out, {rule.reason}", ""
    key = rule.key if rule else setting.key
    try:
        value = rule.value(setting.value) if rule else setting.value
        return key, KEYS[key].parse(value), "", ""
    except (ValueError, TypeError, LookupError):  # pydantic's errors are ValueErrors
        return "", None, "", f"becomes {key}: expected {KEYS[key].allowed}, got {given}"
