# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What weights are, and CMPF's own format: a safetensors file of what was trained, with hashes of frozen encoders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from safetensors.torch import save_file
from torch import Tensor

from cmpf.common.files import replacing
from cmpf.errors import WeightsError

FORMAT_VERSION = 1
# All metadata stand in one JSON text: safetensors writes several in random order, and equal weights should
# give equal files.
METADATA_KEY, VERSION_KEY, ENCODERS_KEY = "cmpf", "format_version", "encoders"
Metrics: TypeAlias = "Mapping[str, Mapping[str, Mapping[str, float]]]"  # dataset, task, metric
BROUGHT_KEY = "encoders_in"  # frozen encoder -> the file beside this one that holds it, too


class TrainedModel(Protocol):
    """A model that tells which part of it is trained; cmpf.model.CMPF is one."""

    def trained_state_dict(self) -> dict[str, Tensor]:
        """Trained parameters and buffers by name, sharing the model's memory."""
        ...

    def encoder_hashes(self) -> dict[str, str]:
        """Name -> content hash of the frozen encoders."""
        ...


class Saver(Protocol):
    """Writes a predictor's model as a folder that cmpf.load reads; see Predictor.save_pretrained."""

    def __call__(
        self,
        model: Any,
        folder: Path,
        *,
        title: str,
        metrics: str | Path | Metrics | None,
        license: str,
        notes: str,
    ) -> list[Path]: ...


class FrozenEncoder(Protocol):
    """An encoder that checkpoints may fill; cmpf.encoders.frozen.FrozenModule is one."""

    def weights(self) -> Mapping[str, Tensor]:
        """Parameters and buffers under names that stay the same from one release to the next."""
        ...

    @property
    def weights_hash(self) -> str:
        """SHA-256 of `weights()`."""
        ...

    def weights_changed(self) -> None:
        """Called after its weights were written in place: hashes of them are void."""
        ...


@runtime_checkable
class ModelWithEncoders(TrainedModel, Protocol):
    """A model whose frozen encoders checkpoints may fill; cmpf.model.CMPF is one."""

    @property
    def uses_sam(self) -> bool:
        """Whether an injector reads SAM's embedding."""
        ...

    def frozen_encoders(self) -> Mapping[str, FrozenEncoder]:
        """The encoders that it has: "clip", "sam"."""
        ...

    def forget_embeddings(self) -> None:
        """Called after an encoder got other weights: text embeddings kept in memory are void."""
        ...


def save(model: TrainedModel, path: str | Path, *, metadata: Mapping[str, Any]) -> None:
    """Writes the trained weights of a model, atomically; frozen encoders are named, not stored.

    Args:
        path: ends in .safetensors by custom.
        metadata: what else is worth keeping, as far as JSON can hold it: configuration, training vocabulary.
    Raises:
        WeightsError: a metadata key is one of our own.
    """
    write(model.trained_state_dict(), path, encoders=model.encoder_hashes(), metadata=metadata)


def write(
    trained: Mapping[str, Tensor],
    path: str | Path,
    *,
    encoders: Mapping[str, str],
    metadata: Mapping[str, Any],
) -> None:
    """Writes trained weights that no model holds; see `save`.

    Args:
        encoders: name -> content hash of the frozen encoders that the weights belong to.
    """
    if taken := {VERSION_KEY, ENCODERS_KEY} & set(metadata):
        raise WeightsError(f"metadata keys {sorted(taken)} are CMPF's own; choose others")
    content = {VERSION_KEY: FORMAT_VERSION, ENCODERS_KEY: dict(encoders), **metadata}
    write_safetensors(trained, path, header={METADATA_KEY: json.dumps(content)})


def write_safetensors(tensors: Mapping[str, Tensor], path: str | Path, *, header: dict[str, str]) -> None:
    """Writes a safetensors file, atomically, with the rights that the umask gives."""
    # A weight with two names shares its memory, which safetensors refuses: each name gets its own copy.
    copies = {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(copies, temporary, metadata=header)
        temporary.chmod(mode)  # safetensors makes files that nobody but their owner can read


def hash_weights(weights: Mapping[str, Tensor]) -> str:
    """SHA-256, 64 hexadecimal digits, of names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_values(source: str, given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Makes sure that weights are numbers that the model can compute with, in place of which it would give any result.

    Args:
        source: of the weights, for messages.
        given: weights by name; those that are not in `own` do not matter.
        own: those of the model. Where one of its own is not finite (the mask of causal attention), another may be so.
    Raises:
        WeightsError: quantized, complex or whole numbers in place of floating-point ones, or the other way round; NaN
            or infinity.
    """
    for name, value in given.items():
        if (place := own.get(name)) is None:
            continue
        if value.is_floating_point() != place.is_floating_point() or value.is_complex():
            raise WeightsError(
                f"{source}: {name} is of type {str(value.dtype).removeprefix('torch.')}, the model's is "
                f"{str(place.dtype).removeprefix('torch.')}; save the weights unquantized, in float16, bfloat16 or "
                "float32"
            )
        if not _is_finite(value) and _is_finite(place):
            raise WeightsError(
                f"{source}: {name} holds NaN or infinity, with which every result would be meaningless; take an "
                "earlier checkpoint"
            )


def _is_finite(values: Tensor) -> bool:
    if not values.is_floating_point():
        return True
    values = values if values.element_size() > 1 else values.float()  # torch does not ask numbers of 8 bits
    return bool(values.isfinite().all())
