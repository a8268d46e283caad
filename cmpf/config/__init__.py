# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Configuration: defaults, YAML files with `_BASE_`, KEY VALUE overrides, and all issues reported at once."""

from cmpf.config.defaults import default_config
from cmpf.config.loading import get_cfg
from cmpf.config.paths import config_root, find_config

__all__ = ["config_root", "default_config", "find_config", "get_cfg"]
