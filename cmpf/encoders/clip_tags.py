# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""OpenCLIP's tags: which published weights a name has, and the activation that they were trained with."""

from __future__ import annotations

import logging
from typing import Any

from cmpf.errors import WeightsError

logger = logging.getLogger(__name__)

OPTION = "MODEL.CMPF.CLIP.PRETRAINED"
QUICKGELU = "-quickgelu"


def tag_record(name: str, tag: str) -> dict[str, Any]:
    """OpenCLIP's record of published weights, {} if there is none; variants share the plain name's tags."""
    from open_clip.pretrained import get_pretrained_cfg

    record: dict[str, Any] = get_pretrained_cfg(name.removesuffix(QUICKGELU), tag) if tag else {}
    return record


def source_of(record: dict[str, Any]) -> str:
    """Address of published weights as safetensors, "" if there is none."""
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME

    repository = str(record.get("hf_hub", "")).rstrip("/")
    return f"https://huggingface.co/{repository}/resolve/main/{HF_SAFE_WEIGHTS_NAME}" if repository else ""


def variant_for(name: str, pretrained: str) -> str:
    """The name of the model that computes as the weights were trained: the one given, or its QuickGELU variant.

    Args:
        name: one that build_clip accepts.
        pretrained: a tag, the path of a file, or "". Of a file nothing is known: the name is taken at its word.
    Raises:
        WeightsError: the tag's weights were trained with another activation (OpenCLIP only warns).
    """
    import open_clip

    record = tag_record(name, pretrained)
    if not record:
        if pretrained:
            _warn_of_unlikely_file(name, pretrained)
        return name
    quick = bool(record.get("quick_gelu", False))
    if _is_quick_gelu(name) == quick:
        return name
    if quick and name + QUICKGELU in open_clip.list_models():
        return name + QUICKGELU
    trained, built = ("QuickGELU", "GELU") if quick else ("GELU", "QuickGELU")
    raise WeightsError(
        f"{OPTION} {pretrained!r}: these weights were trained with {trained}, but CLIP {name} computes {built} and "
        f"would give wrong embeddings; give another tag, or the name of a model that computes {trained}"
    )


def _is_quick_gelu(name: str) -> bool:
    import open_clip

    return bool(open_clip.get_model_config(name).get("quick_gelu", False))


def _warn_of_unlikely_file(name: str, path: str) -> None:
    """A warning for a file under a plain name of which only QuickGELU weights are published."""
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    tags = list_pretrained_tags_by_model(name)
    quick = [tag for tag in tags if get_pretrained_cfg(name, tag).get("quick_gelu", False)]
    if tags and quick == tags and not _is_quick_gelu(name) and name + QUICKGELU in open_clip.list_models():
        logger.warning(
            "%s %s is read as weights trained with GELU, which the name %s stands for. All published ones of it "
            "(%s) were trained with QuickGELU: for those name %s",
            OPTION,
            path,
            name,
            ", ".join(tags),
            name + QUICKGELU,
        )
