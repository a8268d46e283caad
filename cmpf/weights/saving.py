# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""CMPF's weight format, a safetensors file of trained weights with the hashes of frozen encoders, and its protocols."""

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
# All metadata are stored as one JSON text: safetensors writes several entries in random order, and equal weights should
# give equal files.
METADATA_KEY, VERSION_KEY, ENCODERS_KEY = "cmpf", "format_version", "encoders"
ENCODER_FILES_KEY = "encoders_in"  # {"clip" or "sam": name of the file beside this one that also contains it}
PLUGINS_KEY = "plugins"  # {module of a plug-in: its file}
ORIGIN_KEY = "zoo"  # the zoo entry and checkpoint that the weights were extracted from
Metrics: TypeAlias = "Mapping[str, Mapping[str, Mapping[str, float]]]"  # {dataset: {task: {metric: percent}}}


class TrainedModel(Protocol):
    """A model whose trained weights can be saved and loaded; implemented by cmpf.model.CMPF."""

    def trained_state_dict(self) -> dict[str, Tensor]:
        """Trained parameters and buffers by name, sharing the model's memory."""
        ...

    def encoder_hashes(self) -> dict[str, str]:
        """Content hashes of the frozen encoders by name."""
        ...


class Saver(Protocol):
    """Saves a predictor's model as a folder for cmpf.load; see Predictor.save_pretrained."""

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
    """A frozen encoder that checkpoints may fill; implemented by cmpf.encoders.frozen.FrozenModule."""

    def weights(self) -> Mapping[str, Tensor]:
        """Parameters and buffers under names that are stable across releases."""
        ...

    @property
    def weights_hash(self) -> str:
        """SHA-256 of `weights()`."""
        ...

    def weights_changed(self) -> None:
        """Called after the weights were changed in place; discards their cached hash."""
        ...


@runtime_checkable
class ModelWithEncoders(TrainedModel, Protocol):
    """A model whose frozen encoders checkpoints may fill; implemented by cmpf.model.CMPF."""

    @property
    def uses_sam(self) -> bool:
        """Whether an injector uses SAM's embedding."""
        ...

    def frozen_encoders(self) -> Mapping[str, FrozenEncoder]:
        """The model's encoders by kind, "clip" and "sam"."""
        ...

    def forget_embeddings(self) -> None:
        """Called after CLIP's weights have changed; discards cached text embeddings."""
        ...


def save(model: TrainedModel, path: str | Path, *, metadata: Mapping[str, Any]) -> None:
    """Saves the trained weights of a model atomically, with the names and hashes of its frozen encoders.

    Args:
        model: the model.
        path: the file, by convention with the suffix .safetensors.
        metadata: additional metadata that JSON can represent, e.g. configuration and training vocabulary.
    Raises:
        WeightsError: a metadata key is reserved.
    """
    write(model.trained_state_dict(), path, encoders=model.encoder_hashes(), metadata=metadata)


def write(
    trained: Mapping[str, Tensor],
    path: str | Path,
    *,
    encoders: Mapping[str, str],
    metadata: Mapping[str, Any],
) -> None:
    """Saves trained weights without a model; see `save`.

    Args:
        trained: weights by name.
        path: see `save`.
        encoders: content hashes by name of the frozen encoders that the weights belong to.
        metadata: see `save`.
    """
    if reserved := {VERSION_KEY, ENCODERS_KEY} & set(metadata):
        raise WeightsError(f"metadata keys {sorted(reserved)} are CMPF's own; choose others")
    content = {VERSION_KEY: FORMAT_VERSION, ENCODERS_KEY: dict(encoders), **metadata}
    write_safetensors(trained, path, header={METADATA_KEY: json.dumps(content)})


def write_safetensors(
    tensors: Mapping[str, Tensor],
    path: str | Path,
    *,
    header: dict[str, str] | None = None,
    durable: bool = True,
) -> None:
    """Writes a safetensors file atomically, with the permissions of the umask.

    Args:
        header: metadata of the file.
        durable: see replacing.
    """
    # Copies, because safetensors rejects tensors that share memory.
    copies = {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    with replacing(path, durable=durable) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(copies, temporary, metadata=header)
        temporary.chmod(mode)  # safetensors makes files readable only by their owner


def hash_weights(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 (64 hexadecimal digits) of the names, dtypes, shapes and bytes of all weights, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_values(title: str, source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Checks the dtypes of weights before they are loaded, and that they are finite.

    Args:
        title: origin of the weights, for messages.
        source: weights by name; those that are not in `target` are not checked.
        target: the model's weights. Those that are not finite (the mask of causal attention) accept infinite values.
    Raises:
        WeightsError: a weight is integer or complex where the model's is floating-point, or the other way round, or
            has NaN or infinity.
    """
    for name, value in source.items():
        if (own := target.get(name)) is None:
            continue
        if value.is_floating_point() != own.is_floating_point() or value.is_complex():
            raise WeightsError(
                f"{title}: {name} is of type {str(value.dtype).removeprefix('torch.')}, the model's is "
                f"{str(own.dtype).removeprefix('torch.')}; save the weights unquantized, in float16, bfloat16 or "
                "float32"
            )
        if not _is_finite(value) and _is_finite(own):
            raise WeightsError(
                f"{title}: {name} holds NaN or infinity, with which every result would be meaningless; take an "
                "earlier checkpoint"
            )


def _is_finite(values: Tensor) -> bool:
    if not values.is_floating_point():
        return True
    values = values if values.element_size() > 1 else values.float()  # isfinite does not support 8-bit floats
    return bool(values.isfinite().all())
