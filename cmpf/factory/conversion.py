# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints of published projects as CMPF's small safetensors files, and back."""

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
from cmpf.weights.checks import holds_whole
from cmpf.weights.key_mapping import OWN_CLIP_PREFIX
from cmpf.weights.saving import hash_weights

ENDINGS = {"cmpf": (".safetensors",), "published": (".pth", ".pt", ".safetensors")}
RAW = {Naming.OPENCLIP: "MODEL.CMPF.CLIP.PRETRAINED", Naming.SAM: "MODEL.CMPF.SAM.CHECKPOINT"}
TUNED = (Naming.MAFTP, Naming.OVRCOAT)  # methods that train their CLIP


@dataclass(frozen=True)
class Converted:
    """A checkpoint taken apart. encoders: name -> content hash, as far as known. lines: what to tell the user.

    tuned: its CLIP was trained too, and belongs into the file.
    """

    parts: Parts
    encoders: dict[str, str]
    lines: list[str]
    tuned: bool = False


def convert_checkpoint(
    source: Path, target: Path, *, to: str = "cmpf", cfg: Config | None = None, overwrite: bool = False
) -> list[str]:
    """Reads a checkpoint and writes it in another form.

    Args:
        source: checkpoint of CMPF, FrozenSeg, FC-CLIP or its kin: .safetensors, .pth or .pt.
        target: file to write; its ending must be one of ENDINGS[to].
        to: whose names to write: "cmpf" or "published".
        cfg: None = the weights are renamed only; else they are loaded into that model first, which must take them all.
        overwrite: replace the target if it is there.
    Returns:
        What there is to tell, in lines.
    Raises:
        WeightsError: a wrong ending, a target that exists, a damaged source, weights that do not fit.
    """
    _check_target(target, to, overwrite=overwrite)
    contents = read_contents(source)
    parts = _taken_apart(contents)
    converted = _by_names(contents, parts) if cfg is None else _by_model(contents, parts, cfg)
    if to == "published":
        _write_published(to_published(converted.parts), target)
    else:
        origin = {"file": source.name, "naming": parts.naming.value, "sha256": file_sha256(source)}
        kept = {k: v for k, v in contents.metadata.items() if k not in ("format_version", "encoders")}
        metadata: dict[str, Any] = {**kept, "converted_from": origin}
        clip = converted.parts.clip if converted.tuned else {}
        weights = converted.parts.trained | {OWN_CLIP_PREFIX + name: value for name, value in clip.items()}
        write(weights, target, encoders=converted.encoders, metadata=metadata)
    return [*converted.lines, f"{target}: {target.stat().st_size / 1e6:.1f} MB"]


def _check_target(target: Path, to: str, *, overwrite: bool) -> None:
    if target.suffix not in ENDINGS[to]:
        raise WeightsError(f"{target}: --to {to} writes files that end in {', '.join(ENDINGS[to])}")
    if target.exists() and not overwrite:
        raise WeightsError(f"{target} exists; give another name, or --overwrite to replace it")


def _taken_apart(contents: Contents) -> Parts:
    try:
        parts = split(contents.tensors)
    except WeightsError as error:
        raise WeightsError(f"{contents.source}: {error}") from error
    if parts.naming in RAW:
        raise WeightsError(
            f"{contents.source} holds the frozen encoder of {parts.naming.value} and nothing that CMPF trains; "
            f"there is nothing to convert. Give the file itself as {RAW[parts.naming]}"
        )
    return parts


def _by_names(contents: Contents, parts: Parts) -> Converted:
    """Renames only; what has no known name is left out."""
    unknown: tuple[str, ...] = ()
    if parts.naming is not Naming.OWN:
        # A published name that came through unchanged is one that no rule knows.
        unknown = tuple(n for n in parts.trained if n in contents.tensors and n != "void_embedding.weight")
    trained = {name: value for name, value in parts.trained.items() if name not in unknown}
    encoders = dict(contents.metadata.get("encoders", {}))
    own = parts.naming is Naming.OWN and bool(contents.metadata)  # of ours only a tuned CLIP is in a file
    tuned = bool(parts.clip) and (own or parts.naming in TUNED)
    for kind, weights in (("clip", {} if tuned else parts.clip), ("sam", parts.sam)):
        if holds_whole(weights, kind):  # the hash of less would fit no model
            encoders[kind] = hash_weights(_as_float32(weights))
    report = LoadReport(
        loaded=tuple(trained),
        unexpected=unknown,
        clip=PartReport(loaded=tuple(parts.clip)),
        sam=PartReport(loaded=tuple(parts.sam)),
        ignored=parts.ignored,
        naming=parts.naming.value,
    )
    lines = [f"{contents.source}: {report}", _recorded(encoders)]
    return Converted(replace(parts, trained=trained), encoders, lines, tuned)


def _by_model(contents: Contents, parts: Parts, cfg: Config) -> Converted:
    """Loads the weights into the configured model, which must take them all, and takes them from there."""
    model = _model(cfg, parts)
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
    lines = [f"{contents.source}: {report}", _recorded(encoders)]
    return Converted(replace(parts, trained=trained), encoders, lines, tuned)


def _model(cfg: Config, parts: Parts) -> CMPF:
    """The model on the CPU; encoders that the input brings need no files of their own."""
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
    """In the precision in which models hold them."""
    return {n: value.float() if value.is_floating_point() else value for n, value in weights.items()}


def _recorded(encoders: Mapping[str, str]) -> str:
    if not encoders:
        return "encoders: unknown (the input has none; --config-file FILE records those of a configuration)"
    return "encoders: " + ", ".join(f"{name} (hash {content[:12]})" for name, content in encoders.items())
