# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""One configuration for two programs: CMPF's keys in Detectron2's tree, and back."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.config import get_cfg as detectron2_defaults
from detectron2.utils import comm

from cmpf.config import Config, get_cfg, with_overrides
from cmpf.config.keys import read_from, write_into
from cmpf.errors import ConfigError
from cmpf.factory.encoders import build_device


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
    _write(cfg, get_cfg())
    cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_OUTPUT = "scores"
    cfg.MODEL.MASK_ON = True  # or Detectron2's mapper leaves the masks out
    cfg.INPUT.FORMAT = "RGB"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    cfg.MODEL.CMPF.EXTRA.set_new_allowed(True)


def detectron2_config(cfg: Config) -> CfgNode:
    """A configuration of CMPF as one of Detectron2, frozen: all values of the former, also SEMANTIC_OUTPUT."""
    host = detectron2_defaults()
    add_cmpf_config(host)
    _write(host, cfg)
    host.freeze()
    return host


def native_config(cfg: CfgNode) -> Config:
    """CMPF's part of a configuration of Detectron2, checked.

    A negative SEED, which means any to Detectron2, becomes one that all processes share.

    Raises:
        ConfigError: with every issue of CMPF's keys; or add_cmpf_config was not called.
    """
    try:
        values = read_from(cfg)
    except KeyError as error:
        raise ConfigError(
            f"the configuration has no {error.args[0]}; call cmpf.detectron2.add_cmpf_config(cfg) before files are "
            "merged"
        ) from error
    if values["SEED"] < 0:
        values["SEED"] = comm.shared_random_seed() % 2**31
    return with_overrides(get_cfg(), values)


def _write(host: CfgNode, cfg: Config) -> None:
    """All values of CMPF, with a device and a number of processes in words that Detectron2 has."""
    workers = cfg.DATALOADER.NUM_WORKERS
    workers = host.DATALOADER.NUM_WORKERS if workers < 0 else workers
    write_into(host, with_overrides(cfg, {"MODEL.DEVICE": str(build_device(cfg))}))
    host.DATALOADER.NUM_WORKERS = workers
