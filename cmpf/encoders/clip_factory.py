# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Builds CLIP by name: supported OpenCLIP models, sources of their weights, and their activation function."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn

from cmpf.encoders import tiny
from cmpf.encoders.clip import CLIP
from cmpf.errors import ModelNameError, WeightsError, summary
from cmpf.weights.download import cache_folder
from cmpf.weights.key_mapping import split
from cmpf.weights.loading import match_scalar_shapes
from cmpf.weights.reading import UNREADABLE, is_torch_script, load_weights, read_contents

logger = logging.getLogger(__name__)

OPTION = "MODEL.CMPF.CLIP.PRETRAINED"
QUICKGELU = "-quickgelu"


def build_clip(*, name: str, pretrained: str) -> CLIP:
    """Builds a frozen CLIP.

    A tag of weights that were trained with QuickGELU, such as "openai", selects the "-quickgelu" variant of the name.
    With a file or random weights the activation is that of the name, and a warning is logged if all published weights
    of the name use the other one.

    Args:
        name: a ConvNeXt or ModifiedResNet of OpenCLIP (see clip_names), or "cmpf_tiny".
        pretrained: OpenCLIP's tag of the weights, which are downloaded once ("cmpf_tiny" for cmpf_tiny), the path of a
            file (.safetensors, or .pt with tensors only), or "" for random weights. A tag takes precedence over a file.
    Raises:
        ModelNameError: the name is unknown or not a convolutional CLIP; lists the supported ones.
        WeightsError: the tag is unknown, its weights were trained with another activation than that of the name, or
            the weights are missing, damaged or of another model.
    """
    if name == tiny.CLIP_NAME:
        return _build_tiny(pretrained)
    import open_clip

    check_clip_name(name)
    variant = variant_for(name, pretrained)
    path = _weights_file(name, pretrained) if pretrained else None
    config = open_clip.get_model_config(variant)
    # The weights are those of the full CLIP; timm would download others for the trunk.
    config["vision_cfg"]["timm_model_pretrained"] = False
    custom_text = config.pop("custom_text", False)
    model = (open_clip.CustomTextCLIP if custom_text else open_clip.CLIP)(**config).eval()
    if path is not None:
        _load(model, variant, path)
    return CLIP(name=variant, model=model, tokenizer=open_clip.get_tokenizer(variant))


def clip_names() -> list[str]:
    """Names that build_clip accepts."""
    import open_clip

    names = [name for name in open_clip.list_models() if _is_supported(open_clip.get_model_config(name))]
    return sorted({*names, tiny.CLIP_NAME})


def check_clip_name(name: str) -> None:
    """Raises ModelNameError, with the nearest and all supported names, unless build_clip accepts the name."""
    import open_clip

    names = clip_names()
    if name in names:
        return
    supported = f"What works: {', '.join(names)}"
    if name in open_clip.list_models():
        raise ModelNameError(
            f"CLIP {name!r}: CMPF pools masks from convolutional feature maps, so the image tower must be a "
            f"ConvNeXt or a ModifiedResNet (RN...), not a ViT or another transformer. {supported}"
        )
    lower = {known.lower(): known for known in names}
    near = [lower[match] for match in get_close_matches(name.lower(), lower, n=3)]
    hint = f", did you mean {' or '.join(near)}?" if near else "."
    raise ModelNameError(f"CLIP {name!r} is unknown{hint} {supported}")


def check_clip(name: str, pretrained: str) -> None:
    """Checks the arguments of `build_clip` without downloading or building; raises the same errors."""
    if name == tiny.CLIP_NAME:
        return
    check_clip_name(name)
    variant_for(name, pretrained)
    if pretrained and not tag_record(name, pretrained):
        _weights_file(name, pretrained)


def saved_file(name: str, tag: str) -> Path:
    """Path for manually downloaded weights of a tag, which take precedence over a download."""
    return cache_folder() / f"clip_{name.removesuffix(QUICKGELU)}_{tag}.safetensors"


def hub_folder() -> Path | None:
    """Cache folder for downloads from the Hugging Face Hub; None = the Hub's default."""
    return cache_folder() / "hub" if os.environ.get("CMPF_CACHE") else None


def clip_tags() -> Iterator[tuple[str, str]]:
    """Yields (name, tag) of all published weights that build_clip can load."""
    from open_clip.pretrained import list_pretrained_tags_by_model

    for name in clip_names():
        if not name.endswith(QUICKGELU):  # variants share the tags of the plain name
            yield from ((name, tag) for tag in list_pretrained_tags_by_model(name))


def cached_file(name: str, tag: str) -> Path | None:
    """The local file of a tag's weights, saved by the user or in the Hub's cache; None if there is none."""
    from huggingface_hub import try_to_load_from_cache
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    if (saved := saved_file(name, tag)).is_file():
        return saved
    repository, _, file = str(tag_record(name, tag).get("hf_hub", "")).rpartition("/")
    for candidate in (HF_SAFE_WEIGHTS_NAME, file or HF_WEIGHTS_NAME) if repository else ():
        path = try_to_load_from_cache(repository, candidate, cache_dir=hub_folder())
        if isinstance(path, str):
            return Path(path)
    return None


def _is_supported(config: dict[str, Any]) -> bool:
    """Whether a model has a ConvNeXt or ModifiedResNet image encoder and CLIP's causal text encoder."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    convolutional = "convnext" in str(vision.get("timm_model_name", ""))
    resnet = isinstance(vision.get("layers"), list)
    foreign_text = {"hf_model_name", "hf_tokenizer_name", "no_causal_mask", "embed_cls"} & set(text)
    pool = text.get("pool_type", "argmax")
    return (convolutional or resnet) and not foreign_text and pool in ("argmax", "eos")


def _load(model: nn.Module, name: str, path: Path) -> None:
    from open_clip.model import convert_to_custom_text_state_dict

    if is_torch_script(path):
        source = source_of(tag_record(name, "openai"))
        raise WeightsError(
            f"{path}: a TorchScript archive, the form of OpenAI's own files; it is a program, and reading it would "
            f'run it. Set {OPTION} to the tag "openai", or to a file of the same weights without program'
            + (f" ({source})" if source else "")
        )
    try:
        tensors = split(read_contents(path).tensors).clip
        if "positional_embedding" in tensors and not hasattr(model, "positional_embedding"):
            tensors = convert_to_custom_text_state_dict(tensors)  # an older format of the same model
        model.load_state_dict(match_scalar_shapes(tensors, model.state_dict()))
    except UNREADABLE as error:
        raise WeightsError(
            f"{path}: not weights of CLIP {name}, or damaged. Give another file in {OPTION}. {summary(error)}"
        ) from error


def _weights_file(name: str, pretrained: str) -> Path:
    """The file of a tag, downloaded if needed, or of a path."""
    from open_clip.pretrained import list_pretrained_tags_by_model

    record = tag_record(name, pretrained)
    if record:
        return _download(name, pretrained, record)
    path = Path(pretrained).expanduser()
    if path.is_file():
        return path
    tags = list_pretrained_tags_by_model(name.removesuffix(QUICKGELU))
    near = get_close_matches(pretrained, tags, n=1)
    hint = f", did you mean {near[0]}?" if near else "."
    raise WeightsError(
        f"{OPTION} {pretrained!r} is neither a file nor one of OpenCLIP's tags for {name}{hint} "
        f'Tags: {", ".join(tags) or "none"}; "" = random weights'
    )


def _download(name: str, tag: str, record: dict[str, Any]) -> Path:
    """The file of a tag's weights: saved by the user, in OpenCLIP's cache, or downloaded."""
    from open_clip.pretrained import download_pretrained

    saved = saved_file(name, tag)
    if saved.is_file():
        return saved
    hub = hub_folder()
    try:
        return Path(download_pretrained(record, cache_dir=None if hub is None else str(hub)))
    except UNREADABLE as error:
        raise WeightsError(
            f"weights {tag} of CLIP {name} are not on this machine and cannot be downloaded. Save "
            f'{source_of(record)} as {saved}, or set {OPTION} to "" for random weights. {summary(error)}'
        ) from error


def _build_tiny(pretrained: str) -> CLIP:
    path = Path(pretrained).expanduser()
    if pretrained == tiny.CLIP_NAME:
        model = tiny.load_tiny_clip()
    elif not pretrained or path.is_file():
        model = tiny.build_tiny_clip_model()
    else:
        raise WeightsError(
            f"{OPTION} {pretrained!r} is neither a file nor {tiny.CLIP_NAME!r}, the only tag of CLIP "
            f'{tiny.CLIP_NAME}; "" = random weights'
        )
    if path.is_file():
        load_weights(model, path)
    return CLIP(name=tiny.CLIP_NAME, model=model, tokenizer=tiny.tiny_tokenizer())


def tag_record(name: str, tag: str) -> dict[str, Any]:
    """OpenCLIP's record of published weights, {} if there is none; variants share the tags of the plain name."""
    from open_clip.pretrained import get_pretrained_cfg

    record: dict[str, Any] = get_pretrained_cfg(name.removesuffix(QUICKGELU), tag) if tag else {}
    return record


def source_of(record: dict[str, Any]) -> str:
    """URL of published weights as safetensors, "" if there is none."""
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME

    repository = str(record.get("hf_hub", "")).rstrip("/")
    return f"https://huggingface.co/{repository}/resolve/main/{HF_SAFE_WEIGHTS_NAME}" if repository else ""


def variant_for(name: str, pretrained: str) -> str:
    """The model name whose activation is that of the weights: the given one or its QuickGELU variant.

    Args:
        name: a name that build_clip accepts.
        pretrained: a tag, the path of a file, or "". The activation is known for tags only; else the name is returned.
    Raises:
        WeightsError: the tag's weights were trained with another activation (OpenCLIP only warns).
    """
    import open_clip

    record = tag_record(name, pretrained)
    if not record:
        _warn_if_published_weights_differ(name, pretrained)
        return name
    needs_quick_gelu = bool(record.get("quick_gelu", False))
    if is_quick_gelu(name) == needs_quick_gelu:
        return name
    if needs_quick_gelu and name + QUICKGELU in open_clip.list_models():
        return name + QUICKGELU
    trained, built = ("QuickGELU", "GELU") if needs_quick_gelu else ("GELU", "QuickGELU")
    raise WeightsError(
        f"{OPTION} {pretrained!r}: these weights were trained with {trained}, but CLIP {name} computes {built} and "
        f"would give wrong embeddings; give another tag, or the name of a model that computes {trained}"
    )


def is_quick_gelu(name: str) -> bool:
    """Whether OpenCLIP's model of this name uses QuickGELU."""
    import open_clip

    return bool(open_clip.get_model_config(name).get("quick_gelu", False))


def _warn_if_published_weights_differ(name: str, path: str) -> None:
    """Logs a warning for a GELU model whose published weights all use QuickGELU."""
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    tags = list_pretrained_tags_by_model(name)
    quick = [tag for tag in tags if get_pretrained_cfg(name, tag).get("quick_gelu", False)]
    if tags and quick == tags and not is_quick_gelu(name) and name + QUICKGELU in open_clip.list_models():
        logger.warning(
            "%s %r: CLIP %s computes GELU, as OpenCLIP builds it under this name. All published weights of it (%s) "
            "were trained with QuickGELU: for those name %s",
            OPTION,
            path,
            name,
            ", ".join(tags),
            name + QUICKGELU,
        )
