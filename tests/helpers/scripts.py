# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The programs of tools/ as modules, by the paths of their files.

Not by the name `tools`: other packages bring a top-level package of that name (Detectron2's wheel does), which goes
before a folder without __init__.py.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@cache
def script(name: str) -> ModuleType:
    """tools/NAME.py, run once as a module that is not the main one."""
    spec = spec_from_file_location(f"script_{name}", TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
