# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The kernels compile without a GPU and are tuned over few configurations. Results: test_deformable_triton.py."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.modeling import random
from helpers.triton_interpreter import interpreted_kernels

from cmpf.modeling.deformable import kernels
from cmpf.modeling.deformable.ops import deformable_attention

triton = pytest.importorskip("triton", reason="Triton is not installed")
SIZES = ("num_queries", "num_cells", "num_levels", "bucket")


def compile_for(kernel: Any, capability: int, *, dtype: str) -> dict[str, Any]:
    """The outputs of Triton's compiler for an NVIDIA GPU (80 = A100): "ptx", "cubin", ..."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = triton.jit(kernel, do_not_specialize=SIZES)
    constants = {"M": 8, "P": 1, "D": 32, "BLOCK_D": 32, "ACC": triton.language.float32, "BLOCK_Q": 16}
    signature = dict.fromkeys(function.arg_names, f"*{dtype}")
    signature |= dict.fromkeys(SIZES, "i32") | dict.fromkeys(constants, "constexpr")
    signature |= {name: dtype_name for name, dtype_name in (("levels_ptr", "*i32"), ("grad_value_ptr", "*fp32"))
                  if name in signature}  # fmt: skip
    aligned = {(i,): [["tt.divisibility", 16]] for i, k in enumerate(signature.values()) if k[0] == "*"}
    source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": 2, "enable_fp_fusion": True}
    stages: dict[str, Any] = triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options=options
    ).asm
    return stages


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_kernels_compile_to_machine_code_with_wide_reads_and_float32_sums(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton.backends.nvidia", reason="this Triton has no NVIDIA backend")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    forward = compile_for(kernels.forward_kernel, 80, dtype=dtype)
    backward = compile_for(kernels.backward_kernel, 80, dtype=dtype)
    assert len(forward["cubin"]) > 0
    assert len(backward["cubin"]) > 0
    assert "ld.global.v4.b32" in forward["ptx"]  # 16 bytes at a time
    assert "add.f32" in backward["ptx"]
    assert "atom.global" in backward["ptx"] or "red.global" in backward["ptx"]


def test_a_new_size_of_image_compiles_nothing_anew() -> None:
    inner = kernels.autotuned().backward.fn
    assert [p.name for p in inner.params if p.do_not_specialize] == list(SIZES)


def test_small_inputs_and_wide_heads_try_few_configurations() -> None:
    configurations = kernels._configs()
    assert [c.kwargs["BLOCK_Q"] for c in configurations] == [16, 32, 32, 64, 128]

    def tried(bucket: int, block_d: int) -> list[int]:
        given = {"bucket": bucket}, {"BLOCK_D": block_d}
        return [c.kwargs["BLOCK_Q"] for c in kernels._prune_configs(configurations, given[0], **given[1])]

    assert tried(13, 32) == [16]
    assert tried(14, 32) == [16, 32, 32, 64, 128]  # 128 * 32 = 4096 numbers
    assert tried(18, 256) == [16, 32, 32]  # 32 * 256 = 8192 is allowed, 64 * 256 is not
    assert tried(18, 1024) == [16]  # none is small enough, so the smallest


def test_the_interpreter_tries_no_configurations() -> None:
    with interpreted_kernels():
        assert len(kernels._configs()) == 1
    assert not kernels.interpreting()


def test_the_table_of_levels_is_created_once() -> None:
    device = torch.device("cpu")
    table = kernels._level_table([2, 3, 4, 6], device)
    assert table.tolist() == [[2, 3, 0], [4, 6, 6]]  # 2 * 3 = 6 cells before the second level
    assert kernels._level_table([2, 3, 4, 6], device) is table


def test_autotuning_does_not_change_the_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    several = kernels._configs()[:3]
    calls: list[Callable[[], None]] = []

    def clock(call: Callable[[], None], quantiles: tuple[float, ...]) -> list[float]:
        """Runs a configuration twice, like a benchmark, and reports a shorter time for each one."""
        call(), call()
        calls.append(call)
        return [1 / len(calls)] * 3

    value, weights = random("value", 1, 6, 1, 2), random("weights", 1, 3, 1, 1, 2)
    locations = random("locations", 1, 3, 1, 1, 2, 2).sigmoid()
    tensors = [t.requires_grad_() for t in (value, locations, weights)]
    expected = torch.autograd.grad(deformable_attention(value, [(2, 3)], locations, weights).sum(), tensors)
    monkeypatch.setattr(kernels, "MIN_TUNED_BUCKET", 0)
    monkeypatch.setattr(kernels, "_configs", lambda: several)
    with interpreted_kernels():
        tuner = kernels.autotuned().backward
        tuner.do_bench = clock
        for _ in range(2):  # trying them, and remembering the best
            found = kernels.backward(
                torch.ones(1, 3, 2), value.detach(), [2, 3], *(t.detach() for t in tensors[1:])
            )
            torch.testing.assert_close(found, expected)
        assert len(calls) == 3
        assert tuner.best_config is several[2]


def test_the_module_can_be_imported_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)  # importing it fails now
    spec = importlib.util.spec_from_file_location("kernels_without_triton", kernels.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (module.installed(), kernels.installed()) == (False, True)
