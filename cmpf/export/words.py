# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Text embeddings for an exported model: from CLIP's text tower, or from a file of words made beforehand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from cmpf.common.files import replacing
from cmpf.data import Vocabulary
from cmpf.encoders.clip import CLIP
from cmpf.encoders.text import TextCache, embed_names, embed_vocabulary
from cmpf.errors import VocabularyError, WeightsError
from cmpf.types import ClassEmbeddings


class Embedder(Protocol):
    """Turns a vocabulary into text embeddings. encoder_hash: of the weights of the CLIP that they come from."""

    @property
    def encoder_hash(self) -> str: ...

    def __call__(self, vocabulary: Vocabulary) -> ClassEmbeddings: ...


class TextTower:
    """CLIP itself: any words.

    Args:
        clip: the CLIP that the model was exported with. cache: of embeddings on disk; None = none.
    """

    def __init__(self, clip: CLIP, *, cache: TextCache | None) -> None:
        self.clip, self.cache = clip, cache

    @property
    def encoder_hash(self) -> str:
        """See Embedder."""
        return self.clip.weights_hash

    def __call__(self, vocabulary: Vocabulary) -> ClassEmbeddings:
        """See Embedder."""
        return embed_vocabulary(self.clip, vocabulary.classes, cache=self.cache)


class WordFile:
    """A file that save_words wrote: its words, and no others.

    Args:
        path: a .safetensors file.
    Raises:
        WeightsError: it is missing, damaged or something else.
    """

    def __init__(self, path: str | Path) -> None:
        from safetensors import SafetensorError, safe_open

        self.path = Path(path)
        try:
            with safe_open(self.path, framework="pt") as file:
                self.matrix: Tensor = file.get_tensor("text")
                metadata = file.metadata() or {}
            words: list[str] = json.loads(metadata["words"])
            self.encoder_hash = metadata["encoder"]
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise WeightsError(f"{path}: not a file of words of cmpf export, or damaged ({error})") from error
        self.row = {word: index for index, word in enumerate(words)}

    def __call__(self, vocabulary: Vocabulary) -> ClassEmbeddings:
        """See Embedder.

        Raises:
            VocabularyError: a word is not in the file.
        """
        words = [word for classes in vocabulary.classes for word in classes]
        missing = [word for word in words if word not in self.row]
        if missing:
            raise VocabularyError(
                f"{self.path} has no embedding of {missing[0]!r} ({len(missing)} of {len(words)} words are not "
                "there); make the file again with all words, or give the model its CLIP"
            )
        owners = [index for index, classes in enumerate(vocabulary.classes) for _ in classes]
        return ClassEmbeddings(
            matrix=self.matrix[torch.tensor([self.row[word] for word in words])],
            class_of_row=torch.tensor(owners),
            num_classes=len(vocabulary),
        )


def save_words(clip: CLIP, vocabulary: Vocabulary, path: str | Path) -> Path:
    """Writes the text embeddings of all words of a vocabulary, so that an exported model needs no CLIP for them.

    Returns:
        The path, a .safetensors file: "text" (N, E) float32, and in its metadata the N words as a JSON list.
    """
    from safetensors.torch import save_file

    words = list(dict.fromkeys(word for classes in vocabulary.classes for word in classes))
    metadata = {"words": json.dumps(words, ensure_ascii=False), "encoder": clip.weights_hash}
    with replacing(path) as temporary:
        save_file({"text": embed_names(clip, words).cpu().contiguous()}, temporary, metadata=metadata)
    return Path(path)
