# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Whose names the entries of a state dict bear, and the same entries under the names that CMPF uses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from torch import Tensor

from cmpf.errors import WeightsError


class Naming(Enum):
    """Who named the entries.

    OWN: CMPF, the trained part alone or the whole model. FROZENSEG: the published model.
    FCCLIP: FC-CLIP, which FrozenSeg was built on: the same names without the SAM branch, the Feature Injectors and SAM
    itself. MASK_ADAPTER, MAFTP, OVRCOAT: FC-CLIP's names and their own. OPENCLIP: OpenCLIP's own models.
    SAM: segment-anything's own models, and MobileSAM's.
    """

    OWN = "CMPF"
    FROZENSEG = "FrozenSeg"
    FCCLIP = "FC-CLIP"
    MASK_ADAPTER = "Mask-Adapter"
    MAFTP = "MAFT+"
    OVRCOAT = "OVRCOAT"
    OPENCLIP = "OpenCLIP"
    SAM = "segment-anything"


@dataclass(frozen=True)
class Parts:
    """A state dict, taken apart and renamed.

    trained: under the names of CMPF.trained_state_dict(). A name that no rule of the published naming knows
        stays as it is, so that whoever loads it can report it.
    clip: under OpenCLIP's own names. sam: under segment-anything's own names.
    ignored: names, as they were, of what is known to hold nothing that a model needs.
    naming: who named the entries.
    """

    trained: dict[str, Tensor]
    clip: dict[str, Tensor]
    sam: dict[str, Tensor]
    ignored: tuple[str, ...] = ()
    naming: Naming = Naming.OWN


CLIP_PREFIX, SAM_PREFIX = "backbone.clip_model.", "sam."
OWN_CLIP_PREFIX, OWN_SAM_PREFIX, OWN_FROZEN_PREFIX = "encoders.clip.model.", "encoders.sam.sam.", "encoders."
OWN_PREFIXES = ("pixel_decoder.", "sam_branch.", "decoder.", "naming.", OWN_FROZEN_PREFIX)
SAM_PREFIXES = ("image_encoder.", "prompt_encoder.", "mask_decoder.")
OPENCLIP_PREFIXES = ("visual.", "text.", "token_embedding.", "transformer.resblocks.")
PARALLEL_PREFIX = "module."  # torch's DistributedDataParallel puts it before every name
VOID = "void_embedding.weight"
# What only one method has.
_METHODS = {
    "mask_adapter.": Naming.MASK_ADAPTER,
    "cdt.": Naming.MAFTP,
    "backbone_t.": Naming.MAFTP,
    "frozen_backbone.": Naming.OVRCOAT,
}
FOREIGN_HEAD = "sem_seg_head.predictor.class_embed.weight"  # a fixed list of classes instead of an MLP
# Weights of the loss, constants of the pixels' normalization; numbers that OpenAI's archives carry; the CLIP that a
# trained one was compared with.
NEEDLESS = re.compile(
    r"criterion\..*|(sam_)?pixel_(mean|std)|input_resolution|context_length|vocab_size|"
    r"(frozen_backbone|backbone_t)\..*"
)

# Published name -> ours, without the shared prefixes; "#" stands for a number, "*" for the rest of a name.
_DEFORMABLE_LAYER = (
    ("self_attn.sampling_offsets.*", "attention.sampling_offsets.*"),
    ("self_attn.attention_weights.*", "attention.attention_weights.*"),
    ("self_attn.value_proj.*", "attention.value_projection.*"),
    ("self_attn.output_proj.*", "attention.output_projection.*"),
    ("norm1.*", "norm.*"),
    ("linear1.*", "feed_forward.linear1.*"),
    ("linear2.*", "feed_forward.linear2.*"),
    ("norm2.*", "feed_forward.norm.*"),
)
_PIXEL_DECODER = (
    ("input_proj.0.#.*", "pixel_decoder.input_projections.res5.#.*"),
    ("input_proj.1.#.*", "pixel_decoder.input_projections.res4.#.*"),
    ("input_proj.2.#.*", "pixel_decoder.input_projections.res3.#.*"),
    ("transformer.level_embed", "pixel_decoder.encoder.level_embedding"),
    *(
        (f"transformer.encoder.layers.#.{theirs}", f"pixel_decoder.encoder.layers.#.{ours}")
        for theirs, ours in _DEFORMABLE_LAYER
    ),
    ("adapter_1.weight", "pixel_decoder.lateral.0.weight"),
    ("adapter_1.norm.*", "pixel_decoder.lateral.1.*"),
    ("layer_1.weight", "pixel_decoder.output.0.weight"),
    ("layer_1.norm.*", "pixel_decoder.output.1.*"),
    ("mask_features.*", "pixel_decoder.mask_projection.*"),
)
_SAM_BRANCH = (
    ("fpn3.#.*", "sam_branch.reduction.#.*"),
    ("sam_transformer.level_embed", "sam_branch.encoder.level_embedding"),
    *(
        (f"sam_transformer.encoder.layers.#.{theirs}", f"sam_branch.encoder.layers.#.{ours}")
        for theirs, ours in _DEFORMABLE_LAYER
    ),
)
_FEATURE_INJECTORS = (
    (
        "transformer_cross_attention_layers_sam.#.multihead_attn.*",
        "decoder.feature_injectors.#.attention.attention.*",
    ),
    ("transformer_cross_attention_layers_sam.#.norm.*", "decoder.feature_injectors.#.attention.norm.*"),
)
_DECODER = (
    ("input_proj.#.*", "decoder.input_projections.#.*"),  # only where widths differ
    ("level_embed.weight", "decoder.level_embedding.weight"),
    ("query_feat.weight", "decoder.query_content.weight"),
    ("query_embed.weight", "decoder.query_position.weight"),
    (
        "transformer_cross_attention_layers.#.multihead_attn.*",
        "decoder.layers.#.cross_attention.attention.*",
    ),
    ("transformer_cross_attention_layers.#.norm.*", "decoder.layers.#.cross_attention.norm.*"),
    ("transformer_self_attention_layers.#.self_attn.*", "decoder.layers.#.self_attention.attention.*"),
    ("transformer_self_attention_layers.#.norm.*", "decoder.layers.#.self_attention.norm.*"),
    ("transformer_ffn_layers.#.*", "decoder.layers.#.feed_forward.*"),
    ("decoder_norm.*", "decoder.head.norm.*"),
    ("mask_embed.*", "decoder.head.mask_mlp.*"),
    ("_mask_pooling_proj.#.*", "decoder.head.pool_projection.#.*"),
    ("class_embed.*", "decoder.head.class_mlp.*"),
    ("logit_scale", "decoder.head.logit_scale"),
)
_MASK_ADAPTER = (
    ("mask_downscaling.#.*", "mask_encoder.#.*"),
    ("fuse.*", "fuse.*"),
    *(
        (f"cnext{index + 1}.{theirs}", f"blocks.{index}.{ours}")
        for index in range(3)
        for theirs, ours in (
            ("gamma", "gamma"),
            ("dwconv.*", "depthwise.*"),
            ("norm.*", "norm.*"),
            ("pwconv1.*", "expand.*"),
            ("pwconv2.*", "contract.*"),
        )
    ),
    ("norm.*", "norm.*"),
    ("final.*", "to_maps.*"),
)
_TEXT_TRANSFER = (
    ("multihead_attn.*", "attention.*"),
    ("MLP.*", "mlp.*"),
    ("norm.*", "norm.*"),
)


def _under(prefix: str, rules: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return _both_under(prefix, "", rules)


def _both_under(prefix: str, own: str, rules: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(prefix + theirs, own + ours) for theirs, ours in rules]


_SAM_RULES = [
    *_under("sem_seg_head.pixel_decoder.", _SAM_BRANCH),
    *_under("sem_seg_head.predictor.", _FEATURE_INJECTORS),
]
_RULES = [
    *_under("sem_seg_head.pixel_decoder.", _PIXEL_DECODER),
    *_under("sem_seg_head.predictor.", _DECODER),
    *_SAM_RULES,
    *_both_under("mask_adapter.", "naming.mask_adapter.", _MASK_ADAPTER),
    *_both_under("cdt.cross_atten.", "naming.text_transfer.", _TEXT_TRANSFER),
    (VOID, VOID),
]


def _compile(source: str, target: str) -> tuple[re.Pattern[str], str]:
    """A pattern of the source's names, and the template of the target's name for Match.expand."""
    pattern = re.escape(source).replace(r"\#", r"(\d+)").replace(r"\*", r"([\w.]+)")
    groups = iter(range(1, 1 + len(re.findall(r"[#*]", target))))
    return re.compile(pattern), re.sub(r"[#*]", lambda _: rf"\{next(groups)}", target)


_FROM_PUBLISHED = [_compile(theirs, ours) for theirs, ours in _RULES]
_TO_PUBLISHED = [_compile(ours, theirs) for theirs, ours in _RULES]
_OF_SAM = [_compile(theirs, ours) for theirs, ours in _SAM_RULES]


def _rename(name: str, rules: Iterable[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, template in rules:
        if match := pattern.fullmatch(name):
            return match.expand(template)
    return None


def detect_naming(names: Iterable[str]) -> Naming:
    """Who named the entries of a state dict.

    Raises:
        WeightsError: nobody that CMPF knows.
    """
    found = _without_parallel(list(names))

    def any_in(prefixes: str | tuple[str, ...]) -> bool:
        return any(name.startswith(prefixes) for name in found)

    if FOREIGN_HEAD not in found:
        if any_in(SAM_PREFIX) or any(_rename(name, _OF_SAM) for name in found):
            return Naming.FROZENSEG
        if method := next((method for start, method in _METHODS.items() if any_in(start)), None):
            return method
        published = any(name != VOID and _rename(name, _FROM_PUBLISHED) for name in found)
        if published or any_in(CLIP_PREFIX):
            return Naming.FCCLIP
        if any_in(OWN_PREFIXES) or VOID in found:
            return Naming.OWN
        if any_in(SAM_PREFIXES):
            return Naming.SAM
        if any_in(OPENCLIP_PREFIXES):
            return Naming.OPENCLIP
    start = f"{', '.join(found[:3])}, ..." if found else "it is empty"
    raise WeightsError(
        f"a state dict of no kind that CMPF knows ({start}). It reads the weights of "
        f"{', '.join(naming.value for naming in Naming)}; an open-vocabulary head has no entry {FOREIGN_HEAD}"
    )


def split(state: Mapping[str, Tensor]) -> Parts:
    """Takes a state dict of any naming apart. Tensors are passed on, not copied.

    Raises:
        WeightsError: nobody that CMPF knows named the entries.
    """
    parts = Parts(trained={}, clip={}, sam={}, naming=detect_naming(state))
    ignored = []
    for name, short in zip(state, _without_parallel(list(state)), strict=True):
        place = _place(short, parts)
        if place is None:
            ignored.append(name)
        else:
            place[0][place[1]] = state[name]
    return replace(parts, ignored=tuple(ignored))


def to_published(parts: Parts) -> dict[str, Tensor]:
    """The state dict under FrozenSeg's names: the inverse of `split` but for what that ignored.

    Raises:
        WeightsError: a trained weight has no published name, because the published model lacks that part.
    """
    published: dict[str, Tensor] = {}
    nameless = []
    for name, value in parts.trained.items():
        theirs = _rename(name, _TO_PUBLISHED)
        if theirs is None:
            nameless.append(name)
        else:
            published[theirs] = value
    if nameless:
        raise WeightsError(
            f"{len(nameless)} weights have no published name: {', '.join(nameless[:5])}. The published model "
            "has no such part; save the checkpoint under CMPF's own names"
        )
    published.update({CLIP_PREFIX + name: value for name, value in parts.clip.items()})
    published.update({SAM_PREFIX + name: value for name, value in parts.sam.items()})
    return published


def _place(name: str, parts: Parts) -> tuple[dict[str, Tensor], str] | None:
    """The part that an entry belongs to and its name there; None = nothing that a model needs."""
    if NEEDLESS.fullmatch(name):
        return None
    if parts.naming is Naming.OPENCLIP:
        return parts.clip, name
    if parts.naming is Naming.SAM:
        return parts.sam, name
    own = parts.naming is Naming.OWN
    clip, sam = (OWN_CLIP_PREFIX, OWN_SAM_PREFIX) if own else (CLIP_PREFIX, SAM_PREFIX)
    if name.startswith(clip):
        return parts.clip, name.removeprefix(clip)
    if name.startswith(sam):
        return parts.sam, name.removeprefix(sam)
    if own:  # the rest of the frozen half is a second SAM, for mask proposals
        return None if name.startswith(OWN_FROZEN_PREFIX) else (parts.trained, name)
    return parts.trained, _rename(name, _FROM_PUBLISHED) or name


def _without_parallel(names: list[str]) -> list[str]:
    if names and all(name.startswith(PARALLEL_PREFIX) for name in names):
        return [name.removeprefix(PARALLEL_PREFIX) for name in names]
    return names
