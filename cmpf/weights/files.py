# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Files of frozen weights: where they lie, how they are read without running code, what identifies them."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from cmpf.errors import WeightsError

# What libraries raise for a file that is truncated, foreign, or made for another model.
UNREADABLE = (
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    pickle.UnpicklingError,
    SafetensorError,
)


def cache_folder() -> Path:
    """Folder of downloaded weights and of caches: $CMPF_CACHE, else `cmpf` in the Hugging Face cache home."""
    own = os.environ.get("CMPF_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(base, "huggingface")
    return Path(home).expanduser() / "cmpf"


def read_weights(path: Path) -> dict[str, Tensor]:
    """Named tensors of a safetensors file or of a PyTorch file that holds nothing but tensors.

    Raises:
        WeightsError: the file is not there, damaged, or holds something else.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; give the path of a .safetensors, .pt or .pth file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise WeightsError(
            f"{path}: cannot be read, damaged or not a weights file: {summary(error)}"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path}: holds {type(content).__name__}, expected a state dict of tensors")
    return content


def load_weights(model: nn.Module, path: Path) -> None:
    """Fills a model from a file; every name and shape must fit.

    Raises:
        WeightsError: the file cannot be read or belongs to another model.
    """
    weights = read_weights(path)
    try:
        model.load_state_dict(weights)
    except UNREADABLE as error:
        raise WeightsError(f"{path}: does not fit the model, is it another size? {summary(error)}") from error


def hash_weights(weights: Mapping[str, Tensor]) -> str:
    """SHA-256, 64 hexadecimal digits, of names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits; reads it piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def summary(error: BaseException, limit: int = 300) -> str:
    """The message of another library's error on one line, cut at `limit` characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= limit else f"{text[:limit]}..."
