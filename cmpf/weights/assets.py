# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The files of the embedded tiny encoders: where they lie, and that they are whole."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from cmpf.errors import WeightsError
from cmpf.weights.files import file_sha256

ASSETS = Path(__file__).resolve().parent.parent / "assets"
HASHES = "hashes.json"

_FIX = "Reinstall CMPF, or make it again with: python tools/train_tiny_encoders.py --out {folder}"


def expected_hash(name: str, *, folder: Path = ASSETS) -> str:
    """The SHA-256 that `hashes.json` of the folder gives for the asset.

    Raises:
        WeightsError: no such list, or the asset is not in it.
    """
    path = folder / HASHES
    try:
        hashes = json.loads(path.read_text(encoding="utf-8"))
        return str(hashes[name])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{path}: no SHA-256 of {name} ({type(error).__name__}: {error})."
        raise WeightsError(f"{reason} {_FIX.format(folder=folder)}") from error


def checked_asset(name: str, *, folder: Path = ASSETS) -> Path:
    """Path of an asset whose content is what `hashes.json` says.

    Raises:
        WeightsError: the file is missing or damaged; names the file and the fix.
    """
    path = folder / name
    fix = _FIX.format(folder=folder)
    if not path.is_file():
        raise WeightsError(f"{path}: not there. {fix}")
    expected, found = expected_hash(name, folder=folder), file_sha256(path)
    if found != expected:
        raise WeightsError(f"{path}: damaged, SHA-256 is {found[:12]}..., expected {expected[:12]}.... {fix}")
    return path


def load_checked_weights(name: str, *, folder: Path = ASSETS) -> dict[str, Tensor]:
    """Tensors of a safetensors asset, floating-point ones as float32 (they are stored as float16).

    Raises:
        WeightsError: the file is missing or damaged.
    """
    from safetensors.torch import load_file

    tensors = load_file(checked_asset(name, folder=folder))
    return {
        key: value.to(torch.float32) if value.is_floating_point() else value for key, value in tensors.items()
    }
