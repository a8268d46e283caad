# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Disk cache of text embeddings, addressed by what they were made from."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from cmpf.common.files import replacing
from cmpf.weights.files import UNREADABLE, hash_weights

logger = logging.getLogger(__name__)

_VERSION = 1  # of the file format and of the way embeddings are made from prompts


class TextCache:
    """Text embeddings of whole vocabularies, one safetensors file each.

    A file that is missing, damaged or of another shape counts as not there. A folder that cannot be written
    costs a warning, nothing else: the cache only saves time.

    Args:
        folder: where the files lie; made at the first store.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def key(self, *, encoder: str, templates: Sequence[str], names: Sequence[str]) -> str:
        """SHA-256, 64 hexadecimal digits, of all that embeddings depend on.

        Args:
            encoder: name and weights hash of the text encoder.
            templates, names: in order.
        """
        content = json.dumps([_VERSION, encoder, list(templates), list(names)])
        return hashlib.sha256(content.encode("utf-8")).hexdigest()

    def path(self, key: str) -> Path:
        """Where the embeddings of a key lie, or would lie."""
        return self.folder / f"{key}.safetensors"

    def load(self, key: str, *, shape: tuple[int, int]) -> Tensor | None:
        """Embeddings (N, E) on the CPU, or None when they are not there, damaged or not of the shape."""
        from safetensors import safe_open

        path = self.path(key)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                embeddings: Tensor = file.get_tensor("embeddings")
                content = (file.metadata() or {}).get("sha256")
        except UNREADABLE as error:
            logger.warning("%s is damaged and will be made again (%s)", path, error)
            return None
        if tuple(embeddings.shape) != shape or hash_weights({"embeddings": embeddings}) != content:
            logger.warning("%s is damaged and will be made again (content does not match its hash)", path)
            return None
        return embeddings

    def store(self, key: str, embeddings: Tensor) -> None:
        """Writes embeddings (N, E), whole or not at all."""
        from safetensors.torch import save_file

        tensors = {"embeddings": embeddings.detach().cpu().contiguous()}
        try:
            with replacing(self.path(key)) as temporary:
                save_file(tensors, temporary, metadata={"sha256": hash_weights(tensors)})
        except OSError as error:
            logger.warning("text embeddings are not cached: %s (set CMPF_CACHE to a writable folder)", error)
