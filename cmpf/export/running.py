# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Predicts with an exported program; text embeddings come from CLIP's text tower or from a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from cmpf.data import Vocabulary, known_vocabularies
from cmpf.encoders.clip import CLIP
from cmpf.encoders.clip_factory import build_clip
from cmpf.encoders.text import TextCache, embed_names, embed_vocabulary
from cmpf.errors import VocabularyError, WeightsError
from cmpf.export.programs import Runner, check_version, open_program, settings_of
from cmpf.inference import InferenceSettings
from cmpf.inference.pipeline import image_results
from cmpf.inference.settings import ImageGeometry
from cmpf.model import CMPF
from cmpf.predictor import Predictor
from cmpf.types import ClassEmbeddings, ModelResult, Sample
from cmpf.weights.download import cache_folder
from cmpf.weights.saving import write_safetensors


class Embedder(Protocol):
    """Computes the text embeddings of a vocabulary; `encoder_hash` is the hash of their CLIP's weights."""

    @property
    def encoder_hash(self) -> str: ...

    def __call__(self, vocabulary: Vocabulary) -> ClassEmbeddings: ...


class TextTower:
    """Computes text embeddings of any words with CLIP.

    Args:
        clip: the CLIP of the exported model.
        cache: cache of embeddings on disk; None = no cache.
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
    """Reads text embeddings from a file of save_words; other words are errors.

    Args:
        path: a .safetensors file.
    Raises:
        WeightsError: the file is missing, damaged, or was not written by save_words.
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
    """Saves the text embeddings of all words of a vocabulary, with which an exported model needs no CLIP.

    Args:
        clip: the CLIP of the exported model.
        vocabulary: the words.
        path: .safetensors file, with the tensor "text" (N, E) float32 and the N words as a JSON list in its metadata.
    Returns:
        The path.
    """
    words = list(dict.fromkeys(word for classes in vocabulary.classes for word in classes))
    metadata = {"words": json.dumps(words, ensure_ascii=False), "encoder": clip.weights_hash}
    write_safetensors({"text": embed_names(clip, words)}, path, header=metadata)
    return Path(path)


class ExportedModel:
    """An exported program with the interface of a model: images and a vocabulary to results.

    Args:
        runner: the loaded program.
        embed: computes text embeddings.
    Raises:
        WeightsError: the text embeddings come from a CLIP with other weights than the exported model's.
    """

    device = torch.device("cpu")  # device of the input; the program copies images to its own

    def __init__(self, *, runner: Runner, embed: Embedder) -> None:
        self.runner, self.embed, self.metadata = runner, embed, runner.metadata
        self.settings = settings_of(self.metadata)
        self.train_vocabulary = Vocabulary(**self.metadata["train_vocabulary"])
        self.fixed_size: list[int] | None = self.metadata["image"]["size"]
        name = f"clip/{self.metadata['text']['clip']}"
        if embed.encoder_hash != self.metadata["encoders"][name]:
            raise WeightsError(
                f"the words are of a CLIP with the hash {embed.encoder_hash[:12]}..., the exported model has {name} "
                f"with {self.metadata['encoders'][name][:12]}...; use the words or the CLIP that belong to it"
            )

    def infer(
        self,
        batch: Sequence[Sample],
        vocabulary: Vocabulary | None = None,
        settings: InferenceSettings | None = None,
    ) -> list[ModelResult]:
        """Results of each image, see `CMPF.infer`; alpha and beta of `settings` have no effect."""
        vocabulary = vocabulary or self.train_vocabulary
        classes = self.embed(vocabulary)
        text_inputs = {
            "text": classes.matrix.float(),
            "class_of_row": classes.class_of_row,
            "seen": torch.tensor(vocabulary.seen_for(self.train_vocabulary)),
        }
        is_thing = torch.tensor(vocabulary.is_thing)
        return [self._result(sample, text_inputs, is_thing, settings or self.settings) for sample in batch]

    def _result(
        self, sample: Sample, text_inputs: dict[str, Tensor], is_thing: Tensor, settings: InferenceSettings
    ) -> ModelResult:
        resized = self._shrink_to_fit(sample["image"].float())
        height, width = resized.shape[-2:]
        padded = self._padded_size(height, width)
        image = F.pad(resized, (0, padded[1] - width, 0, padded[0] - height))[None]
        size = torch.tensor([height, width])
        mask_cls, mask_pred = self.runner({"image": image, "size": size, **text_inputs})
        original = sample["image"].shape[-2:]
        return image_results(
            mask_cls,
            mask_pred,
            geometry=ImageGeometry(
                padded=padded,
                unpadded=(height, width),
                output=(sample.get("height", original[0]), sample.get("width", original[1])),
            ),
            is_thing=is_thing.to(mask_cls.device),
            seen=text_inputs["seen"].to(mask_cls.device),
            settings=settings,
            sam=None,
        )

    def _shrink_to_fit(self, image_3HW: Tensor) -> Tensor:
        """Shrinks an image that is larger than the fixed size of the program."""
        if self.fixed_size is None:
            return image_3HW
        height, width = image_3HW.shape[-2:]
        scale = min(self.fixed_size[0] / height, self.fixed_size[1] / width)
        if scale >= 1:
            return image_3HW
        size = max(1, int(height * scale)), max(1, int(width * scale))
        resized = F.interpolate(image_3HW[None], size, mode="bilinear", align_corners=False, antialias=True)
        return resized[0]

    def _padded_size(self, height: int, width: int) -> tuple[int, int]:
        if self.fixed_size is not None:
            return self.fixed_size[0], self.fixed_size[1]
        image = self.metadata["image"]
        step, smallest = image["multiple_of"], image["smallest"]
        return max(smallest, -(-height // step) * step), max(smallest, -(-width // step) * step)


def load_exported(path: str | Path, *, words: str | Path | None = None, device: str = "cpu") -> Predictor:
    """A predictor that runs an exported program; see Predictor.predict.

    Results are those of the model with ensemble=False: exported programs do not contain the SAM of the OpenSeg
    Ensemble, and ensemble=True is an error.

    Args:
        path: a file of export_model. Open only files that you trust.
        words: a file of save_words, with which CLIP is not loaded; None = CLIP's text tower, with the name and weights
            in the exported file.
        device: e.g. "cpu", "cuda" or "cuda:1".
    Raises:
        WeightsError: a file is missing or damaged, or the two files do not belong together.
    """
    runner = open_program(Path(path), device=device)
    check_version(runner.metadata, path)
    image, text = runner.metadata["image"], runner.metadata["text"]
    embed: Embedder
    if words is not None:
        embed = WordFile(words)
    else:
        clip = build_clip(name=text["clip"], pretrained=text["pretrained"])
        embed = TextTower(clip, cache=TextCache(cache_folder() / "text"))
    model = ExportedModel(runner=runner, embed=embed)
    return Predictor(
        model=cast(CMPF, model),  # has all attributes that Predictor uses
        short_side=image["short_side"],
        max_side=image["max_side"],
        mask_ensemble=None,
        known=list(known_vocabularies()),
    )
