# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Linear layers that predict faster on a CPU than PyTorch's own, with their weights."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import torch
from timm.layers import activations
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.common.tensors import without_autocast
from cmpf.encoders.int8 import Int8Weight, int8_linear, quantize_weight

logger = logging.getLogger(__name__)

LEAST_PRODUCTS = 1 << 22  # multiplications of a call; below, preparing it costs more than it saves
HIDDEN = (("fc1", "act"), ("lin1", "act"))  # layer and activation in an MLP of timm, of segment-anything
LAST = ("fc2", "lin2", "proj")  # what is added to the input of a block
MKL_MAKER = "GenuineIntel"


class InferenceLinear(nn.Linear):
    """nn.Linear, by oneDNN where that is faster: on the CPU without gradients, in float32, bfloat16 (autocast) or int8.

    Elsewhere it is nn.Linear itself. Results agree to the rounding of the type.

    Args:
        linear: its weights are shared under the same names.
    Attributes:
        gelu: whether the exact GELU follows, which oneDNN applies before the sums leave the processor.
        widens: whether what was multiplied in bfloat16 is given back in float32, for a sum with what is in float32
            already: PyTorch adds two types ten times as slowly as one.
        int8: whether to multiply in int8 outside autocast; int8_works says whether the processor can.
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.gelu = self.widens = self.int8 = False
        self._converted: _Converted | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        dtype = _type(x, self.weight, int8=self.int8)
        if dtype is None:
            plain = F.linear(x, self.weight, self.bias)
            return F.gelu(plain) if self.gelu else plain
        if dtype is torch.float32:
            return _product(x, self.weight, self.bias, gelu=self.gelu)
        weight, bias = self._weights_in(dtype)
        if isinstance(weight, Int8Weight):
            return int8_linear(x, weight, bias, gelu=self.gelu)
        result = _product(x.to(dtype), weight, bias, gelu=self.gelu)
        return result.float() if self.widens else result

    def extra_repr(self) -> str:
        """As nn.Linear says it, and whether a GELU follows."""
        return super().extra_repr() + (", gelu=True" if self.gelu else "")

    def _weights_in(self, dtype: torch.dtype) -> Weights:
        """Weight and bias for a type; those of a frozen layer are kept, in half or a quarter of their memory more."""
        if self.weight.requires_grad:
            return _convert(self.weight, self.bias, dtype)
        state = dtype, _state(self.weight), _state(self.bias)
        if self._converted is None or self._converted.state != state:
            self._converted = _Converted(state, _convert(self.weight, self.bias, dtype))
        return self._converted.weights


Weights: TypeAlias = "tuple[Tensor | Int8Weight, Tensor | None]"


@dataclass(frozen=True)
class _Converted:
    """Weight and bias in another type, and which type and state of them it is."""

    state: tuple[object, ...]
    weights: Weights


def _convert(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Weights:
    if dtype is torch.int8:
        return quantize_weight(weight), bias
    return weight.to(dtype), None if bias is None else bias.to(dtype)


def _state(weight: Tensor | None) -> tuple[int, int] | None:
    """Where a tensor lies, and how often it was written, which tensors of the inference mode do not count."""
    if weight is None:
        return None
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version


def onednn_linear(x: Tensor, weight: Tensor) -> Tensor:
    """F.linear in the faster way; weight: (out_features, in_features)."""
    dtype = _type(x, weight)
    return F.linear(x, weight) if dtype is None else _product(x.to(dtype), weight.to(dtype), None)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    attribute, algorithm = ("gelu", "none") if gelu else ("none", "")
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, attribute, [], algorithm)
    return result


def use_inference_linear(network: nn.Module) -> None:
    """Replaces every nn.Linear inside by an InferenceLinear, with the GELU after it."""
    replace_layers(network, nn.Linear, InferenceLinear)
    for parent in network.modules():
        for hidden, activation in HIDDEN:
            _take_gelu(parent, hidden, activation)
        for name in LAST:
            if type(layer := getattr(parent, name, None)) is InferenceLinear:
                layer.widens = True


def _take_gelu(parent: nn.Module, hidden: str, activation: str) -> None:
    layer, gelu = getattr(parent, hidden, None), getattr(parent, activation, None)
    exact = type(gelu) is nn.GELU and gelu.approximate == "none"
    if type(layer) is InferenceLinear and (exact or type(gelu) is activations.GELU):
        layer.gelu = True
        setattr(parent, activation, nn.Identity())


def replace_layers(network: nn.Module, kind: type[nn.Module], faster: Callable[[Any], nn.Module]) -> None:
    """Puts `faster(layer)`, which shares the layer's weights under their names, in place of every layer of a kind.

    For networks of other packages that only a FrozenModule holds; a subclass of `kind` is another kind.
    """
    for name, layer in list(network.named_modules()):
        if name and type(layer) is kind:
            network.set_submodule(name, faster(layer).train(layer.training))


@lru_cache(maxsize=1)
def onednn_is_faster() -> bool:
    """Whether this is a processor with AVX-512 for which MKL has no kernels, and oneDNN works on it."""
    backends: Any = torch.backends
    if not backends.mkl.is_available() or _maker() in ("", MKL_MAKER) or not onednn_works():
        return False
    logger.info("frozen linear layers on the CPU: oneDNN, as MKL does not use this processor's AVX-512")
    return True


@lru_cache(maxsize=1)
def onednn_works() -> bool:
    """Whether this is a processor with AVX-512 on which oneDNN's linear layer does what it should."""
    backends: Any = torch.backends
    wide = backends.cpu.get_cpu_capability().startswith("AVX512")
    return bool(backends.mkldnn.is_available() and wide and _works())


@lru_cache(maxsize=1)
def has_amx() -> bool:
    """Whether this processor has instructions for products of matrices of bfloat16 numbers."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def _works() -> bool:
    """A trial, because the operator is PyTorch's own affair and may change. It has a type of its own and no autocast:
    what it finds is kept, whatever is set where the first model is built. Not random: that would change later draws.
    """
    numbers = torch.linspace(-1, 1, 8 * 16, device="cpu", dtype=torch.float32)
    x, weight, bias = numbers.view(8, 16), numbers[:64].view(4, 16), numbers[:4]
    with without_autocast(x.device):
        try:
            plain = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
            found = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "none")
        except (AttributeError, RuntimeError, TypeError) as error:
            logger.debug("oneDNN's linear layer does not work: %s", error)
            return False
        expected = F.linear(x, weight, bias)
        return torch.allclose(plain, expected, atol=1e-5) and torch.allclose(
            found, F.gelu(expected), atol=1e-5
        )


def _type(x: Tensor, weight: Tensor, *, int8: bool = False) -> torch.dtype | None:
    """In which type oneDNN multiplies; None = it does not, or not faster.

    Args:
        int8: whether int8 is asked for.
    """
    # A compiler has its own choice of kernels, and exported programs must not name this operator.
    if (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or {x.device.type, weight.device.type} != {"cpu"}
        or (not int8 and x.numel() * len(weight) < LEAST_PRODUCTS)
    ):
        return None
    types = {x.dtype, weight.dtype}
    if torch.is_autocast_enabled("cpu"):
        half = torch.get_autocast_dtype("cpu") == torch.bfloat16 and types <= {torch.float32, torch.bfloat16}
        return torch.bfloat16 if half and onednn_works() else None
    if types != {torch.float32}:
        return None
    return torch.int8 if int8 else torch.float32 if onednn_is_faster() else None


def _maker() -> str:
    """Who made the processor, as it says itself; "" where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = [f"vendor_id: {platform.processor().rpartition(', ')[2]}"]  # Windows: "..., AuthenticAMD"
    makers = [line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")]
    return makers[0] if makers else ""
