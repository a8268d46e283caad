# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What an exported file says about itself: all that is needed to prepare its inputs and to read its outputs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from cmpf import __version__
from cmpf.encoders.text import TEMPLATES
from cmpf.errors import WeightsError
from cmpf.export.tracing import LARGEST, SMALLEST, STRIDE
from cmpf.inference import InferenceSettings
from cmpf.predictor import Predictor

VERSION = 1  # of the form below
INPUT_TEXTS = {
    "image": "(1, 3, H, W) float32, RGB, 0..255, padded at the right and at the bottom",
    "size": "(2,) int64, height and width of the image without padding",
    "text": "(T, E) float32, one L2-normalized embedding a synonym, those of a class next to each other",
    "class_of_row": "(T,) int64, class index of each row, non-decreasing, 0..K-1",
    "seen": "(K,) bool, classes that share a word with train_vocabulary",
}
OUTPUT_TEXTS = {
    "mask_cls": "(Q, K + 1) float32, logarithm of the class distribution of each mask, void last",
    "mask_pred": "(Q, H/4, W/4) float32, mask logits; enlarge bilinearly to H x W, then cut the padding",
}
RECIPE = (
    "each synonym goes into each template; L2-normalize CLIP's text embeddings of the prompts, take their mean over "
    "the templates, L2-normalize it"
)


def describe(predictor: Predictor, *, size: tuple[int, int] | None, pretrained: str) -> dict[str, Any]:
    """Metadata of an export, ready for JSON.

    Args:
        size: (H, W) of all images; None = any.
        pretrained: where CLIP's weights come from, see build_clip.
    """
    model = predictor.model
    clip = model.encoders.clip
    return {
        "version": VERSION,
        "made_with": {"cmpf": __version__, "torch": str(torch.__version__)},
        "inputs": INPUT_TEXTS,
        "outputs": OUTPUT_TEXTS,
        "image": {
            "size": None if size is None else list(size),
            "multiple_of": STRIDE,
            "smallest": SMALLEST,
            "largest": LARGEST,
            "short_side": predictor.short_side,
            "max_side": predictor.max_side,
        },
        "text": {
            "clip": clip.name.removeprefix("clip/"),
            "pretrained": pretrained,
            "width": clip.embed_dim,
            "templates": list(TEMPLATES),
            "recipe": RECIPE,
        },
        "train_vocabulary": {
            "classes": [list(words) for words in model.train_vocabulary.classes],
            "things": list(model.train_vocabulary.things),
        },
        "settings": {**asdict(model.settings), "mask_ensemble": None, "proposals": False},
        "encoders": model.encoder_hashes(),
    }


def check_version(metadata: dict[str, Any], source: object) -> None:
    """Raises WeightsError if the metadata has a form that this CMPF does not read."""
    if metadata.get("version") != VERSION:
        raise WeightsError(
            f"{source}: exported in form {metadata.get('version')!r}, this CMPF reads {VERSION}; "
            "export the model again"
        )


def settings_of(metadata: dict[str, Any]) -> InferenceSettings:
    """The inference settings that the model was exported with; alpha and beta are constants of the program."""
    return InferenceSettings(**metadata["settings"])
