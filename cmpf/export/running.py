# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Predictions from an exported file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from cmpf.data import Vocabulary, known_vocabularies
from cmpf.encoders.clip_factory import build_clip
from cmpf.encoders.text import TextCache
from cmpf.errors import WeightsError
from cmpf.export.formats import Runner, open_program
from cmpf.export.metadata import check_version, settings_of
from cmpf.export.words import Embedder, TextTower, WordFile
from cmpf.inference import InferenceSettings
from cmpf.inference.pipeline import image_results
from cmpf.inference.settings import ImageGeometry
from cmpf.model import CMPF
from cmpf.predictor import Predictor
from cmpf.types import ModelResult, Sample
from cmpf.weights.download import cache_folder


class ExportedModel:
    """An exported program in the place of a model: images and a vocabulary in, results out.

    Args:
        runner: the loaded file.
        embed: turns words into text embeddings.
    Raises:
        WeightsError: the words come from a CLIP with other weights than the exported one.
    """

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
        """Results of each image, as `CMPF.infer` gives them; alpha and beta of `settings` have no effect."""
        vocabulary = vocabulary or self.train_vocabulary
        classes = self.embed(vocabulary)
        words = {
            "text": classes.matrix.float(),
            "class_of_row": classes.class_of_row,
            "seen": torch.tensor(vocabulary.seen_for(self.train_vocabulary)),
        }
        is_thing = torch.tensor(vocabulary.is_thing)
        return [self._result(sample, words, is_thing, settings or self.settings) for sample in batch]

    def _result(
        self, sample: Sample, words: dict[str, Tensor], is_thing: Tensor, settings: InferenceSettings
    ) -> ModelResult:
        fitted = self._fitting(sample["image"].float())
        height, width = fitted.shape[-2:]
        padded = self._padded(height, width)
        image = F.pad(fitted, (0, padded[1] - width, 0, padded[0] - height))[None]
        mask_cls, mask_pred = self.runner({"image": image, "size": torch.tensor([height, width]), **words})
        own = sample["image"].shape[-2:]
        return image_results(
            mask_cls,
            mask_pred,
            geometry=ImageGeometry(
                padded=padded,
                unpadded=(height, width),
                output=(sample.get("height", own[0]), sample.get("width", own[1])),
            ),
            is_thing=is_thing.to(mask_cls.device),
            seen=words["seen"].to(mask_cls.device),
            settings=settings,
            sam=None,
        )

    def _fitting(self, image_3HW: Tensor) -> Tensor:
        """The image, made smaller if it does not fit into the one size of the program."""
        if self.fixed_size is None:
            return image_3HW
        height, width = image_3HW.shape[-2:]
        scale = min(self.fixed_size[0] / height, self.fixed_size[1] / width)
        if scale >= 1:
            return image_3HW
        size = max(1, int(height * scale)), max(1, int(width * scale))
        resized = F.interpolate(image_3HW[None], size, mode="bilinear", align_corners=False, antialias=True)
        return resized[0]

    def _padded(self, height: int, width: int) -> tuple[int, int]:
        if self.fixed_size is not None:
            return self.fixed_size[0], self.fixed_size[1]
        image = self.metadata["image"]
        step, smallest = image["multiple_of"], image["smallest"]
        return max(smallest, -(-height // step) * step), max(smallest, -(-width // step) * step)


def load_exported(path: str | Path, *, words: str | Path | None = None, device: str = "cpu") -> Predictor:
    """A predictor that runs an exported file; see Predictor.predict.

    Its results are those of the model with ensemble=False, also where the model's configuration has SAM's masks on:
    those are not in the file, and ensemble=True is refused.

    Args:
        path: a file of export_model. Open only files that you trust.
        words: a file of save_words, with which no CLIP is loaded; None = CLIP's text tower, by the name and the
            weights that the file tells.
        device: "cpu", "cuda", "cuda:1".
    Raises:
        WeightsError: a file is missing, damaged, or does not belong to the other.
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
        model=cast(CMPF, model),  # it has what Predictor asks of a model
        short_side=image["short_side"],
        max_side=image["max_side"],
        mask_ensemble=None,
        known=list(known_vocabularies()),
    )
