# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Puts weights into a model: CMPF's own, those of the published models, and those of single frozen encoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from cmpf.errors import WeightsError
from cmpf.weights.key_mapping import Naming, Parts, split
from cmpf.weights.reading import Contents, read_contents, unwrapped
from cmpf.weights.report import LoadReport, PartReport, compare, shortened
from cmpf.weights.saving import ENCODERS_KEY, TrainedModel

RAW = {Naming.OPENCLIP: "clip", Naming.SAM: "sam"}  # files of one frozen encoder -> which
OPTIONS = {"clip": "MODEL.CMPF.CLIP.NAME", "sam": "MODEL.CMPF.SAM.NAME"}
SAM_LEVELS = "sam_branch.encoder.level_embedding"
NO_INJECTORS = (
    "MODEL.CMPF.QUERY_INJECTOR.ENABLED False, MODEL.CMPF.FEATURE_INJECTOR.ENABLED False and "
    'MODEL.CMPF.SAM.NAME ""'
)


class FrozenEncoder(Protocol):
    """An encoder that checkpoints may fill; cmpf.encoders.frozen.FrozenModule is one."""

    def weights(self) -> Mapping[str, Tensor]:
        """Parameters and buffers under names that stay the same from one release to the next."""
        ...

    def weights_changed(self) -> None:
        """Called after its weights were written in place: hashes of them are void."""
        ...


@runtime_checkable
class ModelWithEncoders(TrainedModel, Protocol):
    """A model whose frozen encoders checkpoints may fill; cmpf.model.CMPF is one."""

    @property
    def uses_sam(self) -> bool:
        """Whether an injector reads SAM's embedding."""
        ...

    def frozen_encoders(self) -> Mapping[str, FrozenEncoder]:
        """The encoders that it has: "clip", "sam"."""
        ...

    def forget_embeddings(self) -> None:
        """Called after an encoder got other weights: text embeddings kept in memory are void."""
        ...


@dataclass(frozen=True)
class _Part:
    """One part of a model and what a file has for it."""

    given: dict[str, Tensor]
    own: Mapping[str, Tensor]
    report: PartReport

    @property
    def foreign(self) -> bool:
        """Whether the file's weights are those of another architecture, of which none is taken."""
        return bool(self.own and self.given) and not self.report.loaded


def load(
    model: TrainedModel,
    path_or_state_dict: str | Path | Mapping[str, Tensor],
    *,
    strict: bool = True,
    allow_unused: bool = False,
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
    Returns:
        What was loaded and what was not; print it.
    Raises:
        WeightsError: the file is absent, damaged, could run code or is of no known naming; or, if strict, weights
            are missing, of another shape or of no use, or belong to other encoders. The model is then unchanged.
    """
    contents = _contents(path_or_state_dict)
    parts = _taken_apart(contents, model.trained_state_dict())
    if strict:
        _check_hashes(contents, model)
        _check_injectors(contents.source, parts.naming, model)
    encoders = model.frozen_encoders() if isinstance(model, ModelWithEncoders) else {}
    trained = _trained_part(model, parts)
    frozen = {kind: _frozen_part(encoders.get(kind), getattr(parts, kind)) for kind in OPTIONS}
    report = LoadReport(
        **vars(trained.report),
        clip=frozen["clip"].report,
        sam=frozen["sam"].report,
        ignored=parts.ignored,
        naming="own" if parts.naming is Naming.OWN else parts.naming.value,
    )
    if strict:
        _check_fit(contents.source, parts.naming, trained, frozen, report)
        if not allow_unused:
            _check_use(contents.source, report)
    _copy(trained)
    for kind, part in frozen.items():
        if part.report.loaded:
            _copy(part)
            encoders[kind].weights_changed()
    if isinstance(model, ModelWithEncoders) and report.clip.loaded:
        model.forget_embeddings()
    return report


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


def _trained_part(model: TrainedModel, parts: Parts) -> _Part:
    """Files of an encoder alone are not expected to hold what is trained."""
    own = {} if parts.naming in RAW else model.trained_state_dict()
    return _Part(parts.trained, own, compare(parts.trained, own))


def _frozen_part(encoder: FrozenEncoder | None, given: dict[str, Tensor]) -> _Part:
    if not given:
        return _Part({}, {}, PartReport())
    own: Mapping[str, Tensor] = {} if encoder is None else encoder.weights()
    given = scalars_as(own, given)
    report = compare(given, own)
    if report.mismatched or (report.missing and report.unexpected):
        # Another encoder with some equal names (SAM's mask decoder is the same in every size): half of each
        # would be worth nothing.
        report = PartReport(
            missing=report.missing, unexpected=report.unexpected, mismatched=report.mismatched
        )
    return _Part(given, own, report)


def scalars_as(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The given weights, single numbers in the model's shape: OpenCLIP's logit_scale is a scalar in some releases and a
    list of one in others."""
    return {
        name: value.reshape(own[name].shape)
        if name in own and value.numel() == own[name].numel() == 1
        else value
        for name, value in given.items()
    }


def _check_fit(
    source: str, naming: Naming, trained: _Part, frozen: Mapping[str, _Part], report: LoadReport
) -> None:
    fixes = []
    for kind, part in frozen.items():
        raw = RAW.get(naming) == kind
        if raw and not part.own:
            fixes.append(
                f"The model has no {kind.upper()} that it could fill: set {OPTIONS[kind]}; SAM of the mask ensemble "
                "alone is given by TEST.ENSEMBLE.SAM_CHECKPOINT"
            )
        elif part.foreign or (raw and not part.report.fits):
            fixes.append(
                f"It holds another {kind.upper()} than the model: set {OPTIONS[kind]} to the one in the file"
            )
    if not trained.report.fits:
        fixes.append(_levels_fix(trained) or "Use the configuration that it was trained with")
    if fixes:
        raise WeightsError(
            f"{source} does not fit the model: {report}. {'. '.join(fixes)}, or load with strict=False to keep "
            "what the model has for the rest"
        )


def _check_use(source: str, report: LoadReport) -> None:
    """Weights without a place are a sign of another configuration, or of a plug-in that is missing."""
    unused = (*report.unexpected, *report.clip.unexpected, *report.sam.unexpected)
    if unused:
        raise WeightsError(
            f"{source} holds {len(unused)} weights that the model does not have: {shortened(unused)}. Use the "
            "configuration that it was trained with, or leave them out: --allow-unused-weights, "
            "MODEL.ALLOW_UNUSED_WEIGHTS True, in Python allow_unused_weights=True (cmpf.load) or allow_unused=True "
            "(cmpf.weights.load)"
        )


def _levels_fix(trained: _Part) -> str:
    """The published SAM branch has weights for three levels, ours for one."""
    given, own = trained.given.get(SAM_LEVELS), trained.own.get(SAM_LEVELS)
    if given is None or own is None or len(given) == len(own):
        return ""
    levels = len(given) if len(given) > 1 else 0
    return (
        f"Its SAM branch has weights for {len(given)} levels and the model's for {len(own)}: set "
        f"MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS {levels}"
    )


def _check_injectors(source: str, naming: Naming, model: TrainedModel) -> None:
    if naming is Naming.FCCLIP and isinstance(model, ModelWithEncoders) and model.uses_sam:
        raise WeightsError(
            f"{source} has FC-CLIP's weights, which know neither SAM nor injectors, and this model has them on. Set "
            f"{NO_INJECTORS}, or load with strict=False to start the SAM branch and the injectors from scratch"
        )


def _check_hashes(contents: Contents, model: TrainedModel) -> None:
    """Weights mean something only together with the frozen encoders that they were trained on.

    Contents decide, not names: a converted file may not know what its encoders are called.
    """
    trained_with: Mapping[str, str] = contents.metadata.get(ENCODERS_KEY, {})
    if not trained_with or set(trained_with.values()) <= set((here := model.encoder_hashes()).values()):
        return

    def described(encoders: Mapping[str, str]) -> str:
        return ", ".join(f"{name} (hash {content[:12]})" for name, content in encoders.items()) or "none"

    raise WeightsError(
        f"{contents.source} was trained with the encoders {described(trained_with)}; this model has "
        f"{described(here)}. Set MODEL.CMPF.CLIP and MODEL.CMPF.SAM to the former, or load with "
        "strict=False to go on with the latter"
    )


@torch.no_grad()
def _copy(part: _Part) -> None:
    for name in part.report.loaded:
        part.own[name].copy_(part.given[name])
