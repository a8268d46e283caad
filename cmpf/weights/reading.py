# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Reads the tensors of a file of weights without running code that the file may contain."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cmpf.errors import WeightsError, summary
from cmpf.weights.download import ASSETS, checked_asset
from cmpf.weights.key_mapping import without_parallel_prefix
from cmpf.weights.remote import LIMIT, is_page, page_reason
from cmpf.weights.saving import (
    ENCODER_FILES_KEY,
    ENCODERS_KEY,
    FORMAT_VERSION,
    METADATA_KEY,
    ORIGIN_KEY,
    PLUGINS_KEY,
    VERSION_KEY,
    check_values,
)

# Errors that libraries raise for a file that is truncated, of another format, or of another model.
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

# Keys of the weights in training checkpoints, beside optimizer, schedule and iteration.
NESTED_KEYS = ("model", "state_dict")
_ZIP = b"PK\x03\x04"
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # protocols 2 to 5
_OLD_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before PyTorch 1.6 begins so
_UNSAFE = re.compile(r"Unsupported (?:global|class|operand)\D*?([A-Za-z_][\w.]*\.[\w.]*\w)")
_DAMAGED = "Copy or download it again"
_NUMPY_1, _NUMPY_2 = "numpy.core.multiarray", "numpy._core.multiarray"


@dataclass(frozen=True)
class Contents:
    """Contents of a file of weights.

    Attributes:
        source: the file, for messages.
        tensors: weights by name.
        metadata: metadata of CMPF's own format; empty for other files.
    """

    source: str
    tensors: dict[str, Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)


def read_contents(path: str | Path) -> Contents:
    """Reads a file of weights.

    Args:
        path: a .safetensors file, or a PyTorch file (.pth, .pt) with a state dict, also under "model" or "state_dict"
            as in training checkpoints. NumPy arrays and numbers are converted to tensors.
    Raises:
        WeightsError: the file is missing, damaged, or could run code (a bare pickle, TorchScript, pickled objects).
    """
    path = _existing(path)
    _refuse_page(path)
    if _is_torch_or_pickle(path):
        return Contents(str(path), unwrap_state_dict(_load_torch(path), str(path)))
    return Contents(str(path), *_read_safetensors(path, tensors=True))


def load_weights(model: nn.Module, path: Path, *, prefixes: tuple[str, ...] = ()) -> None:
    """Loads a file into a model; every name and shape must match.

    Args:
        model: the model to fill.
        path: see read_contents.
        prefixes: prefixes under which the file may contain the model as a part of another one.
    Raises:
        WeightsError: the file cannot be read or belongs to another model.
    """
    tensors = read_contents(path).tensors
    for prefix in prefixes:
        if any(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}
    check_values(str(path), tensors, model.state_dict())
    try:
        model.load_state_dict(tensors)
    except UNREADABLE as error:
        raise WeightsError(f"{path}: does not fit the model, is it another size? {summary(error)}") from error


def load_checked_weights(name: str, *, folder: Path = ASSETS) -> dict[str, Tensor]:
    """Tensors of a safetensors asset, with floating-point ones converted from float16 to float32.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    tensors = read_contents(checked_asset(name, folder=folder)).tensors
    return {
        key: value.to(torch.float32) if value.is_floating_point() else value for key, value in tensors.items()
    }


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Metadata of a file in CMPF's own format: format_version, encoders, and the metadata passed to `save`.

    Returns:
        The metadata; {} for files of another format.
    Raises:
        WeightsError: the file is missing, damaged or a pickle.
    """
    path = _existing(path)
    _refuse_page(path)
    if _is_torch_or_pickle(path):
        _refuse_code(path)
        return {}
    return _read_safetensors(path, tensors=False)[1]


def unwrap_state_dict(content: object, source: str) -> dict[str, Tensor]:
    """Extracts the state dict of a checkpoint as tensors, without DistributedDataParallel's prefix.

    Args:
        content: a state dict, or a dict that has one under "model" or "state_dict".
        source: the file, for messages.
    Raises:
        WeightsError: there is no mapping of names to tensors or arrays.
    """
    for key in NESTED_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{source} holds a {type(content).__name__}, expected weights by name, or a checkpoint with them "
            f"under {' or '.join(map(repr, NESTED_KEYS))}"
        )
    tensors = {str(name): _as_tensor(name, value, source) for name, value in content.items()}
    return dict(zip(without_parallel_prefix(list(tensors)), tensors.values(), strict=True))


def _as_tensor(name: object, value: object, source: str) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.array(value))  # a copy, because arrays of a file may be read-only
    raise WeightsError(
        f"{source}: {name!r} is a {type(value).__name__}, expected a tensor or an array of numbers"
    )


def _existing(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if not path.is_file():
        raise WeightsError(f"no weights at {path}: no such file. Check MODEL.WEIGHTS or the path given")
    return path


def _is_torch_or_pickle(path: Path) -> bool:
    """Whether a file is a zip archive (torch.save) or a pickle (torch.save's old format, or a bare one)."""
    start = _start(path)
    return path.suffix == ".pkl" or start.startswith((_ZIP, _OLD_TORCH)) or _is_bare_pickle(start)


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_OLD_TORCH))


def _is_bare_pickle(start: bytes) -> bool:
    """Whether a file starts like a pickle. The header length of a safetensors file may too, but "{" follows it."""
    return start.startswith(_PICKLES) and start != _OLD_TORCH and start[4:9] != b"\0\0\0\0{"


def _refuse_page(path: Path) -> None:
    """Rejects a web page that was saved under the name of a file of weights."""
    with path.open("rb") as file:
        start = file.read(LIMIT)
    if is_page(start):
        reason = page_reason(start.decode("utf-8", errors="replace"))
        raise WeightsError(
            f"{path} is a web page, not weights ({reason}). Delete it, open the address that it came from in a "
            "browser, and save the file itself"
        )


def _refuse_code(path: Path) -> None:
    """Rejects formats that can run code when they are read."""
    if path.suffix == ".pkl" or _is_bare_pickle(_start(path)):
        raise WeightsError(
            f"{path} is a Python pickle, which can run any code when it is read; CMPF does not open it. If you "
            "trust where it comes from, turn it into tensors: content = pickle.load(open(FILE, 'rb')); "
            "torch.save({name: torch.as_tensor(value) for name, value in content['model'].items()}, 'FILE.pth')"
        )
    if is_torch_script(path):
        raise WeightsError(
            f"{path} is a TorchScript archive: a program, not only weights. For OpenAI's CLIP set "
            "MODEL.CMPF.CLIP.PRETRAINED openai, which downloads the same weights as safetensors; for others: "
            "torch.save(torch.jit.load(FILE, map_location='cpu').state_dict(), 'FILE.pth')"
        )


def is_torch_script(path: Path) -> bool:
    """Whether a file is a TorchScript archive, which has constants; archives of torch.save have none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False  # another format, or damaged, which reading it reports


def _load_torch(path: Path) -> object:
    _refuse_code(path)
    try:
        with torch.serialization.safe_globals(_numpy_types()):
            # Memory-mapped, so that only the used tensors are read from a file that also contains encoders.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        match = _UNSAFE.search(str(error))
        raise WeightsError(
            f"{path} holds more than weights ({match[1] if match else _first_line(error)}), and reading that could "
            "run code. Save it again where it was made: torch.save(model.state_dict(), 'FILE.pth')"
        ) from error
    except (*UNREADABLE, zipfile.BadZipFile, ArithmeticError, AssertionError, MemoryError) as error:
        raise WeightsError(
            f"{path} is truncated, damaged or no PyTorch file ({_first_line(error)}). {_DAMAGED}"
        ) from error


def _numpy_types() -> list[Any]:
    """Safe globals for the pickled numbers and arrays of NumPy 1 and 2, which older training checkpoints contain."""
    scalar = np.float64(0).__reduce__()[0]
    reconstruct = np.zeros(1).__reduce__()[0]
    functions = [
        (function, f"{module}.{name}")
        for function, name in ((scalar, "scalar"), (reconstruct, "_reconstruct"))
        for module in (_NUMPY_1, _NUMPY_2)
    ]
    dtypes = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdg"}  # one class per dtype since NumPy 1.25
    return [*functions, np.ndarray, np.dtype, *dtypes]


def _read_safetensors(path: Path, *, tensors: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            if not _has_form(metadata):
                raise ValueError(f"its metadata under {METADATA_KEY!r} are of another form")
            values = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"{path} is truncated, damaged or no safetensors file ({error}). {_DAMAGED}"
        ) from error
    version = metadata.get(VERSION_KEY, FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise WeightsError(
            f"{path} has format version {version}, this CMPF reads version {FORMAT_VERSION}. Update CMPF"
        )
    return values, metadata


def _has_form(metadata: Any) -> bool:
    """Whether metadata are an object that has objects, of texts but for ORIGIN_KEY, under the keys that are read."""
    if not isinstance(metadata, dict) or not isinstance(metadata.get(ORIGIN_KEY, {}), dict):
        return False
    objects = [metadata.get(key, {}) for key in (ENCODERS_KEY, ENCODER_FILES_KEY, PLUGINS_KEY)]
    return all(isinstance(o, dict) and all(isinstance(text, str) for text in o.values()) for o in objects)


def _first_line(error: BaseException) -> str:
    """The first sentence of an error; PyTorch's messages are long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].split(". ")[0] if lines else type(error).__name__
