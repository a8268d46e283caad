# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Converts configurations between CMPF's Config and Detectron2's CfgNode."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.config import get_cfg as detectron2_defaults
from detectron2.utils import comm

from cmpf.common.tensors import find_device
from cmpf.config import Config, get_cfg, with_overrides
from cmpf.config.keys import read_from, write_into
from cmpf.data import get_spec
from cmpf.detectron2.datasets import is_ours
from cmpf.errors import ConfigError
from cmpf.factory.model import evaluation_size

BACKBONE_NAME, HEAD_NAME = "FrozenCLIP", "CMPFHead"  # in Detectron2's registries


def add_cmpf_config(cfg: CfgNode) -> None:
    """Adds CMPF's keys with their defaults to a Detectron2 configuration, so that CMPF's YAML files can be merged.

    Keys that both have get CMPF's default in Detectron2's type. Some values differ from CMPF's defaults:

    - MODEL.DEVICE "auto" becomes a device, and DATALOADER.NUM_WORKERS -1 becomes Detectron2's default;
    - INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST become 800 and 1333, because 0 means "the dataset's size" in CMPF but "do
      not resize" in Detectron2; datasets with another test size need it in the YAML file, as in CMPF's own files;
    - SEMANTIC_OUTPUT is "scores", because Detectron2's evaluators compute the argmax themselves.

    These keys of Detectron2 are changed: INPUT.FORMAT RGB, INPUT.MASK_FORMAT bitmask, MODEL.MASK_ON True,
    MODEL.BACKBONE.NAME, MODEL.SEM_SEG_HEAD.NAME, and SOLVER.CLIP_GRADIENTS.CLIP_TYPE norm: Detectron2's optimizers clip
    each parameter separately, cmpf.detectron2.Trainer clips the norm of all gradients together.

    Args:
        cfg: Detectron2's get_cfg(), not frozen; modified in place.
    """
    _write(cfg, get_cfg())
    cfg.MODEL.MASK_ON = True  # else Detectron2's mapper drops the masks
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.SEM_SEG_HEAD.NAME = BACKBONE_NAME, HEAD_NAME
    cfg.INPUT.FORMAT, cfg.INPUT.MASK_FORMAT = "RGB", "bitmask"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE, cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE = "norm", 2.0
    cfg.MODEL.CMPF.EXTRA.set_new_allowed(True)


def detectron2_config(cfg: Config) -> CfgNode:
    """Converts CMPF's configuration to a frozen one of Detectron2, as add_cmpf_config and merge_from_file would.

    INPUT.MIN_SIZE_TEST 0 becomes the test size of DATASETS.TEST, unless the datasets have different ones.
    """
    host = detectron2_defaults()
    add_cmpf_config(host)
    _write(host, cfg)
    host.freeze()
    return host


def native_config(cfg: CfgNode) -> Config:
    """CMPF's part of a Detectron2 configuration, validated.

    A negative SEED, which Detectron2 uses for a random one, becomes a random seed that all processes share.

    Raises:
        ConfigError: values of CMPF's keys are invalid, or add_cmpf_config was not called.
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
    """Writes CMPF's values, with device, number of workers, test size and semantic output adapted to Detectron2."""
    workers = cfg.DATALOADER.NUM_WORKERS
    workers = host.DATALOADER.NUM_WORKERS if workers < 0 else workers
    changes: dict[str, Any] = {
        "MODEL.DEVICE": str(find_device(cfg.MODEL.DEVICE)),
        "MODEL.MASK_FORMER.TEST.SEMANTIC_OUTPUT": "scores",
    }
    sizes = {evaluation_size(cfg, get_spec(name) if is_ours(name) else None) for name in cfg.DATASETS.TEST}
    if len(sizes) <= 1:
        size = sizes.pop() if sizes else evaluation_size(cfg)
        changes |= dict(zip(("INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST"), size, strict=True))
    write_into(host, with_overrides(cfg, changes))
    host.DATALOADER.NUM_WORKERS = workers
