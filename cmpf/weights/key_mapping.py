# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Detects the parameter naming of a state dict and renames its entries to and from CMPF's names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from torch import Tensor

from cmpf.errors import WeightsError


class Naming(Enum):
    """The project whose parameter names a state dict uses.

    Attributes:
        OWN: CMPF, the trained part alone or the whole model.
        FROZENSEG: the published model.
        FCCLIP: FC-CLIP, the base of FrozenSeg: the same names without SAM, the SAM branch and the Feature Injectors.
        MASK_ADAPTER, MAFTP, OVRCOAT: FC-CLIP's names and additional ones.
        OPENCLIP: OpenCLIP's models.
        SAM: segment-anything's models, and MobileSAM's.
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
    """A state dict, split into parts and renamed.

    Attributes:
        trained: trained weights under the names of CMPF.trained_state_dict(). Names that no rule matches are kept
            unchanged, so that loading can report them.
        clip: CLIP's weights under OpenCLIP's names.
        sam: SAM's weights under segment-anything's names.
        ignored: original names of entries that no model needs.
        naming: the detected naming.
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
PARALLEL_PREFIX = "module."  # added to every name by DistributedDataParallel
VOID = "void_embedding.weight"
# Prefixes that only one method has.
_METHOD_PREFIXES = {
    "mask_adapter.": Naming.MASK_ADAPTER,
    "cdt.": Naming.MAFTP,
    "backbone_t.": Naming.MAFTP,
    "frozen_backbone.": Naming.OVRCOAT,
}
FOREIGN_HEAD = "sem_seg_head.predictor.class_embed.weight"  # a fixed list of classes instead of an MLP
# Class weights of the criterion, constants of the normalization and of OpenAI's archives, the frozen copy of a tuned
# CLIP.
IGNORED = re.compile(
    r"criterion\..*|(sam_)?pixel_(mean|std)|input_resolution|context_length|vocab_size|"
    r"(frozen_backbone|backbone_t)\..*"
)

# (published name, CMPF's name) without common prefixes; "#" matches a number, "*" the rest of a name.
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
    ("input_proj.#.*", "decoder.input_projections.#.*"),  # only if the widths differ
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


def _prefixed(rules: Iterable[tuple[str, str]], *, published: str, own: str = "") -> list[tuple[str, str]]:
    return [(published + theirs, own + ours) for theirs, ours in rules]


_SAM_RULES = [
    *_prefixed(_SAM_BRANCH, published="sem_seg_head.pixel_decoder."),
    *_prefixed(_FEATURE_INJECTORS, published="sem_seg_head.predictor."),
]
_RULES = [
    *_prefixed(_PIXEL_DECODER, published="sem_seg_head.pixel_decoder."),
    *_prefixed(_DECODER, published="sem_seg_head.predictor."),
    *_SAM_RULES,
    *_prefixed(_MASK_ADAPTER, published="mask_adapter.", own="naming.mask_adapter."),
    *_prefixed(_TEXT_TRANSFER, published="cdt.cross_atten.", own="naming.text_transfer."),
    (VOID, VOID),
]


def _compile(source: str, target: str) -> tuple[re.Pattern[str], str]:
    """A pattern that matches source names, and a template of the target name for Match.expand."""
    pattern = re.escape(source).replace(r"\#", r"(\d+)").replace(r"\*", r"([\w.]+)")
    groups = iter(range(1, 1 + len(re.findall(r"[#*]", target))))
    return re.compile(pattern), re.sub(r"[#*]", lambda _: rf"\{next(groups)}", target)


_FROM_PUBLISHED = [_compile(theirs, ours) for theirs, ours in _RULES]
_TO_PUBLISHED = [_compile(ours, theirs) for theirs, ours in _RULES]
_SAM_FROM_PUBLISHED = [_compile(theirs, ours) for theirs, ours in _SAM_RULES]


def _rename(name: str, rules: Iterable[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, template in rules:
        if match := pattern.fullmatch(name):
            return match.expand(template)
    return None


def detect_naming(names: Iterable[str]) -> Naming:
    """The naming of a state dict.

    Raises:
        WeightsError: the names belong to no known project.
    """
    names = without_parallel_prefix(list(names))

    def any_with(prefixes: str | tuple[str, ...]) -> bool:
        return any(name.startswith(prefixes) for name in names)

    if FOREIGN_HEAD not in names:
        if any_with(SAM_PREFIX) or any(_rename(name, _SAM_FROM_PUBLISHED) for name in names):
            return Naming.FROZENSEG
        if method := next((method for prefix, method in _METHOD_PREFIXES.items() if any_with(prefix)), None):
            return method
        published = any(name != VOID and _rename(name, _FROM_PUBLISHED) for name in names)
        if published or any_with(CLIP_PREFIX):
            return Naming.FCCLIP
        if any_with(OWN_PREFIXES) or VOID in names:
            return Naming.OWN
        if any_with(SAM_PREFIXES):
            return Naming.SAM
        if any_with(OPENCLIP_PREFIXES):
            return Naming.OPENCLIP
    examples = f"{', '.join(names[:3])}, ..." if names else "it is empty"
    raise WeightsError(
        f"a state dict of no kind that CMPF knows ({examples}). It reads the weights of "
        f"{', '.join(naming.value for naming in Naming)}; an open-vocabulary head has no entry {FOREIGN_HEAD}"
    )


def split(state: Mapping[str, Tensor]) -> Parts:
    """Splits a state dict of any known naming into parts, without copying tensors.

    Raises:
        WeightsError: the names belong to no known project.
    """
    parts = Parts(trained={}, clip={}, sam={}, naming=detect_naming(state))
    ignored = []
    for name, short in zip(state, without_parallel_prefix(list(state)), strict=True):
        target = _target(short, parts)
        if target is None:
            ignored.append(name)
        else:
            weights, own_name = target
            weights[own_name] = state[name]
    return replace(parts, ignored=tuple(ignored))


def to_published(parts: Parts) -> dict[str, Tensor]:
    """Renames parts to FrozenSeg's names: the inverse of `split`, without ignored entries.

    Raises:
        WeightsError: the published model lacks a part, so that its weights have no published name.
    """
    published: dict[str, Tensor] = {}
    unnamed = []
    for name, value in parts.trained.items():
        theirs = _rename(name, _TO_PUBLISHED)
        if theirs is None:
            unnamed.append(name)
        else:
            published[theirs] = value
    if unnamed:
        raise WeightsError(
            f"{len(unnamed)} weights have no published name: {', '.join(unnamed[:5])}. The published model "
            "has no such part; save the checkpoint under CMPF's own names"
        )
    published.update({CLIP_PREFIX + name: value for name, value in parts.clip.items()})
    published.update({SAM_PREFIX + name: value for name, value in parts.sam.items()})
    return published


def _target(name: str, parts: Parts) -> tuple[dict[str, Tensor], str] | None:
    """The part that an entry belongs to and its name there; None = no model needs it."""
    if IGNORED.fullmatch(name):
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
    if own:  # other encoders: the SAM that generates masks
        return None if name.startswith(OWN_FROZEN_PREFIX) else (parts.trained, name)
    return parts.trained, _rename(name, _FROM_PUBLISHED) or name


def without_parallel_prefix(names: list[str]) -> list[str]:
    """The names without DistributedDataParallel's prefix, if all of them have it."""
    if names and all(name.startswith(PARALLEL_PREFIX) for name in names):
        return [name.removeprefix(PARALLEL_PREFIX) for name in names]
    return names
