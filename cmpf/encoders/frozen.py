# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Base of everything that is never trained, and its faster linear layers."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from timm.layers import activations
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.common.tensors import without_autocast
from cmpf.weights.saving import hash_weights

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

LEAST_PRODUCTS = 1 << 22  # multiplications of a call; below, preparing it costs more than it saves
HIDDEN = (("fc1", "act"), ("lin1", "act"))  # layer and activation in an MLP of timm, of segment-anything
MKL_MAKER = "GenuineIntel"
TRIAL_SIDE = 128  # pixels of the image on which precisions are compared


class FrozenModule(nn.Module):
    """A module whose parameters and buffers nothing changes: no gradients, always in eval mode.

    Subclasses call `freeze()` at the end of their constructor. Calling the module runs `forward` without
    autograd, in the precision of `compute_in`; `train()`, its own or a parent's, leaves it and everything inside it
    in eval mode, so that BatchNorm statistics do not drift.
    """

    def __init__(self) -> None:
        super().__init__()
        self._dtype: torch.dtype | None = None
        self._weights_hash: str | None = None
        self.register_load_state_dict_post_hook(_forget_hash)  # type: ignore[no-untyped-call]

    def freeze(self) -> None:
        """Switches gradients off and eval mode on, for all that is inside now, and takes the faster linear layers."""
        use_onednn_linear(self)
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode whatever `mode` says."""
        return super().train(False)

    def compute_in(self, dtype: torch.dtype | None) -> None:
        """Sets the precision of `forward`.

        Args:
            dtype: torch.bfloat16 = autocast; torch.float32 = no autocast, even inside the caller's; None = the
                caller's.
        """
        self._dtype = dtype

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs `forward` without autograd, in its own precision."""
        with torch.no_grad(), self._autocast():
            return super().__call__(*args, **kwargs)

    def trial(self, image_13HW: Tensor) -> list[Tensor]:
        """Features of a small normalized image, by which precisions are compared; [] = there is no such thing."""
        return []

    def difference_in(self, dtype: torch.dtype) -> float:
        """How far features in a precision are from those in float32, as a share of the largest number; 0 = no trial."""
        device = next(self.parameters()).device.type
        image = _trial_image().to(device)
        with torch.no_grad(), without_autocast(image.device):
            expected = self.trial(image)
        with torch.no_grad(), torch.autocast(device, dtype=dtype):
            found = self.trial(image)
        shares = [
            float((a.float() - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True)
        ]
        return float("inf") if any(share != share for share in shares) else max(shares, default=0.0)

    def weights(self) -> Mapping[str, Tensor]:
        """Parameters and buffers under names that stay the same from one CMPF release to the next."""
        return self.state_dict()

    @property
    def weights_hash(self) -> str:
        """SHA-256 of `weights()`; computed at the first use, and again after other weights were loaded."""
        if self._weights_hash is None:
            self._weights_hash = hash_weights(self.weights())
        return self._weights_hash

    def weights_changed(self) -> None:
        """To be called after weights were written in place: the hash that was computed is void."""
        self._weights_hash = None

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._dtype is None:
            return nullcontext()
        device = next(self.parameters()).device.type
        return torch.autocast(device, dtype=self._dtype, enabled=self._dtype is not torch.float32)


def _trial_image() -> Tensor:
    """(1, 3, TRIAL_SIDE, TRIAL_SIDE): waves of several lengths, about as large as normalized pixels."""
    axis = torch.linspace(0, 1, TRIAL_SIDE, device="cpu")
    rows, columns = axis[:, None], axis[None]
    waves = [(5, 3), (17, 11), (2, 29)]
    return torch.stack([(a * rows).sin() + (b * columns + a * rows).cos() for a, b in waves])[None]


def _forget_hash(module: nn.Module, _incompatible_keys: object) -> None:
    if isinstance(module, FrozenModule):
        module.weights_changed()


class OneDNNLinear(nn.Linear):
    """nn.Linear, by oneDNN where that is possible: on the CPU without gradients, in float32 or autocast to bfloat16.

    Elsewhere it is nn.Linear itself. Results agree to the rounding of the type.

    Args:
        linear: its weights are shared under the same names.
    Attributes:
        gelu: whether the exact GELU follows, which oneDNN applies before the sums leave the processor.
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.gelu = False

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return onednn_linear(x, self.weight, self.bias, gelu=self.gelu)

    def extra_repr(self) -> str:
        """As nn.Linear says it, and whether a GELU follows."""
        return super().extra_repr() + (", gelu=True" if self.gelu else "")


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """See OneDNNLinear; weight: (out_features, in_features)."""
    dtype = _type(x, weight)
    if dtype is None or x.numel() * len(weight) < LEAST_PRODUCTS:
        plain = F.linear(x, weight, bias)
        return F.gelu(plain) if gelu else plain
    x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    attribute, algorithm = ("gelu", "none") if gelu else ("none", "")
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, attribute, [], algorithm)
    return result


def use_onednn_linear(network: nn.Module) -> None:
    """Replaces every nn.Linear inside by a OneDNNLinear, with the GELU after it, if that is faster here."""
    if onednn_is_faster():
        replace_layers(network, nn.Linear, OneDNNLinear)
        for parent in network.modules():
            for hidden, activation in HIDDEN:
                _take_gelu(parent, hidden, activation)


def _take_gelu(parent: nn.Module, hidden: str, activation: str) -> None:
    layer, gelu = getattr(parent, hidden, None), getattr(parent, activation, None)
    exact = type(gelu) is nn.GELU and gelu.approximate == "none"
    if type(layer) is OneDNNLinear and (exact or type(gelu) is activations.GELU):
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
    if not (backends.mkl.is_available() and backends.mkldnn.is_available()):
        return False
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512") or _maker() in ("", MKL_MAKER):
        return False
    works = _works()
    if works:
        logger.info("frozen linear layers on the CPU: oneDNN, as MKL does not use this processor's AVX-512")
    return works


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


def _type(x: Tensor, weight: Tensor) -> torch.dtype | None:
    """In which type oneDNN multiplies; None = it does not."""
    # A compiler has its own choice of kernels, and exported programs must not name this operator.
    if (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or {x.device.type, weight.device.type} != {"cpu"}
    ):
        return None
    types = {x.dtype, weight.dtype}
    if torch.is_autocast_enabled("cpu"):
        half = torch.get_autocast_dtype("cpu") == torch.bfloat16 and types <= {torch.float32, torch.bfloat16}
        return torch.bfloat16 if half else None
    return torch.float32 if types == {torch.float32} else None


def _maker() -> str:
    """Who made the processor, as it says itself; "" where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = [f"vendor_id: {platform.processor().rpartition(', ')[2]}"]  # Windows: "..., AuthenticAMD"
    makers = [line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")]
    return makers[0] if makers else ""
