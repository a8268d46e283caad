# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""A deferred import of torch's compiler, `torch._dynamo`, while torchvision, timm and OpenCLIP are imported.

torchvision and timm import the compiler's thousand modules for a decorator and a check of functions that no prediction
calls, and have no switch for it. Deferred, `cmpf predict` takes 3.8 s for the first image instead of 6.0 s (tiny model,
five pairs). A training imports it with its optimizer. Only commands defer it, because their process is their own;
`import cmpf` does not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from types import ModuleType
from typing import Any

COMPILER, UTILS = "torch._dynamo", "torch._dynamo.utils"
LIBRARIES = ("torchvision", "timm", "open_clip")


def import_libraries() -> None:
    """Imports LIBRARIES; the compiler is imported when one of their functions is first called that uses it.

    A library that imports other modules of the compiler is left for its first use, which imports both as usual.
    """
    import torch  # noqa: F401  (the parent package of COMPILER)

    if COMPILER in sys.modules:
        return
    with _deferred_compiler(), suppress(ImportError):
        for name in LIBRARIES:
            import_module(name)


@contextmanager
def _deferred_compiler() -> Iterator[None]:
    """Within the block, imports of the compiler return stand-ins; afterwards they return the compiler again."""
    sys.modules.update({name: _StandIn(name, functions) for name, functions in DEFERRED.items()})
    try:
        yield
    finally:
        _remove_stand_ins()


def _remove_stand_ins() -> None:
    for name in (COMPILER, UTILS):
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]


class _StandIn(ModuleType):
    """A module with some deferred functions; any other name imports the real module and is taken from it."""

    def __init__(self, name: str, functions: dict[str, Callable[..., Any]]) -> None:
        super().__init__(name)
        vars(self).update(functions)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # about the module itself, as the inspect module asks all modules
            raise AttributeError(name)
        _remove_stand_ins()
        return getattr(import_module(self.__name__), name)


def _disable(function: Any = None, recursive: bool = True, **options: Any) -> Any:
    """torch._dynamo.disable as torch itself defers it: the decorated function imports the compiler when called."""
    from torch._compile import _disable_dynamo

    return _disable_dynamo(function, recursive)


def _is_compile_supported(device_type: Any) -> Any:
    """torch._dynamo.utils.is_compile_supported, imported when called."""
    return import_module(UTILS).is_compile_supported(device_type)


DEFERRED: dict[str, dict[str, Callable[..., Any]]] = {
    COMPILER: {"disable": _disable},
    UTILS: {"is_compile_supported": _is_compile_supported},
}
