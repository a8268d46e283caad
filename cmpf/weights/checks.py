# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What became of each weight of a file, whether it is a number to compute with, and whether they are the model's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from cmpf.errors import WeightsError, first_few
from cmpf.weights.key_mapping import OWN_CLIP_PREFIX, Naming
from cmpf.weights.reading import Contents
from cmpf.weights.saving import ENCODERS_KEY, ModelWithEncoders, TrainedModel

RAW = {Naming.OPENCLIP: "clip", Naming.SAM: "sam"}  # files of one frozen encoder -> which
WITHOUT_SAM = (Naming.FCCLIP, Naming.MASK_ADAPTER, Naming.MAFTP, Naming.OVRCOAT)
OPTIONS = {"clip": "MODEL.CMPF.CLIP.NAME", "sam": "MODEL.CMPF.SAM.NAME"}
# Part -> its title, the option that it hangs on, and the option's values with it and without.
PARTS = {
    "naming.mask_adapter.": ("Mask-Adapter", "MODEL.CMPF.MASK_EMBEDDING", "mask_adapter", "pool"),
    "naming.text_transfer.": (
        "transfer of the text",
        "MODEL.CMPF.TEXT_TRANSFER",
        "content_dependent",
        "none",
    ),
}
# What a whole encoder has.
TOWERS = {
    "clip": (("visual.",), ("transformer.", "text.")),
    "sam": (("image_encoder.",), ("prompt_encoder.",), ("mask_decoder.",)),
}
QUICKGELU = "-quickgelu"  # how OpenCLIP's names of models with that activation end
SAM_LEVELS = "sam_branch.encoder.level_embedding"
NO_INJECTORS = (
    "MODEL.CMPF.QUERY_INJECTOR.ENABLED False, MODEL.CMPF.FEATURE_INJECTOR.ENABLED False and "
    'MODEL.CMPF.SAM.NAME ""'
)


def holds_whole(encoder: Mapping[str, Tensor], kind: str) -> bool:
    """Whether the weights of a "clip" or "sam" are those of all its towers."""
    return all(any(name.startswith(tower) for name in encoder) for tower in TOWERS[kind])


def check_fit(
    source: str, naming: Naming, trained: Part, frozen: Mapping[str, Part], report: LoadReport
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
        fixes.append(
            _levels_fix(trained) or _part_fix(trained) or "Use the configuration that it was trained with"
        )
    if fixes:
        raise WeightsError(
            f"{source} does not fit the model: {report}. {'. '.join(fixes)}, or load with strict=False to keep "
            "what the model has for the rest"
        )


def check_own_clip(contents: Contents, naming: Naming, model: TrainedModel, report: LoadReport) -> None:
    """A model whose CLIP is trained gets it with its weights, or starts from weights that were made for the CLIP that
    it has."""
    if naming in RAW or not any(name.startswith(OWN_CLIP_PREFIX) for name in model.trained_state_dict()):
        return
    if report.clip.loaded and report.clip.fits:
        return
    encoders = model.frozen_encoders() if isinstance(model, ModelWithEncoders) else {}
    made_for = set(contents.metadata.get(ENCODERS_KEY, {}).values())
    if report.clip == PartReport() and "clip" in encoders and encoders["clip"].weights_hash in made_for:
        return
    raise WeightsError(
        f"{contents.source} holds no whole CLIP for this model, whose trunk is trained ({report.clip}): give weights "
        "that were saved with MODEL.CMPF.CLIP.TRAINED trunk or made for the CLIP of MODEL.CMPF.CLIP.PRETRAINED, set "
        "MODEL.CMPF.CLIP.TRAINED none, or load with strict=False to keep the CLIP that the model has"
    )


def check_use(source: str, report: LoadReport) -> None:
    """Weights without a place are a sign of another configuration, or of a plug-in that is missing."""
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
    """The published SAM branch has weights for three levels, ours for one."""
    given, own = trained.given.get(SAM_LEVELS), trained.own.get(SAM_LEVELS)
    if given is None or own is None or len(given) == len(own):
        return ""
    levels = len(given) if len(given) > 1 else 0
    return (
        f"Its SAM branch has weights for {len(given)} levels and the model's for {len(own)}: set "
        f"MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS {levels}"
    )


def _part_fix(trained: Part) -> str:
    """Whole parts that the model has and the file lacks."""
    fixes = [
        f"It has no {title}: set {option} {value}"
        for prefix, (title, option, _, value) in PARTS.items()
        if any(name.startswith(prefix) for name in trained.report.missing)
    ]
    return ". ".join(fixes)


def check_injectors(source: str, naming: Naming, model: TrainedModel) -> None:
    if naming in WITHOUT_SAM and isinstance(model, ModelWithEncoders) and model.uses_sam:
        raise WeightsError(
            f"{source} has {naming.value}'s weights, which know neither SAM nor injectors, and this model has them on. "
            f"Set {NO_INJECTORS}, or load with strict=False to start the SAM branch and the injectors from scratch"
        )


def check_hashes(contents: Contents, model: TrainedModel) -> None:
    """Weights mean something only together with the frozen encoders that they were trained on.

    Contents decide, not names: a converted file may not know what its encoders are called.
    """
    trained_with: Mapping[str, str] = contents.metadata.get(ENCODERS_KEY, {})
    if not trained_with:
        return
    here = model.encoder_hashes()
    _check_activation(contents.source, trained_with, here)
    if isinstance(model, ModelWithEncoders):  # weights to start from, where CLIP is trained on
        here = {kind: encoder.weights_hash for kind, encoder in model.frozen_encoders().items()} | here
    if set(trained_with.values()) <= set(here.values()):
        return

    def described(encoders: Mapping[str, str]) -> str:
        return ", ".join(f"{name} (hash {content[:12]})" for name, content in encoders.items()) or "none"

    raise WeightsError(
        f"{contents.source} was trained with the encoders {described(trained_with)}; this model has "
        f"{described(here)}. Set MODEL.CMPF.CLIP and MODEL.CMPF.SAM to the former, or load with "
        "strict=False to go on with the latter"
    )


def _check_activation(source: str, trained_with: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Of one content there may be two models, which compute GELU and QuickGELU; only their names tell."""
    names = {content: name for name, content in here.items()}
    for name, content in trained_with.items():
        ours = names.get(content, name)
        if "/" in name and name.endswith(QUICKGELU) != ours.endswith(QUICKGELU):
            theirs, computed = ("QuickGELU", "GELU") if name.endswith(QUICKGELU) else ("GELU", "QuickGELU")
            raise WeightsError(
                f"{source} was trained with {name}, whose CLIP computes {theirs}; that of this model, {ours}, computes "
                f"{computed} with the same weights. Set {OPTIONS['clip']} {name.partition('/')[2]}"
            )


@dataclass(frozen=True)
class PartReport:
    """What became of the weights of one part of a model.

    loaded: names now in the model. missing: in the model, not in the file. unexpected: in the file only.
    mismatched: "name: shape in the file, shape in the model".
    """

    loaded: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the file has every weight of the part, in its shape."""
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
    """What became of each weight of a file; the lists of PartReport are those of the trained part.

    clip, sam: frozen encoders that the file brought; empty where it brought none. ignored: entries of the file
    that are no weights of the network (the criterion's class weights, preprocessing constants, a second CLIP that a
    trained one was compared with).
    naming: whose names the file uses.
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
            lines.append(f"{len(self.ignored)} ignored: {_by_start(self.ignored)}")
        text = "; ".join(lines)
        return text if self.naming == "own" else f"{self.naming} naming: {text}"


@dataclass(frozen=True)
class Part:
    """One part of a model and what a file has for it."""

    given: dict[str, Tensor]
    own: Mapping[str, Tensor]
    report: PartReport

    @property
    def foreign(self) -> bool:
        """Whether the file's weights are those of another architecture, of which none is taken."""
        return bool(self.own and self.given) and not self.report.loaded


def compare(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> PartReport:
    """What loading `given` into `own` would do, by names and shapes."""
    mismatched = {n for n in own if n in given and given[n].shape != own[n].shape}
    return PartReport(
        loaded=tuple(n for n in own if n in given and n not in mismatched),
        missing=tuple(n for n in own if n not in given),
        unexpected=tuple(n for n in given if n not in own),
        mismatched=tuple(
            f"{n}: {_shape(given[n])} in the file, {_shape(own[n])} here" for n in own if n in mismatched
        ),
    )


def _by_start(names: tuple[str, ...]) -> str:
    """Names, those of one module as its name and their number: a second CLIP has hundreds."""
    counts = Counter(name.partition(".")[0] for name in names)
    return first_few(
        tuple(
            f"{count} of {start}.*" if count > 1 else next(n for n in names if n.partition(".")[0] == start)
            for start, count in counts.items()
        )
    )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
