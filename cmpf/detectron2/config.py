# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""One configuration for two programs: CMPF's keys in Detectron2's tree, and back."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Any

from detectron2.config import get_cfg as detectron2_defaults
from detectron2.utils import comm
from fvcore.common.config import CfgNode

from cmpf.config import default_config, get_cfg
from cmpf.errors import ConfigError
from cmpf.factory.encoders import build_device

UNKNOWN_TO_DETECTRON2 = (("MODEL.DEVICE", "auto"), ("DATALOADER.NUM_WORKERS", -1))


def add_cmpf_config(cfg: CfgNode) -> None:
    """Puts every key of CMPF, with its default, into a configuration of Detectron2.

    Keys that both have get CMPF's default in Detectron2's type. After this, CMPF's YAML files can be merged. What
    differs from CMPF's own defaults: MODEL.DEVICE "auto" becomes a device, because Detectron2 has no such word, and
    DATALOADER.NUM_WORKERS -1, which it does not have either, its own default;
    SEMANTIC_OUTPUT is "scores", because Detectron2's evaluators look for the largest score themselves.
    Detectron2's own keys that get another value: INPUT.FORMAT RGB, MODEL.MASK_ON True, and
    SOLVER.CLIP_GRADIENTS.CLIP_TYPE full_model, which only cmpf.detectron2.Trainer knows.

    Args:
        cfg: Detectron2's get_cfg(), not frozen; changed in place.
    """
    workers = cfg.DATALOADER.NUM_WORKERS
    for key, value in leaves(default_config()):
        _put(cfg, key, value)
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.MODEL.DEVICE = str(build_device(cfg))
    cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_OUTPUT = "scores"
    cfg.MODEL.MASK_ON = True  # or Detectron2's mapper leaves the masks out
    cfg.INPUT.FORMAT = "RGB"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"


def detectron2_config(cfg: CfgNode) -> CfgNode:
    """A configuration of CMPF as one of Detectron2, frozen: all values of the former, also SEMANTIC_OUTPUT."""
    host = detectron2_defaults()
    add_cmpf_config(host)
    for key, value in leaves(cfg):
        if (key, value) not in UNKNOWN_TO_DETECTRON2:
            _put(host, key, value)
    host.freeze()
    return host


def native_config(cfg: CfgNode) -> CfgNode:
    """CMPF's part of a configuration of Detectron2, checked and frozen.

    A negative SEED, which means any to Detectron2, becomes one that all processes share.

    Raises:
        ConfigError: with every issue of CMPF's keys; or add_cmpf_config was not called.
    """
    overrides: list[Any] = []
    for key, _ in leaves(default_config()):
        try:
            value = attrgetter(key)(cfg)
        except AttributeError as error:
            raise ConfigError(
                f"the configuration has no {key}; call cmpf.detectron2.add_cmpf_config(cfg) before files are merged"
            ) from error
        if key == "SEED" and value < 0:
            value = comm.shared_random_seed() % 2**31
        overrides += [key, value]
    return get_cfg(overrides=overrides)


def leaves(cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in a tree that is no section."""
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _put(cfg: CfgNode, key: str, value: Any) -> None:
    """Sets a value, with the sections above it. A key that is there keeps its kind of sequence."""
    *sections, name = key.split(".")
    for section in sections:
        if section not in cfg:
            cfg[section] = type(cfg)()
        cfg = cfg[section]
    if isinstance(cfg.get(name), list) and isinstance(value, tuple):
        # Numbers of pixels must be whole in Detectron2's crops; in CMPF the same key may hold shares.
        value = [int(v) if isinstance(v, float) and v.is_integer() else v for v in value]
    cfg[name] = value
