# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Text embeddings of a vocabulary by prompt templates (paper, Sec. 3.4), with caches in memory and on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from cmpf.errors import VocabularyError
from cmpf.types import ClassEmbeddings
from cmpf.weights.reading import UNREADABLE
from cmpf.weights.saving import hash_weights, write_safetensors

if TYPE_CHECKING:
    from cmpf.encoders.clip import CLIP


logger = logging.getLogger(__name__)

CACHED_VOCABULARIES = 32  # in memory
CACHE_BYTES = 64 * 2**20
BLOCK_BYTES = 4096  # block size of common file systems
_VERSION = 1  # of the file format and of the computation of embeddings from prompts

TEMPLATES = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    "a photo of a small {}.",
    "a photo of a medium {}.",
    "a photo of a large {}.",
    "This is a photo of a small {}.",
    "This is a photo of a medium {}.",
    "This is a photo of a large {}.",
    "There is a small {} in the scene.",
    "There is a medium {} in the scene.",
    "There is a large {} in the scene.",
)


def embed_vocabulary(
    clip: CLIP, classes: Sequence[Sequence[str]], *, cache: TextCache | None
) -> ClassEmbeddings:
    """Computes text embeddings of classes given as lists of synonyms.

    Args:
        clip: CLIP; the result is on its device.
        classes: K classes, each with at least one name.
        cache: disk cache of encoded classes; None = no cache.
    Returns:
        One L2-normalized float32 row per synonym: the mean over the templates of normalized prompt embeddings.
    Raises:
        VocabularyError: no class, or a class without a name.
    """
    if not classes:
        raise VocabularyError("the vocabulary is empty: give at least one class")
    for index, names in enumerate(classes):
        if not names:
            raise VocabularyError(f"class {index} has no name: give at least one")
    synonyms = [tuple(names) for names in classes]
    # The result is cached in memory, and inference tensors could not be used by a later training.
    with torch.inference_mode(False), torch.no_grad():
        rows = _embed_classes(clip, list(dict.fromkeys(synonyms)), cache)
        matrix = torch.cat([rows[names] for names in synonyms]).to(clip.device)
        class_of_row = [index for index, names in enumerate(synonyms) for _ in names]
        return ClassEmbeddings(
            matrix=matrix,
            class_of_row=torch.tensor(class_of_row, device=matrix.device),
            num_classes=len(synonyms),
        )


def embed_names(clip: CLIP, names: Sequence[str]) -> Tensor:
    """Embeds names, each averaged over all templates.

    Returns:
        (N, E) float32, rows L2-normalized.
    """
    prompts = [template.format(name) for name in names for template in TEMPLATES]
    embeddings = F.normalize(clip.encode_text(prompts), dim=-1)
    return F.normalize(embeddings.view(len(names), len(TEMPLATES), -1).mean(dim=1), dim=-1)


def _embed_classes(
    clip: CLIP, classes: Sequence[tuple[str, ...]], cache: TextCache | None
) -> dict[tuple[str, ...], Tensor]:
    """Class -> its rows (names, E) on the CPU. Classes that are not in the cache are encoded together and stored."""
    result: dict[tuple[str, ...], Tensor] = {}
    keys: dict[tuple[str, ...], str] = {}
    if cache is not None:
        # The key needs the name, too: a -quickgelu variant has the weights of the plain model, but other embeddings.
        encoder = f"{clip.name} {clip.weights_hash}"
        keys = {names: cache.key(encoder=encoder, templates=TEMPLATES, names=names) for names in classes}
        cached = {names: cache.load(key, shape=(len(names), clip.embed_dim)) for names, key in keys.items()}
        result = {names: rows for names, rows in cached.items() if rows is not None}
    missing = [names for names in classes if names not in result]
    unique = list(dict.fromkeys(name for names in missing for name in names))
    if not unique:
        return result
    logger.info("encoding %d names x %d prompts with %s", len(unique), len(TEMPLATES), clip.name)
    matrix = embed_names(clip, unique).cpu()
    row = {name: index for index, name in enumerate(unique)}
    result |= {names: matrix[[row[name] for name in names]] for names in missing}
    if cache is not None:
        cache.store({keys[names]: result[names] for names in missing})
    return result


class EmbeddingCache:
    """Thread-safe LRU cache of vocabulary embeddings in memory.

    Cached embeddings are returned without waiting for other threads. Missing ones are computed by the first thread that
    requests them; other threads that request the same key wait for it.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[str, ClassEmbeddings] = OrderedDict()
        self._in_progress: dict[str, threading.Lock] = {}
        self._generation = 0  # incremented by `clear`
        self._lock = threading.Lock()  # guards the attributes above; not held while text is encoded

    def __reduce__(self) -> tuple[type[EmbeddingCache], tuple[()]]:
        """A copy is empty, because a lock cannot be copied."""
        return EmbeddingCache, ()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str, device: torch.device, compute: Callable[[], ClassEmbeddings]) -> ClassEmbeddings:
        """Returns the embeddings of a key on a device; calls `compute` if they are not cached."""
        with self._lock:
            entry = self._lookup(key, device)
            if entry is not None:
                return entry
            key_lock = self._in_progress.setdefault(key, threading.Lock())
        with key_lock:
            with self._lock:
                entry, generation = self._lookup(key, device), self._generation
            if entry is not None:
                return entry
            try:
                embeddings = compute()
            except BaseException:
                with self._lock:
                    self._in_progress.pop(key, None)
                raise
            with self._lock:  # at once, so that other threads find either the lock or the entry
                self._in_progress.pop(key, None)
                if generation == self._generation:
                    self._entries[key] = embeddings
                    self._entries.move_to_end(key)
                while len(self._entries) > CACHED_VOCABULARIES:
                    self._entries.popitem(last=False)
            return embeddings

    def clear(self) -> None:
        """Removes all entries; embeddings that are being computed will not be cached."""
        with self._lock:
            self._entries.clear()
            self._generation += 1

    def _lookup(self, key: str, device: torch.device) -> ClassEmbeddings | None:
        entry = self._entries.get(key)
        if entry is None or entry.matrix.device != device:
            return None
        self._entries.move_to_end(key)
        return entry


class TextCache:
    """Disk cache of text embeddings: one safetensors file per class, at most `max_bytes` in total.

    A file that is missing, damaged or of another shape is a cache miss. If the folder is not writable, a warning is
    logged and nothing is cached. Several processes may share one folder.

    Args:
        folder: folder of the files, created by the first store.
        max_bytes: size limit; a store that exceeds it removes the least recently read files.
    """

    def __init__(self, folder: str | Path, *, max_bytes: int = CACHE_BYTES) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes

    def key(self, *, encoder: str, templates: Sequence[str], names: Sequence[str]) -> str:
        """Cache key: hexadecimal SHA-256 of everything that the embeddings of a class depend on.

        Args:
            encoder: name and weights hash of the text encoder.
            templates: prompt templates.
            names: synonyms of the class.
        """
        content = json.dumps([_VERSION, encoder, list(templates), list(names)])
        return hashlib.sha256(content.encode("utf-8")).hexdigest()

    def path(self, key: str) -> Path:
        """Path of the file of a key, which may not exist."""
        return self.folder / f"{key}.safetensors"

    def load(self, key: str, *, shape: tuple[int, int]) -> Tensor | None:
        """Loads embeddings (N, E) onto the CPU; None if they are missing, damaged or of another shape."""
        from safetensors import safe_open

        path = self.path(key)
        try:
            with safe_open(path, framework="pt") as file:
                embeddings: Tensor = file.get_tensor("embeddings")
                expected_hash = (file.metadata() or {}).get("sha256")
        except FileNotFoundError:
            return None
        except UNREADABLE as error:
            if path.is_file():
                logger.warning("%s is damaged and will be made again (%s)", path, error)
            return None
        if tuple(embeddings.shape) != shape or hash_weights({"embeddings": embeddings}) != expected_hash:
            logger.warning("%s is damaged and will be made again (content does not match its hash)", path)
            return None
        with suppress(OSError):  # removed by another process meanwhile, or a read-only folder
            os.utime(path)  # marks the file as recently read for `_prune`
        return embeddings

    def store(self, embeddings: Mapping[str, Tensor]) -> None:
        """Writes embeddings (N, E) by key, each file atomically, and prunes the folder to `max_bytes`."""
        try:
            for key, rows in embeddings.items():
                tensors = {"embeddings": rows}
                header = {"sha256": hash_weights(tensors)}
                write_safetensors(tensors, self.path(key), header=header, durable=False)
            self._prune()
        except OSError as error:
            logger.warning("text embeddings are not cached: %s (set CMPF_CACHE to a writable folder)", error)

    def _prune(self) -> None:
        """Removes the least recently read files until the rest fits into `max_bytes`."""
        files = []
        for path in self.folder.glob("*.safetensors"):
            with suppress(FileNotFoundError):  # removed by another process
                status = path.stat()
                files.append((status.st_mtime_ns, -(-status.st_size // BLOCK_BYTES) * BLOCK_BYTES, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
