# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Published names and ours, entry by entry."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.published import CLASS_WEIGHTS, published_shapes, published_state
from torch import Tensor

from cmpf.config import get_cfg
from cmpf.errors import WeightsError
from cmpf.factory.model import build_decoder, build_pixel_decoder, build_sam_branch
from cmpf.weights.key_mapping import Naming, Parts, detect_naming, split, to_published

MODELS = ["convnext_large", "r50x64"]
# Channels of res2..res5 and E of the two published CLIPs.
CLIPS: dict[str, tuple[tuple[int, ...], int]] = {
    "convnext_large": ((192, 384, 768, 1536), 768),
    "r50x64": ((512, 1024, 2048, 4096), 1024),
}
SAM_MARKS = ("sam_transformer", "fpn3", "_layers_sam")


def own_shapes(model: str, *, sam: bool = True) -> dict[str, tuple[int, ...]]:
    """Names and shapes of CMPF.trained_state_dict() at full size, from modules on the meta device."""
    channels, embed_dim = CLIPS[model]
    levels = dict(zip(("res2", "res3", "res4", "res5"), channels, strict=True))
    clip: Any = SimpleNamespace(channels=levels, embed_dim=embed_dim)
    encoder: Any = SimpleNamespace(embed_channels=256) if sam else None
    switches = [] if sam else ["MODEL.CMPF.SAM.NAME", "", *no_injectors()]
    cfg = get_cfg(None, ["MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS", 3 if sam else 0, *switches])
    with torch.device("meta"):
        parts = {
            "pixel_decoder": build_pixel_decoder(cfg, clip),
            "sam_branch": build_sam_branch(cfg, encoder),
            "decoder": build_decoder(cfg, clip, encoder),
            "void_embedding": torch.nn.Embedding(1, embed_dim),
        }
    return {
        f"{part}.{name}": tuple(value.shape)
        for part, module in parts.items()
        if module is not None
        for name, value in module.state_dict().items()
    }


def no_injectors() -> list[object]:
    return ["MODEL.CMPF.QUERY_INJECTOR.ENABLED", False, "MODEL.CMPF.FEATURE_INJECTOR.ENABLED", False]


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


def without_sam(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is left of a published FrozenSeg state dict in an FC-CLIP one."""
    return {
        name: value
        for name, value in state.items()
        if not name.startswith("sam.") and not any(mark in name for mark in SAM_MARKS)
    }


@pytest.mark.parametrize("model", MODELS)
def test_every_published_name_is_one_of_ours_with_its_shape_and_none_of_ours_is_missing(model: str) -> None:
    parts = split(published_state(model))
    assert shapes(parts.trained) == own_shapes(model)
    assert parts.ignored == (CLASS_WEIGHTS,)
    frozen = published_shapes(model)["frozen"]
    assert shapes(parts.clip) == {
        name.removeprefix("backbone.clip_model."): shape
        for name, shape in frozen.items()
        if name.startswith("backbone.")
    }
    assert shapes(parts.sam) == {
        name.removeprefix("sam."): shape for name, shape in frozen.items() if name.startswith("sam.")
    }
    assert len(parts.clip) + len(parts.sam) == len(frozen)


def test_the_published_decoder_has_26_497_153_weights_without_the_134_class_weights() -> None:
    trained = split(published_state("convnext_large")).trained
    assert sum(value.numel() for value in trained.values()) == 26_497_153
    assert published_shapes("convnext_large")["trained"][CLASS_WEIGHTS] == (134,)  # 133 classes and void


@pytest.mark.parametrize("model", MODELS)
def test_to_published_is_the_inverse_of_split(model: str) -> None:
    state = published_state(model)
    back = to_published(split(state))
    assert set(back) == set(state) - {CLASS_WEIGHTS}
    assert all(back[name] is state[name] for name in back)
    again = split(back)
    assert list(again.trained) == list(split(state).trained)
    assert again.ignored == ()


def test_fc_clip_is_the_published_model_without_its_sam_entries() -> None:
    state = without_sam(published_state("r50x64"))
    assert detect_naming(state) is Naming.FCCLIP
    parts = split(state)
    assert shapes(parts.trained) == own_shapes("r50x64", sam=False)
    assert parts.sam == {}
    assert set(to_published(parts)) == set(state) - {CLASS_WEIGHTS}


def test_each_naming_is_told_from_the_others() -> None:
    published = published_state("convnext_large")
    parts = split(published)
    assert detect_naming(published) is Naming.FROZENSEG
    assert detect_naming(parts.trained) is Naming.OWN
    assert detect_naming(own_shapes("r50x64", sam=False)) is Naming.OWN
    assert detect_naming(parts.clip) is Naming.OPENCLIP
    assert detect_naming(parts.sam) is Naming.SAM
    assert detect_naming(split(published_state("r50x64")).clip) is Naming.OPENCLIP
    # A decoder with the SAM branch and without SAM's own weights is FrozenSeg's all the same.
    assert detect_naming(n for n in published if not n.startswith("sam.")) is Naming.FROZENSEG
    assert detect_naming(["backbone.clip_model.visual.conv1.weight"]) is Naming.FCCLIP


@pytest.mark.parametrize(
    ("naming", "names", "part"),
    [
        (Naming.OPENCLIP, ["visual.trunk.stem.0.weight", "logit_scale", "text.ln_final.weight"], "clip"),
        (Naming.SAM, ["image_encoder.pos_embed", "mask_decoder.iou_token.weight"], "sam"),
        # MobileSAM: TinyViT's names below image_encoder
        (
            Naming.SAM,
            ["image_encoder.layers.0.blocks.0.conv1.c.weight", "image_encoder.neck.0.weight"],
            "sam",
        ),
    ],
)
def test_raw_weights_keep_their_own_names(naming: Naming, names: list[str], part: str) -> None:
    state = {name: torch.zeros(1) for name in names}
    assert detect_naming(state) is naming
    assert list(getattr(split(state), part)) == names


def test_numbers_in_openais_archives_are_ignored() -> None:
    names = ["visual.conv1.weight", "input_resolution", "context_length", "vocab_size"]
    parts = split({name: torch.zeros(()) for name in names})
    assert list(parts.clip) == names[:1]
    assert parts.ignored == tuple(names[1:])


def test_our_whole_model_is_split_into_trained_and_frozen_parts() -> None:
    names = [
        "decoder.query_content.weight",
        "encoders.clip.model.visual.conv1.weight",
        "encoders.sam.sam.image_encoder.pos_embed",
        "encoders.mask_source.proposer.encoder.sam.image_encoder.pos_embed",
    ]
    parts = split({name: torch.zeros(1) for name in names})
    assert list(parts.trained) == names[:1]
    assert list(parts.clip) == ["visual.conv1.weight"]
    assert list(parts.sam) == ["image_encoder.pos_embed"]
    assert parts.ignored == (names[3],)


def test_the_prefix_of_distributed_training_is_dropped() -> None:
    state = published_state("convnext_large")
    wrapped = split({f"module.{name}": value for name, value in state.items()})
    assert list(wrapped.trained) == list(split(state).trained)
    assert wrapped.ignored == (f"module.{CLASS_WEIGHTS}",)


def test_a_published_name_that_no_rule_knows_stays_to_be_reported() -> None:
    strange = "sem_seg_head.predictor.something_else.weight"
    parts = split({"sem_seg_head.predictor.query_feat.weight": torch.zeros(1), strange: torch.zeros(1)})
    assert list(parts.trained) == ["decoder.query_content.weight", strange]


def test_where_widths_differ_the_decoders_input_projections_have_published_names_too() -> None:
    state = {"decoder.input_projections.1.weight": torch.zeros(1)}
    published = to_published(Parts(trained=state, clip={}, sam={}, ignored=()))
    assert list(published) == ["sem_seg_head.predictor.input_proj.1.weight"]
    assert split(published).trained == state


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["backbone.stem.conv1.weight"],
        # Mask2Former: the same pixel decoder, a linear layer over its own classes
        ["sem_seg_head.pixel_decoder.adapter_1.weight", "sem_seg_head.predictor.class_embed.weight"],
    ],
    ids=["empty", "foreign", "Mask2Former"],
)
def test_foreign_state_dicts_are_refused_with_what_is_known(names: list[str]) -> None:
    with pytest.raises(
        WeightsError,
        match=r"no kind that CMPF knows.*FrozenSeg, FC-CLIP, Mask-Adapter, MAFT\+, OVRCOAT, OpenCLIP",
    ):
        detect_naming(names)


def test_a_weight_without_a_published_name_is_named() -> None:
    state = {"decoder.query_injector.input_projection.weight": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"1 weights have no published name: decoder.query_injector"):
        to_published(Parts(trained=state, clip={}, sam={}, ignored=()))
