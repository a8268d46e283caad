# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Converts checkpoints of published projects to CMPF's safetensors files and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmpf.common.files import file_sha256, replacing
from cmpf.config import Config, with_overrides
from cmpf.errors import WeightsError
from cmpf.factory.model import build_network
from cmpf.model import CMPF
from cmpf.weights import (
    Contents,
    LoadReport,
    Naming,
    PartReport,
    Parts,
    read_contents,
    split,
    to_published,
    write,
    write_safetensors,
)
from cmpf.weights import load as load_weights
from cmpf.weights.checks import is_complete
from cmpf.weights.key_mapping import OWN_CLIP_PREFIX
from cmpf.weights.saving import hash_weights

SUFFIXES = {"cmpf": (".safetensors",), "published": (".pth", ".pt", ".safetensors")}
ENCODER_KEYS = {Naming.OPENCLIP: "MODEL.CMPF.CLIP.PRETRAINED", Naming.SAM: "MODEL.CMPF.SAM.CHECKPOINT"}
TUNED_CLIP = (Naming.MAFTP, Naming.OVRCOAT)  # methods that train their CLIP


@dataclass(frozen=True)
class Conversion:
    """The weights to write.

    Attributes:
        parts: the weights of each part, with trained weights under CMPF's names.
        encoders: content hash of each known encoder, by its name.
        messages: lines to print.
        tuned: whether the CLIP was trained too, so that its weights belong in the file.
    """

    parts: Parts
    encoders: dict[str, str]
    messages: list[str]
    tuned: bool


def convert_checkpoint(
    source: Path, target: Path, *, to: str = "cmpf", cfg: Config | None = None, overwrite: bool = False
) -> list[str]:
    """Reads a checkpoint and writes it in another format.

    Args:
        source: checkpoint of CMPF, FrozenSeg, FC-CLIP or a related project: .safetensors, .pth or .pt.
        target: file to write; its suffix must be one of SUFFIXES[to].
        to: parameter names to write: "cmpf" or "published".
        cfg: the model into which the weights are loaded before they are written; it must take them all. None = only
            rename the weights.
        overwrite: replace an existing target.
    Returns:
        Lines to print.
    Raises:
        WeightsError: the suffix is wrong, the target exists, the source is damaged, or the weights do not fit.
    """
    _check_target(target, to, overwrite=overwrite)
    contents = read_contents(source)
    parts = _split(contents)
    result = _rename(contents, parts) if cfg is None else _load_into_model(contents, parts, cfg)
    if to == "published":
        _write_published(to_published(result.parts), target)
    else:
        origin = {"file": source.name, "naming": parts.naming.value, "sha256": file_sha256(source)}
        kept = {k: v for k, v in contents.metadata.items() if k not in ("format_version", "encoders")}
        metadata: dict[str, Any] = {**kept, "converted_from": origin}
        clip = result.parts.clip if result.tuned else {}
        weights = result.parts.trained | {OWN_CLIP_PREFIX + name: value for name, value in clip.items()}
        write(weights, target, encoders=result.encoders, metadata=metadata)
    return [*result.messages, f"{target}: {target.stat().st_size / 1e6:.1f} MB"]


def _check_target(target: Path, to: str, *, overwrite: bool) -> None:
    if target.suffix not in SUFFIXES[to]:
        raise WeightsError(f"{target}: --to {to} writes files that end in {', '.join(SUFFIXES[to])}")
    if target.exists() and not overwrite:
        raise WeightsError(f"{target} exists; give another name, or --overwrite to replace it")


def _split(contents: Contents) -> Parts:
    try:
        parts = split(contents.tensors)
    except WeightsError as error:
        raise WeightsError(f"{contents.source}: {error}") from error
    if parts.naming in ENCODER_KEYS:
        raise WeightsError(
            f"{contents.source} holds the frozen encoder of {parts.naming.value} and nothing that CMPF trains; "
            f"there is nothing to convert. Give the file itself as {ENCODER_KEYS[parts.naming]}"
        )
    return parts


def _rename(contents: Contents, parts: Parts) -> Conversion:
    """Renames the weights without a model; drops those with unknown names."""
    unknown: tuple[str, ...] = ()
    if parts.naming is not Naming.OWN:
        # split() leaves names that no rule matches unchanged.
        unknown = tuple(n for n in parts.trained if n in contents.tensors and n != "void_embedding.weight")
    trained = {name: value for name, value in parts.trained.items() if name not in unknown}
    encoders = dict(contents.metadata.get("encoders", {}))
    own = parts.naming is Naming.OWN and bool(
        contents.metadata
    )  # CMPF's files contain a CLIP only if it was tuned
    tuned = bool(parts.clip) and (own or parts.naming in TUNED_CLIP)
    for kind, weights in (("clip", {} if tuned else parts.clip), ("sam", parts.sam)):
        if is_complete(weights, kind):  # the hash of an incomplete encoder would match no model
            encoders[kind] = hash_weights(_as_float32(weights))
    report = LoadReport(
        loaded=tuple(trained),
        unexpected=unknown,
        clip=PartReport(loaded=tuple(parts.clip)),
        sam=PartReport(loaded=tuple(parts.sam)),
        ignored=parts.ignored,
        naming=parts.naming.value,
    )
    messages = [f"{contents.source}: {report}", _format_encoders(encoders)]
    return Conversion(replace(parts, trained=trained), encoders, messages, tuned)


def _load_into_model(contents: Contents, parts: Parts, cfg: Config) -> Conversion:
    """Loads the weights into the configured model, which must take them all, and returns the model's weights."""
    model = _build_model(cfg, parts)
    report = load_weights(model, contents.source, allow_unused=cfg.MODEL.ALLOW_UNUSED_WEIGHTS)
    tuned = model.encoders.clip.tuned
    encoders = {
        str(encoder.name): str(encoder.weights_hash)
        for kind, encoder in model.frozen_encoders().items()
        if not getattr(report, kind).missing and not (tuned and kind == "clip")
    }
    trained = {
        name: value.clone()
        for name, value in model.trained_state_dict().items()
        if not name.startswith(OWN_CLIP_PREFIX)
    }
    messages = [f"{contents.source}: {report}", _format_encoders(encoders)]
    return Conversion(replace(parts, trained=trained), encoders, messages, tuned)


def _build_model(cfg: Config, parts: Parts) -> CMPF:
    """The model on the CPU; does not load pretrained weights of encoders that the checkpoint contains."""
    changes: dict[str, Any] = {"MODEL.WEIGHTS": "", "TEST.ENSEMBLE.ENABLED": False}
    if parts.clip:
        changes["MODEL.CMPF.CLIP.PRETRAINED"] = ""
    if parts.sam:
        changes["MODEL.CMPF.SAM.CHECKPOINT"] = "random"
    return build_network(with_overrides(cfg, changes))


def _write_published(state: Mapping[str, Tensor], target: Path) -> None:
    if target.suffix == ".safetensors":
        write_safetensors(state, target, header={"format": "pt"})
        return
    with replacing(target) as temporary:
        torch.save(dict(state), temporary)


def _as_float32(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Converts floating-point weights to float32, as models hold them and their hashes assume."""
    return {n: value.float() if value.is_floating_point() else value for n, value in weights.items()}


def _format_encoders(encoders: Mapping[str, str]) -> str:
    if not encoders:
        return "encoders: unknown (the input has none; --config-file FILE records those of a configuration)"
    return "encoders: " + ", ".join(f"{name} (hash {content[:12]})" for name, content in encoders.items())
