# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Compares the weights of a file with those of a model, and reports or rejects what does not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from cmpf.errors import WeightsError, first_few
from cmpf.weights.key_mapping import OWN_CLIP_PREFIX, Naming
from cmpf.weights.reading import Contents
from cmpf.weights.saving import ENCODERS_KEY, ModelWithEncoders, TrainedModel

ENCODER_ONLY = {
    Naming.OPENCLIP: "clip",
    Naming.SAM: "sam",
}  # naming of files with a single encoder -> its kind
WITHOUT_SAM = (Naming.FCCLIP, Naming.MASK_ADAPTER, Naming.MAFTP, Naming.OVRCOAT)
OPTIONS = {"clip": "MODEL.CMPF.CLIP.NAME", "sam": "MODEL.CMPF.SAM.NAME"}
# Prefix of an optional part -> its title, the option that enables it, and the option's values with and without it.
PARTS = {
    "naming.mask_adapter.": ("Mask-Adapter", "MODEL.CMPF.MASK_EMBEDDING", "mask_adapter", "pool"),
    "naming.text_transfer.": (
        "transfer of the text",
        "MODEL.CMPF.TEXT_TRANSFER",
        "content_dependent",
        "none",
    ),
}
# Prefixes of the towers of a complete encoder.
TOWERS = {
    "clip": (("visual.",), ("transformer.", "text.")),
    "sam": (("image_encoder.",), ("prompt_encoder.",), ("mask_decoder.",)),
}
QUICKGELU = "-quickgelu"  # suffix of OpenCLIP's models with this activation
SAM_LEVELS = "sam_branch.encoder.level_embedding"
NO_INJECTORS = (
    "MODEL.CMPF.QUERY_INJECTOR.ENABLED False, MODEL.CMPF.FEATURE_INJECTOR.ENABLED False and "
    'MODEL.CMPF.SAM.NAME ""'
)


def is_complete(encoder: Mapping[str, Tensor], kind: str) -> bool:
    """Whether the weights of a "clip" or "sam" include all its towers."""
    return all(any(name.startswith(tower) for name in encoder) for tower in TOWERS[kind])


def check_fit(
    source: str, naming: Naming, trained: Part, frozen: Mapping[str, Part], report: LoadReport
) -> None:
    """Rejects weights that are missing, of another shape, or of another encoder; the message says what to set."""
    fixes = []
    for kind, part in frozen.items():
        encoder_only = ENCODER_ONLY.get(naming) == kind
        if encoder_only and not part.target:
            fixes.append(
                f"The model has no {kind.upper()} that it could fill: set {OPTIONS[kind]}; SAM of the mask ensemble "
                "alone is given by TEST.ENSEMBLE.SAM_CHECKPOINT"
            )
        elif part.other_architecture or (encoder_only and not part.report.fits):
            fixes.append(
                f"It holds another {kind.upper()} than the model: set {OPTIONS[kind]} to the one in the file"
            )
    if not trained.report.fits:
        fixes.append(
            _levels_fix(trained) or _part_fix(trained) or "Use the configuration that it was trained with"
        )
    if fixes:
        raise WeightsError(
            f"{source} does not fit the model: {report}. {'. '.join(fixes)}, or load with strict=False to keep "
            "what the model has for the rest"
        )


def check_own_clip(contents: Contents, naming: Naming, model: TrainedModel, report: LoadReport) -> None:
    """For a model whose CLIP is trained, requires weights with this CLIP or that were trained with its present one."""
    if naming in ENCODER_ONLY or not any(
        name.startswith(OWN_CLIP_PREFIX) for name in model.trained_state_dict()
    ):
        return
    if report.clip.loaded and report.clip.fits:
        return
    encoders = model.frozen_encoders() if isinstance(model, ModelWithEncoders) else {}
    trained_with = set(contents.metadata.get(ENCODERS_KEY, {}).values())
    if report.clip == PartReport() and "clip" in encoders and encoders["clip"].weights_hash in trained_with:
        return
    raise WeightsError(
        f"{contents.source} holds no whole CLIP for this model, whose trunk is trained ({report.clip}): give weights "
        "that were saved with MODEL.CMPF.CLIP.TRAINED trunk or made for the CLIP of MODEL.CMPF.CLIP.PRETRAINED, set "
        "MODEL.CMPF.CLIP.TRAINED none, or load with strict=False to keep the CLIP that the model has"
    )


def check_unused(source: str, report: LoadReport) -> None:
    """Rejects weights that the model does not have: the configuration is another one, or a plug-in is missing."""
    unused = (*report.unexpected, *report.clip.unexpected, *report.sam.unexpected)
    if unused:
        fixes = [
            f"It has a {title}: set {option} {value}"
            for prefix, (title, option, value, _) in PARTS.items()
            if any(name.startswith(prefix) for name in unused)
        ]
        raise WeightsError(
            f"{source} holds {len(unused)} weights that the model does not have: {first_few(unused)}. "
            f"{'. '.join(fixes) or 'Use the configuration that it was trained with'}, or leave them out: "
            "--allow-unused-weights, MODEL.ALLOW_UNUSED_WEIGHTS True, in Python allow_unused_weights=True (cmpf.load) "
            "or allow_unused=True (cmpf.weights.load)"
        )


def _levels_fix(trained: Part) -> str:
    """How to fix another number of levels in the SAM branch: the published one has three, CMPF's has one."""
    source, target = trained.source.get(SAM_LEVELS), trained.target.get(SAM_LEVELS)
    if source is None or target is None or len(source) == len(target):
        return ""
    levels = len(source) if len(source) > 1 else 0
    return (
        f"Its SAM branch has weights for {len(source)} levels and the model's for {len(target)}: set "
        f"MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS {levels}"
    )


def _part_fix(trained: Part) -> str:
    """How to fix optional parts that the model has and the file lacks."""
    fixes = [
        f"It has no {title}: set {option} {value}"
        for prefix, (title, option, _, value) in PARTS.items()
        if any(name.startswith(prefix) for name in trained.report.missing)
    ]
    return ". ".join(fixes)


def check_injectors(source: str, naming: Naming, model: TrainedModel) -> None:
    """Rejects weights of methods without SAM for a model with injectors."""
    if naming in WITHOUT_SAM and isinstance(model, ModelWithEncoders) and model.uses_sam:
        raise WeightsError(
            f"{source} has {naming.value}'s weights, which know neither SAM nor injectors, and this model has them on. "
            f"Set {NO_INJECTORS}, or load with strict=False to start the SAM branch and the injectors from scratch"
        )


def check_hashes(contents: Contents, model: TrainedModel) -> None:
    """Rejects weights that were trained with other frozen encoders than the model's.

    Encoders are compared by the hash of their weights: a converted file may not know their names.
    """
    trained_with: Mapping[str, str] = contents.metadata.get(ENCODERS_KEY, {})
    if not trained_with:
        return
    encoders = model.encoder_hashes()
    _check_activation(contents.source, trained_with, encoders)
    if isinstance(model, ModelWithEncoders):  # also a CLIP that is trained further from here
        frozen = {kind: encoder.weights_hash for kind, encoder in model.frozen_encoders().items()}
        encoders = frozen | encoders
    if set(trained_with.values()) <= set(encoders.values()):
        return

    def format_encoders(hashes: Mapping[str, str]) -> str:
        return ", ".join(f"{name} (hash {content[:12]})" for name, content in hashes.items()) or "none"

    raise WeightsError(
        f"{contents.source} was trained with the encoders {format_encoders(trained_with)}; this model has "
        f"{format_encoders(encoders)}. Set MODEL.CMPF.CLIP and MODEL.CMPF.SAM to the former, or load with "
        "strict=False to go on with the latter"
    )


def _check_activation(source: str, trained_with: Mapping[str, str], encoders: Mapping[str, str]) -> None:
    """Rejects another activation: GELU and QuickGELU variants have the same weights and differ only in name."""
    names = {content: name for name, content in encoders.items()}
    for name, content in trained_with.items():
        own_name = names.get(content, name)
        if "/" in name and name.endswith(QUICKGELU) != own_name.endswith(QUICKGELU):
            activation, own = ("QuickGELU", "GELU") if name.endswith(QUICKGELU) else ("GELU", "QuickGELU")
            raise WeightsError(
                f"{source} was trained with {name}, whose CLIP computes {activation}; that of this model, {own_name}, "
                f"computes {own} with the same weights. Set {OPTIONS['clip']} {name.partition('/')[2]}"
            )


@dataclass(frozen=True)
class PartReport:
    """Result of loading the weights of one part of a model.

    Attributes:
        loaded: names of the loaded weights.
        missing: names that only the model has.
        unexpected: names that only the file has.
        mismatched: weights of another shape, as "name: shape in the file, shape in the model".
    """

    loaded: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the file has every weight of the part in the right shape."""
        return not self.missing and not self.mismatched

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} weights loaded"]
        for what, names in (
            ("missing in the file", self.missing),
            ("of another shape", self.mismatched),
            ("in the file only, left out", self.unexpected),
        ):
            if names:
                lines.append(f"{len(names)} {what}: {first_few(names)}")
        return "; ".join(lines)


@dataclass(frozen=True)
class LoadReport(PartReport):
    """Result of loading a file. The attributes of PartReport describe the trained part.

    Attributes:
        clip: the frozen CLIP; empty if the file does not contain it.
        sam: the frozen SAM; empty if the file does not contain it.
        ignored: entries of the file that are not weights of the network (class weights of the criterion,
            preprocessing constants, the frozen copy of a tuned CLIP).
        naming: the project whose parameter names the file uses.
    """

    clip: PartReport = field(default_factory=PartReport)
    sam: PartReport = field(default_factory=PartReport)
    ignored: tuple[str, ...] = ()
    naming: str = "own"

    def __str__(self) -> str:
        lines = [super().__str__()]
        for title, part in (("frozen CLIP", self.clip), ("frozen SAM", self.sam)):
            if part != PartReport():
                lines.append(f"{title}: {part}")
        if self.ignored:
            lines.append(f"{len(self.ignored)} ignored: {_group_by_module(self.ignored)}")
        text = "; ".join(lines)
        return text if self.naming == "own" else f"{self.naming} naming: {text}"


@dataclass(frozen=True)
class Part:
    """The weights of one part: those of the file, those of the model, and their comparison."""

    source: dict[str, Tensor]
    target: Mapping[str, Tensor]
    report: PartReport

    @property
    def other_architecture(self) -> bool:
        """Whether the file has weights of another architecture, none of which is loaded."""
        return bool(self.target and self.source) and not self.report.loaded


def compare(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> PartReport:
    """What loading `source` into `target` would do, by names and shapes."""
    mismatched = {n for n in target if n in source and source[n].shape != target[n].shape}
    return PartReport(
        loaded=tuple(n for n in target if n in source and n not in mismatched),
        missing=tuple(n for n in target if n not in source),
        unexpected=tuple(n for n in source if n not in target),
        mismatched=tuple(
            f"{n}: {_shape(source[n])} in the file, {_shape(target[n])} here"
            for n in target
            if n in mismatched
        ),
    )


def _group_by_module(names: tuple[str, ...]) -> str:
    """Names for a message; several of one top-level module as their number, because an encoder has hundreds."""
    counts = Counter(name.partition(".")[0] for name in names)
    return first_few(
        tuple(
            f"{count} of {module}.*" if count > 1 else next(n for n in names if n.partition(".")[0] == module)
            for module, count in counts.items()
        )
    )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
