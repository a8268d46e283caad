# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Runs the Triton kernels on the CPU, by Triton's interpreter, in a process that imported Triton as usual."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cmpf.modeling.deformable import kernels


@contextmanager
def interpreted_kernels() -> Iterator[None]:
    """The kernels are interpreted inside the with block. Skips the test where Triton is missing."""
    tl = pytest.importorskip("triton.language", reason="Triton is not installed")

    def interpreted_sum(x: Any, axis: int) -> Any:
        return tl.reduce(x, axis, tl.standard._sum_combine)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        # Triton compiles its own library when it is imported: tl.sum cannot be interpreted later.
        patch.setattr(tl, "sum", interpreted_sum)
        kernels.autotuned.cache_clear()
        yield
    kernels.autotuned.cache_clear()
