# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Loads weights into a model: CMPF's own, published checkpoints, or those of a single frozen encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from cmpf.errors import WeightsError
from cmpf.weights.checks import (
    ENCODER_ONLY,
    OPTIONS,
    TOWERS,
    LoadReport,
    Part,
    PartReport,
    check_fit,
    check_hashes,
    check_injectors,
    check_own_clip,
    check_unused,
    compare,
    is_complete,
)
from cmpf.weights.key_mapping import OWN_FROZEN_PREFIX, Naming, Parts, split
from cmpf.weights.reading import Contents, read_contents, unwrap_state_dict
from cmpf.weights.saving import (
    ENCODER_FILES_KEY,
    ENCODERS_KEY,
    FrozenEncoder,
    ModelWithEncoders,
    TrainedModel,
    check_values,
)


def load(
    model: TrainedModel,
    path_or_state_dict: str | Path | Mapping[str, Tensor],
    *,
    strict: bool = True,
    allow_unused: bool = False,
    may_lack: str = "",
) -> LoadReport:
    """Loads weights into a model, keeping the model's dtypes and device.

    The names of the weights tell their format: CMPF's own, a published checkpoint (FrozenSeg, FC-CLIP, ...), or
    OpenCLIP or SAM alone, which fill that frozen encoder. Frozen encoders in a checkpoint are loaded; if it lacks
    them, the model keeps its own.

    Args:
        model: the model to fill.
        path_or_state_dict: a .safetensors file, a PyTorch file of tensors (.pth, .pt; a training checkpoint may
            have them under "model" or "state_dict"), or tensors by name.
        strict: if False, weights may be missing or have another shape (the model keeps its values), and the frozen
            encoders may differ from those that the weights were trained with.
        allow_unused: whether the file may contain weights that the model does not have; always allowed if not strict.
        may_lack: prefix of weights that may be missing in the file; "" = none may.
    Returns:
        A printable report of what was loaded and what was not.
    Raises:
        WeightsError: the file is missing, damaged, could run code, or has unknown names; or, if strict, weights are
            missing, unused or of another shape, or belong to other encoders. The model is then unchanged.
    """
    contents = _read(path_or_state_dict)
    plan = _plan(model, contents, strict, allow_unused, may_lack)
    for part in (plan.trained, *plan.frozen.values()):
        check_values(contents.source, {name: part.source[name] for name in part.report.loaded}, part.target)
    _copy(plan.trained)
    for kind, part in plan.frozen.items():
        if part.report.loaded:
            _copy(part)
            plan.encoders[kind].weights_changed()
    if isinstance(model, ModelWithEncoders) and plan.report.clip.loaded:
        model.forget_embeddings()
    return plan.report


def check(model: TrainedModel, path: str | Path, *, allow_unused: bool = False) -> None:
    """Raises the errors of a strict `load` that concern names and shapes, without loading anything.

    Args:
        model: may be on the meta device or have untrained encoders: the values of its weights are not used.
        path: see `load`.
        allow_unused: see `load`.
    """
    contents = read_contents(path)
    metadata = {name: value for name, value in contents.metadata.items() if name != ENCODERS_KEY}
    names_encoders = ENCODERS_KEY in contents.metadata
    _plan(model, replace(contents, metadata=metadata), True, allow_unused, "", own_clip=not names_encoders)


def encoders_inside(path: str | Path) -> dict[str, Path]:
    """The complete frozen encoders ("clip", "sam") of a file of weights, each with the file that contains it.

    For the trained part that the zoo extracted from a published checkpoint, this is the checkpoint beside it.

    Raises:
        WeightsError: the file is missing, damaged, or could run code.
    """
    path = Path(path).expanduser()
    contents = read_contents(path)
    try:
        parts = split(contents.tensors)
    except WeightsError:  # unknown names
        return {}
    files = {kind: path for kind in TOWERS if is_complete(getattr(parts, kind), kind)}
    for kind, name in contents.metadata.get(ENCODER_FILES_KEY, {}).items():
        sibling = path.parent / Path(name).name  # never a file in another folder
        if kind not in files and sibling.is_file():
            files[kind] = sibling
    return files


@dataclass(frozen=True)
class _Plan:
    """The weights of a file, matched with those of a model."""

    trained: Part
    frozen: dict[str, Part]
    encoders: Mapping[str, FrozenEncoder]
    report: LoadReport


def _plan(
    model: TrainedModel,
    contents: Contents,
    strict: bool,
    allow_unused: bool,
    may_lack: str,
    own_clip: bool = True,
) -> _Plan:
    """Matches a file with a model; if strict, raises the errors of `load`."""
    parts = _split(contents, model.trained_state_dict())
    if strict:
        check_hashes(contents, model)
        check_injectors(contents.source, parts.naming, model)
    encoders = model.frozen_encoders() if isinstance(model, ModelWithEncoders) else {}
    trained = _trained_part(model, parts, may_lack)
    frozen = {kind: _frozen_part(encoders.get(kind), getattr(parts, kind)) for kind in OPTIONS}
    report = LoadReport(
        **vars(trained.report),
        clip=frozen["clip"].report,
        sam=frozen["sam"].report,
        ignored=parts.ignored,
        naming="own" if parts.naming is Naming.OWN else parts.naming.value,
    )
    if strict:
        if own_clip:
            check_own_clip(contents, parts.naming, model, report)
        check_fit(contents.source, parts.naming, trained, frozen, report)
        if not allow_unused:
            check_unused(contents.source, report)
    return _Plan(trained, frozen, encoders, report)


def _read(path_or_state_dict: str | Path | Mapping[str, Tensor]) -> Contents:
    if isinstance(path_or_state_dict, Mapping):
        title = "the given state dict"
        return Contents(title, unwrap_state_dict(path_or_state_dict, title))
    return read_contents(path_or_state_dict)


def _split(contents: Contents, own: Mapping[str, Tensor]) -> Parts:
    """The parts of a file; models other than CMPF's are recognized by their own names."""
    try:
        return split(contents.tensors)
    except WeightsError as error:
        if contents.metadata or own.keys() & contents.tensors.keys():
            return Parts(trained=contents.tensors, clip={}, sam={})
        raise WeightsError(f"{contents.source}: {error}") from error


def _trained_part(model: TrainedModel, parts: Parts, may_lack: str) -> Part:
    """The trained weights without a tuned CLIP, which is a frozen part; none for files of a single encoder."""
    state = {} if parts.naming in ENCODER_ONLY else model.trained_state_dict()
    target = {
        name: value
        for name, value in state.items()
        if not name.startswith(OWN_FROZEN_PREFIX)
        and not (may_lack and name.startswith(may_lack) and name not in parts.trained)
    }
    return Part(parts.trained, target, compare(parts.trained, target))


def _frozen_part(encoder: FrozenEncoder | None, source: dict[str, Tensor]) -> Part:
    if not source:
        return Part({}, {}, PartReport())
    target: Mapping[str, Tensor] = {} if encoder is None else encoder.weights()
    source = match_scalar_shapes(source, target)
    report = compare(source, target)
    if report.mismatched or (report.missing and report.unexpected):
        # Another encoder with some equal names (SAM's mask decoder is the same in every size): a mixture of both
        # would be useless, so nothing is loaded.
        report = PartReport(
            missing=report.missing, unexpected=report.unexpected, mismatched=report.mismatched
        )
    return Part(source, target, report)


def match_scalar_shapes(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Reshapes single numbers to the model's shape: OpenCLIP's logit_scale is () in some releases, (1,) in others."""
    return {
        name: value.reshape(target[name].shape)
        if name in target and value.numel() == target[name].numel() == 1
        else value
        for name, value in source.items()
    }


@torch.no_grad()
def _copy(part: Part) -> None:
    for name in part.report.loaded:
        part.target[name].copy_(part.source[name])
