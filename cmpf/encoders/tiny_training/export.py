# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Writes the assets: weights rounded to float16, the tokenizer's merges, and the list of hashes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import torch
from torch import nn

from cmpf.common.files import replacing, write_text
from cmpf.weights.download import HASHES, file_sha256

MERGES = 2000


def record_hash(folder: Path, name: str) -> None:
    """Writes the SHA-256 of a file of the folder into its `hashes.json`, keeping the other entries."""
    path = folder / HASHES
    hashes = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    hashes[name] = file_sha256(folder / name)
    write_text(path, json.dumps(dict(sorted(hashes.items())), indent=2) + "\n")


def save_weights(model: nn.Module, folder: Path, name: str) -> None:
    """Stores all weights and buffers as float16 safetensors, and their hash."""
    from safetensors.torch import save_file

    tensors = {key: value.to(torch.float16).contiguous() for key, value in model.state_dict().items()}
    with replacing(folder / name) as temporary:
        save_file(tensors, temporary)
        # safetensors makes files that only their owner can read.
        temporary.chmod(0o644)
    record_hash(folder, name)


def save_merges(folder: Path, name: str) -> None:
    """Stores the head line and the first 2,000 merges of CLIP's byte-pair vocabulary, and the file's hash."""
    from open_clip.tokenizer import default_bpe

    lines = gzip.decompress(Path(default_bpe()).read_bytes()).decode("utf-8").split("\n")
    content = "\n".join(lines[: MERGES + 1]).encode("utf-8")
    with replacing(folder / name) as temporary:
        temporary.write_bytes(gzip.compress(content, 9, mtime=0))
    record_hash(folder, name)
