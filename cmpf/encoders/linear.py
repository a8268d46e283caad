# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Linear layers with faster CPU inference than nn.Linear."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from timm.layers import activations
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.common.cpu import cpu_info
from cmpf.common.tensors import without_autocast
from cmpf.encoders.int8 import Int8Weight, int8_linear, quantize_weight

logger = logging.getLogger(__name__)

MIN_MULTIPLICATIONS = 1 << 22  # per call; below this, oneDNN's overhead costs more than it saves
MLP_LAYERS = (
    ("fc1", "act"),
    ("lin1", "act"),
)  # (linear, activation) in the MLPs of timm and segment-anything
RESIDUAL_LAYERS = ("fc2", "lin2", "proj")  # layers whose output is added to a block's input
MKL_VENDOR = "GenuineIntel"

ConvertedWeights: TypeAlias = "tuple[Tensor | Int8Weight, Tensor | None]"


class InferenceLinear(nn.Linear):
    """nn.Linear that calls oneDNN on the CPU without gradients, where it is faster: float32, bfloat16 autocast, int8.

    Otherwise it is nn.Linear. Results agree to the rounding of the dtype.

    Args:
        linear: layer whose parameters are shared, under the same names.
    Attributes:
        gelu: whether to apply the exact GELU; oneDNN fuses it into the matrix product.
        float32_output: whether to cast the result of a bfloat16 product to float32, for a float32 residual sum:
            PyTorch adds mixed dtypes ten times as slowly as equal ones.
        int8: whether to multiply in int8 outside autocast; int8_works tells whether the processor can.
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.gelu = self.float32_output = self.int8 = False
        self._cache: _WeightCache | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        dtype = _onednn_dtype(x, self.weight, int8=self.int8)
        if dtype is None:
            output = F.linear(x, self.weight, self.bias)
            return F.gelu(output) if self.gelu else output
        if dtype is torch.float32:
            return _linear_pointwise(x, self.weight, self.bias, gelu=self.gelu)
        weight, bias = self._converted_weights(dtype)
        if isinstance(weight, Int8Weight):
            return int8_linear(x, weight, bias, gelu=self.gelu)
        output = _linear_pointwise(x.to(dtype), weight, bias, gelu=self.gelu)
        return output.float() if self.float32_output else output

    def extra_repr(self) -> str:
        """nn.Linear's, plus whether a GELU follows."""
        return super().extra_repr() + (", gelu=True" if self.gelu else "")

    def _converted_weights(self, dtype: torch.dtype) -> ConvertedWeights:
        """Weight and bias in a dtype, cached for a frozen layer at 1/2 (bfloat16) or 1/4 (int8) of its memory."""
        if self.weight.requires_grad:
            return _convert(self.weight, self.bias, dtype)
        key = dtype, _version(self.weight), _version(self.bias)
        cache = self._cache
        if cache is None or cache.key != key:
            self._cache = cache = _WeightCache(key, _convert(self.weight, self.bias, dtype))
        return cache.weights

    def __getstate__(self) -> dict[str, Any]:
        # oneDNN's packed weights can be neither copied nor pickled.
        return {**self.__dict__, "_cache": None}


@dataclass(frozen=True)
class _WeightCache:
    """Converted weights, and the dtype and versions of the parameters that they were made from."""

    key: tuple[object, ...]
    weights: ConvertedWeights


def _convert(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> ConvertedWeights:
    if dtype is torch.int8:
        return quantize_weight(weight), bias
    return weight.to(dtype), None if bias is None else bias.to(dtype)


def _version(tensor: Tensor | None) -> tuple[int, int] | None:
    """Address and version counter of a tensor; inference tensors have no version counter."""
    if tensor is None:
        return None
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


def use_inference_linear(network: nn.Module) -> None:
    """Replaces every nn.Linear inside a network by an InferenceLinear that includes the GELU after it."""
    replace_layers(network, nn.Linear, InferenceLinear)
    for parent in network.modules():
        for linear, activation in MLP_LAYERS:
            _fuse_gelu(parent, linear, activation)
        for name in RESIDUAL_LAYERS:
            if type(layer := getattr(parent, name, None)) is InferenceLinear:
                layer.float32_output = True


def _fuse_gelu(parent: nn.Module, linear: str, activation: str) -> None:
    layer, gelu = getattr(parent, linear, None), getattr(parent, activation, None)
    exact = type(gelu) is nn.GELU and gelu.approximate == "none"
    if type(layer) is InferenceLinear and (exact or type(gelu) is activations.GELU):
        layer.gelu = True
        setattr(parent, activation, nn.Identity())


def replace_layers(
    network: nn.Module, layer_type: type[nn.Module], replacement: Callable[[Any], nn.Module]
) -> None:
    """Replaces every layer of a type, but not of its subclasses, by `replacement(layer)`.

    `replacement` must share the layer's parameters under the same names.
    """
    for name, layer in list(network.named_modules()):
        if name and type(layer) is layer_type:
            network.set_submodule(name, replacement(layer).train(layer.training))


def onednn_linear(x: Tensor, weight: Tensor) -> Tensor:
    """F.linear without bias, by oneDNN where it is faster; weight: (out_features, in_features)."""
    dtype = _onednn_dtype(x, weight)
    return F.linear(x, weight) if dtype is None else _linear_pointwise(x.to(dtype), weight.to(dtype), None)


@lru_cache(maxsize=1)
def onednn_is_faster() -> bool:
    """Whether oneDNN works on this processor and uses its AVX-512, but MKL does not."""
    backends: Any = torch.backends
    if not backends.mkl.is_available() or _cpu_vendor() in ("", MKL_VENDOR) or not onednn_works():
        return False
    logger.info("frozen linear layers on the CPU: oneDNN, as MKL does not use this processor's AVX-512")
    return True


@lru_cache(maxsize=1)
def onednn_works() -> bool:
    """Whether this processor has AVX-512 and oneDNN's linear operator computes correctly on it."""
    backends: Any = torch.backends
    has_avx512 = backends.cpu.get_cpu_capability().startswith("AVX512")
    return bool(backends.mkldnn.is_available() and has_avx512 and _onednn_agrees())


@lru_cache(maxsize=1)
def has_amx() -> bool:
    """Whether this processor has AMX instructions for bfloat16 matrix products."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def _onednn_dtype(x: Tensor, weight: Tensor, *, int8: bool = False) -> torch.dtype | None:
    """The dtype in which oneDNN multiplies; None = use F.linear.

    Args:
        int8: whether int8 is requested.
    """
    # torch.compile chooses its own kernels, and exported programs must not contain this operator.
    if (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or {x.device.type, weight.device.type} != {"cpu"}
        or x.numel() * len(weight) < (1 if int8 else MIN_MULTIPLICATIONS)
    ):
        return None
    dtypes = {x.dtype, weight.dtype}
    if torch.is_autocast_enabled("cpu"):
        bf16 = torch.get_autocast_dtype("cpu") == torch.bfloat16 and dtypes <= {torch.float32, torch.bfloat16}
        return torch.bfloat16 if bf16 and onednn_works() else None
    if dtypes != {torch.float32}:
        return None
    return torch.int8 if int8 else torch.float32 if onednn_is_faster() else None


def _linear_pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    operation, algorithm = ("gelu", "none") if gelu else ("none", "")
    output: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, operation, [], algorithm)
    return output


def _onednn_agrees() -> bool:
    """Whether PyTorch's private operator still exists and agrees with F.linear.

    The result is cached for the process, so the check does not depend on the default dtype or on autocast, and does
    not draw from the global random generator.
    """
    values = torch.linspace(-1, 1, 8 * 16, device="cpu", dtype=torch.float32)
    x, weight, bias = values.view(8, 16), values[:64].view(4, 16), values[:4]
    with without_autocast(x.device):
        try:
            linear = _linear_pointwise(x, weight, bias)
            linear_gelu = _linear_pointwise(x, weight, bias, gelu=True)
        except (AttributeError, RuntimeError, TypeError) as error:
            logger.debug("oneDNN's linear layer does not work: %s", error)
            return False
        expected = F.linear(x, weight, bias)
        return torch.allclose(linear, expected, atol=1e-5) and torch.allclose(
            linear_gelu, F.gelu(expected), atol=1e-5
        )


def _cpu_vendor() -> str:
    """The processor's CPUID vendor string; "" if the system does not tell it."""
    return cpu_info("vendor_id") or platform.processor().rpartition(", ")[2]  # Windows: "..., AuthenticAMD"
