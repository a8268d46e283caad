# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The option --engine: whose loop trains and evaluates, CMPF's own or, where it is asked for, Detectron2's."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from cmpf.errors import ConfigError

if TYPE_CHECKING:
    from cmpf.config import Config

NATIVE, DETECTRON2 = ENGINES = ("native", "detectron2")
logger = logging.getLogger(__name__)


def detectron2_engine(wanted: str, cfg: Config, *, eval_only: bool, profile: bool = False) -> Any | None:
    """The package cmpf.detectron2 if its loop is asked for, None for CMPF's own; the choice is logged.

    That Detectron2 is installed changes nothing: its loop writes other checkpoints and resumes in another way.

    Args:
        wanted: one of ENGINES.
        profile: steps are to be measured, which only CMPF's own loop does.
    Raises:
        ConfigError: Detectron2 is asked for and cannot be imported, or cannot run this configuration.
    """
    logger.info("engine: %s", wanted)
    if wanted == NATIVE:
        return None
    try:
        from cmpf import detectron2 as host
    except ImportError as error:
        raise ConfigError(f"--engine detectron2: {error}") from error
    reason = "--profile measures the native engine" if profile else host.obstacle(cfg, eval_only=eval_only)
    if reason:
        raise ConfigError(f"--engine detectron2: {reason}; use --engine native")
    return host
