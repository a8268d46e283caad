# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Typed configurations from defaults, YAML files with `_BASE_`, and KEY VALUE overrides; reports all issues at once."""

from cmpf.config.files import config_root, find_config
from cmpf.config.loading import get_cfg, resolve, with_overrides
from cmpf.config.schema import Config

__all__ = ["Config", "config_root", "find_config", "get_cfg", "resolve", "with_overrides"]
