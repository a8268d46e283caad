# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""A vocabulary in CLIP's joint space: prompt templates, averaged and normalized (paper, Sec. 3.4)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from cmpf.errors import VocabularyError
from cmpf.types import ClassEmbeddings

if TYPE_CHECKING:
    from cmpf.encoders.clip import CLIP
    from cmpf.encoders.text_cache import TextCache

logger = logging.getLogger(__name__)

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
        cache: disk cache; a vocabulary found there is not encoded. None = always encode.
    Returns:
        One L2-normalized float32 row a synonym: the mean over the templates of normalized prompt embeddings.
    Raises:
        VocabularyError: no class, or a class without a name.
    """
    if not classes:
        raise VocabularyError("the vocabulary is empty: give at least one class")
    for index, names in enumerate(classes):
        if not names:
            raise VocabularyError(f"class {index} has no name: give at least one")
    unique = list(dict.fromkeys(name for names in classes for name in names))
    # Inside a prediction this would make inference tensors, which training on the same words cannot use.
    with torch.inference_mode(False), torch.no_grad():
        matrix = _cached_embeddings(clip, unique, cache).to(clip.device)
        row = {name: index for index, name in enumerate(unique)}
        rows = [row[name] for names in classes for name in names]
        owners = [index for index, names in enumerate(classes) for _ in names]
        return ClassEmbeddings(
            matrix=matrix[torch.tensor(rows, device=matrix.device)],
            class_of_row=torch.tensor(owners, device=matrix.device),
            num_classes=len(classes),
        )


def embed_names(clip: CLIP, names: Sequence[str]) -> Tensor:
    """Embeddings of names, each averaged over all templates.

    Returns:
        (N, E) float32, rows L2-normalized.
    """
    prompts = [template.format(name) for name in names for template in TEMPLATES]
    embeddings = F.normalize(clip.encode_text(prompts), dim=-1)
    return F.normalize(embeddings.view(len(names), len(TEMPLATES), -1).mean(dim=1), dim=-1)


def _cached_embeddings(clip: CLIP, names: Sequence[str], cache: TextCache | None) -> Tensor:
    if cache is None:
        return embed_names(clip, names)
    # The name is in the key: a -quickgelu variant has the weights of the plain one, not its embeddings.
    key = cache.key(encoder=f"{clip.name} {clip.weights_hash}", templates=TEMPLATES, names=names)
    found = cache.load(key, shape=(len(names), clip.embed_dim))
    if found is None:
        logger.info("encoding %d names x %d prompts with %s", len(names), len(TEMPLATES), clip.name)
        found = embed_names(clip, names)
        cache.store(key, found)
    return found
