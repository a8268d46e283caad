# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""One configuration for two programs: CMPF's keys in Detectron2's tree, and back."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.config import get_cfg as detectron2_defaults
from detectron2.utils import comm

from cmpf.config import Config, get_cfg, with_overrides
from cmpf.config.keys import read_from, write_into
from cmpf.data import get_spec
from cmpf.detectron2.datasets import is_ours
from cmpf.errors import ConfigError
from cmpf.factory.encoders import build_device
from cmpf.factory.model import evaluation_size

BACKBONE_NAME, HEAD_NAME = "FrozenCLIP", "CMPFHead"  # in Detectron2's registries


def add_cmpf_config(cfg: CfgNode) -> None:
    """Puts every key of CMPF, with its default, into a configuration of Detectron2.

    Keys that both have get CMPF's default in Detectron2's type. After this, CMPF's YAML files can be merged. What
    differs from CMPF's own defaults, because Detectron2 has other words or reads the value itself:

    - MODEL.DEVICE "auto" becomes a device, DATALOADER.NUM_WORKERS -1 Detectron2's own default;
    - INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST 0, which is "as the dataset says" here and "do not resize" there, become
      800 and 1333; for a dataset with a test size of its own the file must say it, as CMPF's files do;
    - SEMANTIC_OUTPUT is "scores", because Detectron2's evaluators look for the largest score themselves.

    Detectron2's own keys that get another value: INPUT.FORMAT RGB, INPUT.MASK_FORMAT bitmask, MODEL.MASK_ON True,
    MODEL.BACKBONE.NAME and MODEL.SEM_SEG_HEAD.NAME, and SOLVER.CLIP_GRADIENTS.CLIP_TYPE norm: Detectron2's own
    optimizers clip each parameter on its own, cmpf.detectron2.Trainer the norm of all gradients together.

    Args:
        cfg: Detectron2's get_cfg(), not frozen; changed in place.
    """
    _write(cfg, get_cfg())
    cfg.MODEL.MASK_ON = True  # or Detectron2's mapper leaves the masks out
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.SEM_SEG_HEAD.NAME = BACKBONE_NAME, HEAD_NAME
    cfg.INPUT.FORMAT, cfg.INPUT.MASK_FORMAT = "RGB", "bitmask"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE, cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE = "norm", 2.0
    cfg.MODEL.CMPF.EXTRA.set_new_allowed(True)


def detectron2_config(cfg: Config) -> CfgNode:
    """A configuration of CMPF as one of Detectron2, frozen: what add_cmpf_config and a merged file give.

    INPUT.MIN_SIZE_TEST 0 becomes the test size of the datasets in DATASETS.TEST, and stays where they differ.
    """
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
    """All values of CMPF, with device, number of processes, test size and semantic results in words of Detectron2."""
    workers = cfg.DATALOADER.NUM_WORKERS
    workers = host.DATALOADER.NUM_WORKERS if workers < 0 else workers
    changes: dict[str, Any] = {
        "MODEL.DEVICE": str(build_device(cfg)),
        "MODEL.MASK_FORMER.TEST.SEMANTIC_OUTPUT": "scores",
    }
    sizes = {evaluation_size(cfg, get_spec(name) if is_ours(name) else None) for name in cfg.DATASETS.TEST}
    if len(sizes) <= 1:
        size = sizes.pop() if sizes else evaluation_size(cfg)
        changes |= dict(zip(("INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST"), size, strict=True))
    write_into(host, with_overrides(cfg, changes))
    host.DATALOADER.NUM_WORKERS = workers
