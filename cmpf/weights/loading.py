# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Puts weights into a model: CMPF's own, those of the published models, and those of single frozen encoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from cmpf.errors import WeightsError
from cmpf.weights.checks import (
    OPTIONS,
    RAW,
    TOWERS,
    LoadReport,
    Part,
    PartReport,
    check_fit,
    check_hashes,
    check_injectors,
    check_own_clip,
    check_use,
    compare,
    holds_whole,
)
from cmpf.weights.key_mapping import OWN_FROZEN_PREFIX, Naming, Parts, split
from cmpf.weights.reading import Contents, read_contents, unwrapped
from cmpf.weights.saving import (
    BROUGHT_KEY,
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
    """Puts weights into a model, in the model's own precision and on its device.

    The names tell whose weights they are: CMPF's own, published FrozenSeg or FC-CLIP checkpoints, or the weights
    of OpenCLIP or SAM alone, which fill that frozen encoder. Frozen encoders inside a checkpoint are loaded; where
    a checkpoint lacks them the model keeps its own.

    Args:
        path_or_state_dict: a .safetensors file, a PyTorch file of tensors (.pth, .pt; a training checkpoint may
            hold them under "model" or "state_dict"), or tensors by name.
        strict: False = weights may be missing or of another shape (they keep their values), and the encoders
            may be others than those the weights were trained with (an encoder of another kind stays as it is).
        allow_unused: whether the file may hold weights that the model does not have; without strict it always may.
        may_lack: the start of the names of weights that the file need not have; "" = it must have all.
    Returns:
        What was loaded and what was not; print it.
    Raises:
        WeightsError: the file is absent, damaged, could run code or is of no known naming; or, if strict, weights
            are missing, of another shape or of no use, or belong to other encoders. The model is then unchanged.
    """
    contents = _contents(path_or_state_dict)
    plan = _plan(model, contents, strict, allow_unused, may_lack)
    for part in (plan.trained, *plan.frozen.values()):
        check_values(contents.source, {name: part.given[name] for name in part.report.loaded}, part.own)
    _copy(plan.trained)
    for kind, part in plan.frozen.items():
        if part.report.loaded:
            _copy(part)
            plan.encoders[kind].weights_changed()
    if isinstance(model, ModelWithEncoders) and plan.report.clip.loaded:
        model.forget_embeddings()
    return plan.report


def check(model: TrainedModel, path: str | Path, *, allow_unused: bool = False) -> None:
    """Raises what a strict `load` would raise because of names and shapes.

    Args:
        model: it may lie on the meta device, and its encoders may have no weights yet: their content is not looked at.
    """
    contents = read_contents(path)
    nameless = {name: value for name, value in contents.metadata.items() if name != ENCODERS_KEY}
    made_for_encoders = len(nameless) < len(contents.metadata)
    _plan(model, replace(contents, metadata=nameless), True, allow_unused, "", own_clip=not made_for_encoders)


def encoders_inside(path: str | Path) -> dict[str, Path]:
    """The frozen encoders that a file of weights brings whole: "clip", "sam", each with the file to read it from.

    That of a small file which the zoo made is the larger one beside it that it was made of, as long as that is there.

    Raises:
        WeightsError: the file is absent, damaged, or could run code.
    """
    path = Path(path).expanduser()
    contents = read_contents(path)
    try:
        parts = split(contents.tensors)
    except WeightsError:  # of another build, which nothing is known of
        return {}
    found = {kind: path for kind in TOWERS if holds_whole(getattr(parts, kind), kind)}
    for kind, file in contents.metadata.get(BROUGHT_KEY, {}).items():
        beside = path.parent / Path(file).name  # a file tells no other folder
        if kind not in found and beside.is_file():
            found[kind] = beside
    return found


@dataclass(frozen=True)
class _Plan:
    """What of a file goes where in a model."""

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
    """Compares a file with a model; the checks of `load` are made if strict."""
    parts = _taken_apart(contents, model.trained_state_dict())
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
            check_use(contents.source, report)
    return _Plan(trained, frozen, encoders, report)


def _contents(given: str | Path | Mapping[str, Tensor]) -> Contents:
    if isinstance(given, Mapping):
        return Contents("the given state dict", unwrapped(given, "the given state dict"))
    return read_contents(given)


def _taken_apart(contents: Contents, own: Mapping[str, Tensor]) -> Parts:
    """The parts of a file; a model of another build than CMPF is known by its own names."""
    try:
        return split(contents.tensors)
    except WeightsError as error:
        if contents.metadata or own.keys() & contents.tensors.keys():
            return Parts(trained=contents.tensors, clip={}, sam={})
        raise WeightsError(f"{contents.source}: {error}") from error


def _trained_part(model: TrainedModel, parts: Parts, may_lack: str) -> Part:
    """Files of an encoder alone are not expected to hold what is trained; a trained CLIP is a part of its own."""
    state = {} if parts.naming in RAW else model.trained_state_dict()
    own = {
        name: value
        for name, value in state.items()
        if not name.startswith(OWN_FROZEN_PREFIX)
        and not (may_lack and name.startswith(may_lack) and name not in parts.trained)
    }
    return Part(parts.trained, own, compare(parts.trained, own))


def _frozen_part(encoder: FrozenEncoder | None, given: dict[str, Tensor]) -> Part:
    if not given:
        return Part({}, {}, PartReport())
    own: Mapping[str, Tensor] = {} if encoder is None else encoder.weights()
    given = scalars_as(own, given)
    report = compare(given, own)
    if report.mismatched or (report.missing and report.unexpected):
        # Another encoder with some equal names (SAM's mask decoder is the same in every size): half of each
        # would be worth nothing.
        report = PartReport(
            missing=report.missing, unexpected=report.unexpected, mismatched=report.mismatched
        )
    return Part(given, own, report)


def scalars_as(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The given weights, single numbers in the model's shape: OpenCLIP's logit_scale is a scalar in some releases and a
    list of one in others."""
    return {
        name: value.reshape(own[name].shape)
        if name in own and value.numel() == own[name].numel() == 1
        else value
        for name, value in given.items()
    }


@torch.no_grad()
def _copy(part: Part) -> None:
    for name in part.report.loaded:
        part.own[name].copy_(part.given[name])
