# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Weights of CMPF: safetensors files of what was trained, with names and hashes of the frozen encoders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cmpf.errors import WeightsError
from cmpf.files import replacing

FORMAT_VERSION = 1
# All metadata stand in one JSON text: safetensors writes several in random order, and equal weights should
# give equal files.
_METADATA_KEY, _VERSION_KEY, _ENCODERS_KEY = "cmpf", "format_version", "encoders"


class TrainedModel(Protocol):
    """A model that tells which part of it is trained; cmpf.model.CMPF is one."""

    def trained_state_dict(self) -> dict[str, Tensor]:
        """Trained parameters and buffers by name, sharing the model's memory."""
        ...

    def encoder_hashes(self) -> dict[str, str]:
        """Name -> content hash of the frozen encoders."""
        ...


@dataclass(frozen=True)
class LoadReport:
    """What became of each weight.

    loaded: names now in the model. missing: trained in the model, not in the file. unexpected: in the file
    only. mismatched: "name: shape in the file, shape in the model".
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} weights loaded"]
        for what, names in (
            ("missing in the file", self.missing),
            ("of another shape", self.mismatched),
            ("in the file only, left out", self.unexpected),
        ):
            if names:
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                lines.append(f"{len(names)} {what}: {', '.join(names[:5])}{more}")
        return "; ".join(lines)


def save(model: TrainedModel, path: str | Path, *, metadata: Mapping[str, Any]) -> None:
    """Writes the trained weights of a model, atomically; frozen encoders are named, not stored.

    Args:
        path: ends in .safetensors by custom.
        metadata: what else is worth keeping, as far as JSON can hold it: configuration, training vocabulary.
    Raises:
        WeightsError: a metadata key is one of our own.
    """
    if taken := {_VERSION_KEY, _ENCODERS_KEY} & set(metadata):
        raise WeightsError(f"metadata keys {sorted(taken)} are CMPF's own; choose others")
    content = {_VERSION_KEY: FORMAT_VERSION, _ENCODERS_KEY: model.encoder_hashes(), **metadata}
    # A weight with two names shares its memory, which safetensors refuses: each name gets its own copy.
    tensors = {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in model.trained_state_dict().items()
    }
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(tensors, temporary, metadata={_METADATA_KEY: json.dumps(content)})
        temporary.chmod(mode)  # safetensors makes files that nobody but their owner can read


def load(
    model: TrainedModel, path_or_state_dict: str | Path | Mapping[str, Tensor], *, strict: bool = True
) -> LoadReport:
    """Puts weights into a model, in the model's own precision and on its device.

    Args:
        path_or_state_dict: a safetensors file, or tensors by name.
        strict: False = weights may be missing or of another shape (they keep their values), and the encoders
            may be others than those the weights were trained with.
    Returns:
        What was loaded and what was not; print it.
    Raises:
        WeightsError: the file is absent, damaged or a pickle; or, if strict, weights are missing or of
            another shape, or belong to other encoders. The model is then unchanged.
    """
    if isinstance(path_or_state_dict, Mapping):
        source, tensors = "the given state dict", dict(path_or_state_dict)
    else:
        source = str(path_or_state_dict)
        tensors, metadata = _read(Path(path_or_state_dict))
        if strict:
            _check_encoders(source, metadata.get(_ENCODERS_KEY, {}), model.encoder_hashes())
    own = model.trained_state_dict()
    mismatched = {n for n in own if n in tensors and tensors[n].shape != own[n].shape}
    report = LoadReport(
        loaded=tuple(n for n in own if n in tensors and n not in mismatched),
        missing=tuple(n for n in own if n not in tensors),
        unexpected=tuple(n for n in tensors if n not in own),
        mismatched=tuple(
            f"{n}: {_shape(tensors[n])} in the file, {_shape(own[n])} here" for n in own if n in mismatched
        ),
    )
    if strict and (report.missing or report.mismatched):
        raise WeightsError(
            f"{source} does not fit the model: {report}. Use the configuration that it was trained with, or "
            "strict=False to start the rest from scratch"
        )
    with torch.no_grad():
        for name in report.loaded:
            own[name].copy_(tensors[name])
    return report


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What stands beside the weights: format_version, encoders and what `save` was given.

    Raises:
        WeightsError: the file is absent, damaged or a pickle.
    """
    return _read(Path(path), tensors=False)[1]


def _read(path: Path, *, tensors: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise WeightsError(f"no weights at {path}: no such file. Check MODEL.WEIGHTS or the path given")
    if _is_pickle(path):
        raise WeightsError(
            f"{path} is a PyTorch pickle, which can run code when it is read; CMPF reads safetensors. "
            "Convert it: safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'FILE.safetensors')"
        )
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = json.loads((file.metadata() or {}).get(_METADATA_KEY, "{}"))
            values = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path} is truncated, damaged or no safetensors file ({error}). Copy or download it again"
        ) from error
    version = metadata.get(_VERSION_KEY, FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise WeightsError(
            f"{path} has format version {version}, this CMPF reads version {FORMAT_VERSION}. Update CMPF"
        )
    return values, metadata


def _is_pickle(path: Path) -> bool:
    """Zip archives (torch.save) and bare pickles, by their first bytes."""
    with path.open("rb") as file:
        start = file.read(4)
    return start == b"PK\x03\x04" or (
        start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    )


def _check_encoders(source: str, trained_with: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Weights mean something only together with the frozen encoders that they were trained on."""
    if all(here.get(name) == content for name, content in trained_with.items()):
        return

    def described(encoders: Mapping[str, str]) -> str:
        return ", ".join(f"{name} (hash {content[:12]})" for name, content in encoders.items()) or "none"

    raise WeightsError(
        f"{source} was trained with the encoders {described(trained_with)}; this model has "
        f"{described(here)}. Set MODEL.CMPF.CLIP and MODEL.CMPF.SAM to the former, or load with "
        "strict=False to go on with the latter"
    )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
