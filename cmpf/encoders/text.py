# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""A vocabulary in CLIP's joint space: prompt templates, averaged and normalized (paper, Sec. 3.4), and kept."""

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

from cmpf.common.files import replacing
from cmpf.errors import VocabularyError
from cmpf.types import ClassEmbeddings
from cmpf.weights.reading import UNREADABLE
from cmpf.weights.saving import hash_weights

if TYPE_CHECKING:
    from cmpf.encoders.clip import CLIP


logger = logging.getLogger(__name__)

REMEMBERED_VOCABULARIES = 32
CACHE_BYTES = 64 * 2**20
BLOCK_BYTES = 4096  # what the smallest file takes on usual file systems
_VERSION = 1  # of the file format and of the way embeddings are made from prompts

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
    """Text embeddings of classes that are given as lists of synonyms.

    Args:
        clip: frozen CLIP; the result lies on its device.
        classes: K classes, each with at least one name.
        cache: disk cache; classes found there are not encoded. None = always encode.
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
    wanted = [tuple(names) for names in classes]
    # Inside a prediction this would make inference tensors, which training on the same words cannot use.
    with torch.inference_mode(False), torch.no_grad():
        found = _by_class(clip, list(dict.fromkeys(wanted)), cache)
        matrix = torch.cat([found[names] for names in wanted]).to(clip.device)
        owners = [index for index, names in enumerate(wanted) for _ in names]
        return ClassEmbeddings(
            matrix=matrix,
            class_of_row=torch.tensor(owners, device=matrix.device),
            num_classes=len(wanted),
        )


def embed_names(clip: CLIP, names: Sequence[str]) -> Tensor:
    """Embeddings of names, each averaged over all templates.

    Returns:
        (N, E) float32, rows L2-normalized.
    """
    prompts = [template.format(name) for name in names for template in TEMPLATES]
    embeddings = F.normalize(clip.encode_text(prompts), dim=-1)
    return F.normalize(embeddings.view(len(names), len(TEMPLATES), -1).mean(dim=1), dim=-1)


def _by_class(
    clip: CLIP, classes: Sequence[tuple[str, ...]], cache: TextCache | None
) -> dict[tuple[str, ...], Tensor]:
    """Class -> its rows (names, E) on the CPU; what the cache lacks is encoded together and stored."""
    found: dict[tuple[str, ...], Tensor] = {}
    keys: dict[tuple[str, ...], str] = {}
    if cache is not None:
        # The name is in the key: a -quickgelu variant has the weights of the plain one, not its embeddings.
        encoder = f"{clip.name} {clip.weights_hash}"
        keys = {names: cache.key(encoder=encoder, templates=TEMPLATES, names=names) for names in classes}
        loaded = {names: cache.load(key, shape=(len(names), clip.embed_dim)) for names, key in keys.items()}
        found = {names: rows for names, rows in loaded.items() if rows is not None}
    new = [names for names in classes if names not in found]
    unique = list(dict.fromkeys(name for names in new for name in names))
    if not unique:
        return found
    logger.info("encoding %d names x %d prompts with %s", len(unique), len(TEMPLATES), clip.name)
    matrix = embed_names(clip, unique).cpu()
    row = {name: index for index, name in enumerate(unique)}
    found |= {names: matrix[[row[name] for name in names]] for names in new}
    if cache is not None:
        cache.store({keys[names]: found[names] for names in new})
    return found


class VocabularyMemory:
    """The latest vocabularies as embeddings, for several threads.

    A vocabulary that is there is given at once, whatever other threads encode meanwhile; one that is not there is
    encoded by the first thread that asks, and others that ask for the same wait for it.
    """

    def __init__(self) -> None:
        self._found: OrderedDict[str, ClassEmbeddings] = OrderedDict()
        self._at_work: dict[str, threading.Lock] = {}
        self._age = 0  # grows when all is forgotten
        self._lock = threading.Lock()  # of the three above; never held while text is encoded

    def __len__(self) -> int:
        return len(self._found)

    def get(self, key: str, device: torch.device, make: Callable[[], ClassEmbeddings]) -> ClassEmbeddings:
        """The embeddings of a key on a device; `make` is called where they are not in memory."""
        with self._lock:
            found = self._remembered(key, device)
            work = self._at_work.setdefault(key, threading.Lock())
        if found is not None:
            return found
        with work:
            with self._lock:
                found, age = self._remembered(key, device), self._age
            if found is not None:
                return found
            try:
                made = make()
            finally:
                with self._lock:
                    self._at_work.pop(key, None)
            with self._lock:
                if age == self._age:
                    self._found[key] = made
                    self._found.move_to_end(key)
                while len(self._found) > REMEMBERED_VOCABULARIES:
                    self._found.popitem(last=False)
            return made

    def forget(self) -> None:
        """Drops everything; what is being encoded now is not kept either."""
        with self._lock:
            self._found.clear()
            self._age += 1

    def _remembered(self, key: str, device: torch.device) -> ClassEmbeddings | None:
        found = self._found.get(key)
        if found is None or found.matrix.device != device:
            return None
        self._found.move_to_end(key)
        return found


class TextCache:
    """Text embeddings on disk, one safetensors file per class, in no more than `max_bytes`.

    A file that is missing, damaged or of another shape counts as not there. A folder that cannot be written
    costs a warning, nothing else: the cache only saves time. Several processes may use one folder.

    Args:
        folder: where the files lie; made at the first store.
        max_bytes: when a store exceeds it, the files go that were not read for the longest time.
    """

    def __init__(self, folder: str | Path, *, max_bytes: int = CACHE_BYTES) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes

    def key(self, *, encoder: str, templates: Sequence[str], names: Sequence[str]) -> str:
        """SHA-256, 64 hexadecimal digits, of all that the embeddings of a class depend on.

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
        try:
            with safe_open(path, framework="pt") as file:
                embeddings: Tensor = file.get_tensor("embeddings")
                content = (file.metadata() or {}).get("sha256")
        except FileNotFoundError:
            return None
        except UNREADABLE as error:
            if path.is_file():
                logger.warning("%s is damaged and will be made again (%s)", path, error)
            return None
        if tuple(embeddings.shape) != shape or hash_weights({"embeddings": embeddings}) != content:
            logger.warning("%s is damaged and will be made again (content does not match its hash)", path)
            return None
        with suppress(OSError):  # removed meanwhile by another process, or a folder that is only read
            os.utime(path)
        return embeddings

    def store(self, embeddings: Mapping[str, Tensor]) -> None:
        """Writes embeddings (N, E) by their keys, each file whole or not at all, and keeps to `max_bytes`."""
        from safetensors.torch import save_file

        try:
            for key, rows in embeddings.items():
                tensors = {"embeddings": rows.detach().cpu().contiguous()}
                with replacing(self.path(key), durable=False) as temporary:
                    save_file(tensors, temporary, metadata={"sha256": hash_weights(tensors)})
            self._prune()
        except OSError as error:
            logger.warning("text embeddings are not cached: %s (set CMPF_CACHE to a writable folder)", error)

    def _prune(self) -> None:
        """Removes the files read longest ago until the rest fits."""
        files = []
        for path in self.folder.glob("*.safetensors"):
            with suppress(FileNotFoundError):  # another process prunes too
                status = path.stat()
                files.append((status.st_mtime_ns, -(-status.st_size // BLOCK_BYTES) * BLOCK_BYTES, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
