# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The option --engine: whose loop trains and evaluates, CMPF's own or Detectron2's."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from cmpf.errors import ConfigError

if TYPE_CHECKING:
    from cmpf.config import Config

AUTO, NATIVE, DETECTRON2 = ENGINES = ("auto", "native", "detectron2")
logger = logging.getLogger(__name__)


def detectron2_engine(wanted: str, cfg: Config, *, eval_only: bool, profile: bool = False) -> Any | None:
    """The package cmpf.detectron2 if its loop is to run, None for CMPF's own; the choice is logged.

    Args:
        wanted: "auto" = Detectron2 where it can be imported and can run this configuration.
        profile: steps are to be measured, which only CMPF's own loop does.
    Raises:
        ConfigError: Detectron2 is asked for and cannot be had.
    """
    if wanted == NATIVE:
        logger.info("engine: native")
        return None
    try:
        from cmpf import detectron2 as host
    except ImportError as error:
        if wanted == DETECTRON2:
            raise ConfigError(f"--engine detectron2: {error}") from error
        logger.info("engine: native, Detectron2 cannot be imported")
        return None
    reason = "--profile measures the native engine" if profile else host.obstacle(cfg, eval_only=eval_only)
    if reason and wanted == DETECTRON2:
        raise ConfigError(f"--engine detectron2: {reason}; use --engine native")
    if reason:
        logger.info("engine: native, though Detectron2 is here: %s", reason)
        return None
    logger.info("engine: Detectron2 (--engine native takes CMPF's own)")
    return host
