# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Linear layers by oneDNN, on processors where the library that PyTorch takes is slower.

PyTorch multiplies float32 matrices on x86 by Intel's MKL, which leaves the AVX-512 units of other makers' processors
unused. oneDNN, which every PyTorch for x86 holds as well, uses them. Measured on two cores of an AMD EPYC, in
times as fast: 2.0 to 2.4 from 32 million operations on, 1.4 to 1.7 at 8 million, 0.4 at half a million.
"""

from __future__ import annotations

import logging
import platform
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

logger = logging.getLogger(__name__)

LEAST_PRODUCTS = 1 << 22  # multiplications of a call; below, preparing it costs more than it saves
MKL_MAKER = "GenuineIntel"


class OneDNNLinear(nn.Linear):
    """nn.Linear, by oneDNN where that is possible: float32 on the CPU, without gradients, outside of autocast.

    Elsewhere it is nn.Linear itself. Results agree to float32's rounding.

    Args:
        linear: its weights are shared under the same names.
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        if not _possible(x, self.weight) or x.numel() * self.out_features < LEAST_PRODUCTS:
            return F.linear(x, self.weight, self.bias)
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return result


def use_onednn_linear(network: nn.Module) -> None:
    """Replaces every nn.Linear inside by a OneDNNLinear, if that is faster here; names of weights stay the same."""
    if not onednn_is_faster():
        return
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear:
                setattr(parent, name, OneDNNLinear(child))


@lru_cache(maxsize=1)
def onednn_is_faster() -> bool:
    """Whether this is a processor with AVX-512 for which MKL has no kernels, and oneDNN works on it."""
    backends: Any = torch.backends
    if not (backends.mkl.is_available() and backends.mkldnn.is_available()):
        return False
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512") or _maker() in ("", MKL_MAKER):
        return False
    works = _works()
    if works:
        logger.info("frozen linear layers on the CPU: oneDNN, as MKL does not use this processor's AVX-512")
    return works


def _works() -> bool:
    """A trial, because the operator is PyTorch's own affair and may change."""
    numbers = torch.linspace(
        -1, 1, 8 * 16, device="cpu"
    )  # not random: that would change what is drawn after it
    x, weight, bias = numbers.view(8, 16), numbers[:64].view(4, 16), numbers[:4]
    try:
        found = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    except (AttributeError, RuntimeError, TypeError) as error:
        logger.debug("oneDNN's linear layer does not work: %s", error)
        return False
    return torch.allclose(found, F.linear(x, weight, bias), atol=1e-5)


def _possible(x: Tensor, weight: Tensor) -> bool:
    # A compiler has its own choice of kernels, and exported programs must not name this operator.
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    kinds = {(tensor.device.type, tensor.dtype) for tensor in (x, weight)}
    return kinds == {("cpu", torch.float32)}


def _maker() -> str:
    """Who made the processor, as it says itself; "" where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = [f"vendor_id: {platform.processor().rpartition(', ')[2]}"]  # Windows: "..., AuthenticAMD"
    makers = [line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")]
    return makers[0] if makers else ""
