# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Starting sooner: a command imports torchvision, timm and OpenCLIP without torch's compiler.

torchvision imports the compiler with itself (`torchvision.ops.roi_align`, for a decorator of a function that no
prediction calls), OpenCLIP and segment-anything import torchvision, and none of them has a switch: a thousand modules,
a quarter of the processor time of `cmpf predict` for one image (5.7 s with this, 7.6 s without). Only a command does
this, whose process is its own; `import cmpf` does not.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
LIBRARIES = ("torchvision", "timm", "open_clip")


def import_libraries() -> None:
    """Imports LIBRARIES; one that wants more of the compiler than a decorator is left for its first use."""
    import torch  # noqa: F401  (it stands before its compiler)

    if COMPILER in sys.modules:
        return
    with _without_compiler():
        for name in LIBRARIES:
            try:
                importlib.import_module(name)
            except (ImportError, AttributeError):
                return


@contextmanager
def _without_compiler() -> Iterator[None]:
    package, utils = ModuleType(COMPILER), ModuleType(f"{COMPILER}.utils")
    package.__path__ = []
    setattr(package, "disable", _disable)  # noqa: B010  (a module declares no attributes)
    setattr(utils, "is_compile_supported", _is_compile_supported)  # noqa: B010
    stand_ins = {module.__name__: module for module in (package, utils)}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, module in stand_ins.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _disable(function: Any = None, *options: Any, **more: Any) -> Any:
    """torch._dynamo.disable, which a function asks for when it is first called."""
    if function is None:
        return lambda later: _disable(later, *options, **more)
    made: list[Callable[..., Any]] = []

    @wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        if not made:
            made.append(importlib.import_module(COMPILER).disable(function, *options, **more))
        return made[0](*arguments, **keywords)

    return call


def _is_compile_supported(device: str) -> bool:
    supported: bool = importlib.import_module(f"{COMPILER}.utils").is_compile_supported(device)
    return supported
